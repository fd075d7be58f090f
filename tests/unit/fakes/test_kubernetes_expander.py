"""The expander reads YAML as Kubernetes does, launch's values reach a container unchanged, and a broken spec is noticed."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.job import Job
from launch.kubernetes import spec
from tests.fakes.kubernetes import expander
from tests.support import namespaces
from tests.support.commands import run

PATHS = ("--data_dir=/gcs/b/d", "--job_dir=/gcs/b/j")


def rendered(**fields):
    """Returns the text that launch prints for a job of two workers."""
    defaults: dict[str, Any] = {"arguments": PATHS, "image": "i", "name": "film", "workers": 2}
    job = Job(**(defaults | fields))
    return spec.to_yaml(spec.specify(job, name="film-1"))


def changed(change, *, unchecked=True, **fields):
    """Returns the manifest of a job whose objects were changed."""
    objects = list(yaml.safe_load_all(rendered(**fields)))
    change(*objects)
    return expander.load(yaml.safe_dump_all(objects), check_rules=not unchecked)


def pod_of(job):
    return job["spec"]["template"]["spec"]


# Cases of $(NAME) and $$ from the documentation of Kubernetes, and corner cases from its own tests.
EXPANSIONS = [
    ("$(A)", "a"),
    ("x$(A)-$(A)y", "xa-ay"),
    ("$(REFERENCE)", "$(A)"),
    ("x$(EMPTY)y", "xy"),
    ("$(NONE)", "$(NONE)"),
    ("$()", "$()"),
    ("$$(A)", "$(A)"),
    ("$$A", "$A"),
    ("$$$(A)", "$a"),
    ("$$$$(A)", "$$(A)"),
    ("$$$$$(NONE)", "$$$(NONE)"),
    ("$A ${A} $? $", "$A ${A} $? $"),
    ("\\$(A)", "\\a"),
    ("$(A", "$(A"),
    ("$(A$$", "$(A$"),
    ("$(A) $(", "a $("),
    ("$($(A))", "$($(A))"),
    ("$(A$$B)", "$(A$$B)"),
    ("$(\n)\n", "$(\n)\n"),
]


@pytest.mark.parametrize(("text", "expanded"), EXPANSIONS)
def test_variables_are_expanded_as_in_kubernetes(text, expanded):
    assert expander.expand(text, {"A": "a", "EMPTY": "", "REFERENCE": "$(A)"}) == expanded


def test_variables_may_refer_to_earlier_ones_and_arguments_to_all():
    def change(job, service):
        container = pod_of(job)["containers"][0]
        container["env"] += [{"name": "ONE", "value": "$(POSTER_JOB_ID) $(TWO)"}, {"name": "TWO", "value": "$(ONE)"}]
        container["args"] = ["$(TWO)", "$(JOB_COMPLETION_INDEX)", "$(KUBERNETES_SERVICE_PORT)", "$(HOSTNAME)", "$(PATH)"]

    pod = changed(change).pod("film-1", 1)
    assert (pod.environment["ONE"], pod.environment["TWO"]) == ("film-1 $(TWO)", "film-1 $(TWO)")
    # A node does not know the variables that the container runtime and the image add.
    assert pod.command[-5:] == ("film-1 $(TWO)", "1", "443", "$(HOSTNAME)", "$(PATH)")


def test_the_pods_of_a_job():
    manifest = expander.load(rendered(env={"COLOUR": "red"}))
    pods = manifest.pods()
    assert [(pod.hostname, pod.subdomain, pod.index) for pod in pods] == [("film-1-0", "film-1", 0), ("film-1-1", "film-1", 1)]
    assert pods[1].environment == expander.CLUSTER_VARIABLES | {
        "POSTER_JOB_ID": "film-1",
        "POSTER_WORKERS": "2",
        "POSTER_SERVICE": "film-1",
        "POSTER_PORT": "2222",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "COLOUR": "red",
        "JOB_COMPLETION_INDEX": "1",
        "HOSTNAME": "film-1-1",
    }
    assert pods[0].command == ("python", "-m", "trainer.guard", "--rejoin=30", "--peer_timeout=900", *PATHS)
    assert (pods[0].user, pods[0].group, pods[0].read_only, pods[0].bounded, pods[0].grace) == (1000, 1000, True, True, 17)
    assert {mount.path: mount.kind for mount in pods[0].mounts} == {"/tmp": "disk", "/dev/shm": "memory", "/gcs": "gcs"}


def test_the_pods_of_a_jobset_have_names_of_three_parts():
    pods = expander.load(rendered(jobset=True)).pods()
    assert [pod.hostname for pod in pods] == ["film-1-worker-0-0", "film-1-worker-0-1"]
    assert {pod.subdomain for pod in pods} == {"film-1"}


NASTY = [
    "$(HOME)",
    "$$(HOME)",
    "$$",
    "$",
    "costs $5 or $$5 or $(POSTER_JOB_ID)",
    "$(",
    "$($(HOME))",
    "ends in $",
    "`id` ${HOME} $HOME \\$(HOME)",
    "\"double\" 'single' \\ backslash",
    "two\nlines\n",
    "\n",
    "tab\tand  two blanks ",
    " begins with one",
    "# no comment: {a: [b]} & *c !d | > % @",
    "- item",
    "---",
    "null",
    "~",
    "yes",
    "0123",
    "1e3",
    "1234e56",
    "0o7",
    "0x1f",
    "1_000",
    ".5",
    "y",
    "N",
    "2026-11-24",
    "2026-1-4",
    "12:30:45",
    "=",
    "a=b=c",
    "{{jinja}} {0} %s",
    "éàü 日本 🎬 \u2028 \u00a0",
    "\u0085next line",
    "\u2029",
    "\ufeffmark",
    "\u0007\u007f\u0080",
    "carriage\r\nreturn",
    "x" * 5000,
]


@pytest.mark.parametrize("jobset", [False, True])
def test_a_users_values_reach_the_container_unchanged(jobset):
    arguments = (*PATHS, *(f"--cache={text}" for text in NASTY), "--cache", NASTY[0])
    variables = {f"V{number}": text for number, text in enumerate(NASTY)}
    for pod in expander.load(rendered(arguments=arguments, env=variables, jobset=jobset)).pods():
        assert pod.command[-len(arguments) :] == arguments
        assert variables.items() <= pod.environment.items()


def test_a_users_values_reach_the_container_through_the_command():
    texts = [text for text in NASTY if text.strip()]
    variables = [f"--env=V{number}={text}" for number, text in enumerate(texts)]
    arguments = [f"--data_dir=gs://b/{texts[0]}", f"--job_dir=gs://b/{texts[4]}", f"--cache={texts[10]}"]
    out = run("launch", "--target=kubernetes", "--dry_run", "--image=i", *variables, "--", *arguments).stdout
    (pod,) = expander.load(out).pods()
    assert [pod.environment[f"V{number}"] for number in range(len(texts))] == texts
    assert list(pod.command[-3:]) == arguments


def test_kubectl_reads_the_rendered_yaml_as_the_expander_does():
    """kubectl's YAML parser differs from PyYAML: for it, 1e3 is a number and y is true."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    variables = {f"V{number}": text for number, text in enumerate(NASTY)}
    job, _ = yaml.safe_load_all(rendered(env=variables, labels={"canary": "y", "commit": "1234e56"}))
    # The only kubectl command that reads a file and needs no cluster.
    text = rendered(env=variables, labels={"canary": "y", "commit": "1234e56"}).split("\n---\n")[0]
    command = ("kubectl", "label", "--local", "--filename=-", "--output=json", "canary=y", "--overwrite")
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["metadata"]["labels"] == job["metadata"]["labels"]
    ours, theirs = ({each["name"]: each.get("value", "") for each in pod_of(each)["containers"][0]["env"]} for each in (job, read))
    assert theirs == ours


def names(manifest, **state):
    pods = manifest.pods()
    endpoints = [expander.Endpoint(pod, f"10.0.0.{pod.index}", **state) for pod in pods]
    return expander.names(manifest.services, endpoints)


def peers(manifest):
    """Returns the host names by which the workers find each other, as documented for POSTER_SERVICE."""
    return [f"{pod.hostname}.{pod.environment['POSTER_SERVICE']}" for pod in manifest.pods()]


@pytest.mark.parametrize("fields", [{}, {"jobset": True}, {"namespace": "films"}])
@pytest.mark.parametrize("state", [{}, {"ready": False}, {"terminating": True}])
def test_workers_find_each_other_in_every_state_of_their_pods(fields, state):
    manifest = expander.load(rendered(**fields))
    found = names(manifest, **state)
    assert [found[peer] for peer in peers(manifest)] == ["10.0.0.0", "10.0.0.1"]
    assert f"{peers(manifest)[0]}.{fields.get('namespace', 'default')}.svc.cluster.local" in found


def set_in(fields, **values):
    for key, value in values.items():
        if value is None:
            del fields[key]
        else:
            fields[key] = value


# Changes after which workers do not find each other while their pods are not ready.
SEPARATIONS = {
    "publishNotReadyAddresses dropped": lambda job, service: set_in(service["spec"], publishNotReadyAddresses=None),
    "Service renamed": lambda job, service: set_in(service["metadata"], name="film"),
    "Service not headless": lambda job, service: set_in(service["spec"], clusterIP=None),
    "Service in another namespace": lambda job, service: set_in(service["metadata"], namespace="films"),
    "selector wrong": lambda job, service: set_in(service["spec"]["selector"], **{"app.kubernetes.io/instance": "film"}),
    "no selector": lambda job, service: set_in(service["spec"], selector=None),
    "no subdomain": lambda job, service: set_in(pod_of(job), subdomain=None),
    "other pod labels": lambda job, service: set_in(job["spec"]["template"]["metadata"], labels={}),
    "POSTER_SERVICE wrong": lambda job, service: set_in(pod_of(job)["containers"][0]["env"][2], value="film"),
}


@pytest.mark.parametrize("change", SEPARATIONS.values(), ids=SEPARATIONS)
def test_a_change_that_separates_the_workers_is_noticed(change):
    manifest = changed(change)
    found = names(manifest, ready=False)
    assert [peer for peer in peers(manifest) if peer not in found] == peers(manifest)
    with pytest.raises(expander.Invalid):  # The rules report it too.
        changed(change, unchecked=False)


def test_without_publish_not_ready_addresses_only_ready_pods_have_names():
    manifest = changed(SEPARATIONS["publishNotReadyAddresses dropped"])
    assert set(peers(manifest)) <= names(manifest).keys()
    assert names(manifest, terminating=True) == {}


def test_an_argument_without_doubled_dollars_is_expanded():
    def undone(job, service):
        container = pod_of(job)["containers"][0]
        container["args"] = [word.replace("$$", "$") for word in container["args"]]

    arguments = (*PATHS, "--cache=/tmp/$(HOME)")
    assert changed(lambda *_: None, arguments=arguments).pods()[0].command[-1] == "--cache=/tmp/$(HOME)"
    assert changed(undone, arguments=arguments).pods()[0].command[-1] == "--cache=/tmp//tmp"


def test_a_service_of_the_same_name_does_not_set_the_workers_port():
    other = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "poster"},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]},
    }
    text = rendered() + yaml.safe_dump(other, explicit_start=True)
    assert "POSTER_SERVICE_HOST" not in expander.load(text, check_rules=False).pods()[0].environment
    linked = text.replace("enableServiceLinks: false", "enableServiceLinks: true")
    environment = expander.load(linked, check_rules=False).pods()[0].environment
    assert (environment["POSTER_SERVICE_HOST"], environment["POSTER_PORT"]) == ("10.0.0.2", "2222")


REFUSED = {
    "an unknown field": (lambda job, service: set_in(job["spec"], backofLimit=1), "backofLimit"),
    "no such volume": (lambda job, service: set_in(pod_of(job), volumes=[]), "no volume tmp"),
    "root": (lambda job, service: set_in(pod_of(job)["securityContext"], runAsUser=0), "would run as root"),
    "a long name": (lambda job, service: set_in(job["metadata"], name="a" * 62), "is not a host name"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_objects_that_kubernetes_refuses_are_refused(change, says):
    with pytest.raises(expander.Invalid, match=re.escape(says)):
        changed(change).pods()


UNKNOWN = {
    "a container's field": lambda job, service: set_in(pod_of(job)["containers"][0], lifecycle={}),
    "a pod's field": lambda job, service: set_in(pod_of(job), hostNetwork=True),
    "a variable's source": lambda job, service: set_in(
        pod_of(job)["containers"][0]["env"][0], value=None, valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}
    ),
    "a volume": lambda job, service: set_in(pod_of(job)["volumes"][0], emptyDir=None, hostPath={"path": "/"}),
}


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_a_field_unknown_to_the_expander_is_an_error(change):
    with pytest.raises(NotImplementedError):
        changed(change).pods()


def test_the_fakes_share_no_code_with_launch_or_trainer():
    fakes, support = Path(expander.__file__).parent, Path(namespaces.__file__).parent
    for path in (*(fakes / f"{name}.py" for name in ("expander", "controllers", "node", "rules")), support / "namespaces.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) (launch|trainer)", text, re.MULTILINE)
