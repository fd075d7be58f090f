"""What the linter of Dockerfiles does not ask of ours, and that the locks of the images agree with the one that is tested."""

import json
import re
import tomllib

import pytest
import yaml

from tests.support.commands import REPOSITORY
from tests.support.dockerfile import arguments, final_stage, instructions, normalised, versions

ACCELERATORS = ("cpu", "gpu", "tpu")

# What a TPU's lock may have in other versions: Google's build of TensorFlow for TPUs is an older one.
OLDER_ON_TPU = {"tensorboard", "tf-keras"}


def test_the_base_is_pinned():
    base, *others = arguments("FROM")
    assert re.fullmatch(r"python:3\.1[12](\.\d+)?-slim-\w+( AS \w+)?", base)
    assert {other.split()[0] for other in others} == {"dependencies"}


def test_a_container_starts_as_kubernetes_starts_it():
    stage = final_stage()
    word, entrypoint = stage[-1]
    assert word == "ENTRYPOINT"
    (container,) = yaml.safe_load((REPOSITORY / "k8s/base/job.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    assert json.loads(entrypoint) == container["command"]
    (set_here,) = arguments("ENV", stage)
    for variable in container["env"]:
        if not variable["name"].startswith("POSTER_"):
            assert f"{variable['name']}={variable['value']} " in set_here


def test_no_one_is_root():
    pod = yaml.safe_load((REPOSITORY / "k8s/base/job.yaml").read_text())["spec"]["template"]["spec"]["securityContext"]
    assert arguments("USER", final_stage()) == [f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    (place,) = (place for place, (word, _) in enumerate(final_stage()) if word == "USER")
    assert "COPY" not in [word for word, _ in final_stage()[place:]]


def test_the_code_comes_after_what_it_depends_on():
    every = instructions()
    copies = [place for place, (word, _) in enumerate(every) if word == "COPY"]
    lock, code = copies[0], copies[1]
    assert every[lock][1].startswith("requirements-${ACCELERATOR}.lock ")
    installs = [
        place for place, (word, rest) in enumerate(every) if word == "RUN" and "--requirement /opt/requirements.lock" in rest
    ]
    assert [lock < install < code for install in installs] == [True]


def test_nothing_of_one_machine_is_in_it():
    text = (REPOSITORY / "Dockerfile").read_text() + (REPOSITORY / ".dockerignore").read_text()
    assert not re.search(r"https?://|index-url|trusted-host|password|token", text, flags=re.IGNORECASE)
    assert not arguments("ADD")
    assert arguments("ARG") == ["ACCELERATOR=cpu"]
    for secret in re.findall(r"--mount=type=secret,(\S+)", text):
        assert re.fullmatch(r"id=\w+", secret)


def test_the_build_sees_what_is_copied_and_no_more():
    nothing, *allowed = (line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#"))
    assert nothing == "*"
    copied = {name for rest in arguments("COPY") if not rest.startswith("--from") for name in rest.split()[:-1]}
    assert {name.replace("${ACCELERATOR}", "*") for name in copied} == {line[1:] for line in allowed if line.startswith("!")}


def test_a_wheel_can_be_made_of_what_is_copied():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    copied = {name for rest in arguments("COPY") for name in rest.split()[:-1]}
    assert {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"} <= copied
    tables = project["tool"]["setuptools"]
    assert {tables["package-dir"].get(package, package).split(".")[0] for package in tables["packages"]} <= copied


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_lock_has_what_a_worker_needs_and_nothing_for_development(accelerator):
    lock = versions(f"requirements-{accelerator}.lock")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {normalised(requirement) for requirement in project["dependencies"]} | {"aiohttp"}
    if accelerator == "tpu":
        needed = needed - {"tensorflow"} | {"tensorflow-tpu", "libtpu"}
        assert "tensorflow" not in lock
    assert needed <= lock.keys()
    assert ("nvidia-cudnn-cu12" in lock) == (accelerator == "gpu")
    desk = {"kubernetes", "google-cloud-aiplatform"}
    development = {normalised(requirement) for requirement in project["optional-dependencies"]["dev"]}
    assert not lock.keys() & ((development | desk) - {"fsspec", "fonttools"}), "matplotlib needs fonttools too"


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_lock_agrees_with_the_one_that_is_tested(accelerator):
    tested, lock = versions("requirements.lock"), versions(f"requirements-{accelerator}.lock")
    different = {name for name in tested.keys() & lock.keys() if tested[name] != lock[name]}
    assert different <= (OLDER_ON_TPU if accelerator == "tpu" else set())


@pytest.mark.parametrize("lock", ["requirements.lock", *(f"requirements-{accelerator}.lock" for accelerator in ACCELERATORS)])
def test_a_lock_names_no_server(lock):
    assert not re.search(r"://|^\s*--", (REPOSITORY / lock).read_text(), flags=re.MULTILINE)
