"""The objects of k8s/, as kubectl and other implementations build them."""

import re
import shutil
import subprocess

import pytest
import yaml

from launch.kubernetes import kustomize
from tests.support.commands import REPOSITORY

COMPONENTS = ["gpu", "tpu", "spot", "gcsfuse", "jobset"]


def by_kind(objects):
    return {each["kind"]: each for each in objects}


def kubectl_kustomize(folder):
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_kustomize_builds_the_objects_that_launch_builds(component):
    folder = REPOSITORY / "k8s" / ("base" if component is None else f"overlays/{component}")
    assert by_kind(kubectl_kustomize(folder)) == by_kind(kustomize.build([component] if component else []))


@pytest.mark.parametrize("components", [("gpu", "spot"), ("tpu", "spot", "gcsfuse"), ("gpu", "spot", "gcsfuse", "jobset")])
def test_kustomize_combines_components_as_launch_does(tmp_path, components):
    shutil.copytree(REPOSITORY / "k8s", tmp_path / "k8s")
    mine = {"resources": ["../k8s/base"], "components": [f"../k8s/components/{each}" for each in components]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(yaml.safe_dump(mine))
    assert by_kind(kubectl_kustomize(tmp_path / "mine")) == by_kind(kustomize.build(components))


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_overlay_is_the_base_and_patches_alone(component):
    """Reads kustomization.yaml as its documentation describes it, and applies the patches with another implementation."""
    overlay = yaml.safe_load((REPOSITORY / f"k8s/overlays/{component}/kustomization.yaml").read_text())
    assert overlay.keys() == {"apiVersion", "kind", "resources", "components"}
    assert (overlay["resources"], overlay["components"]) == (["../../base"], [f"../../components/{component}"])
    folder = REPOSITORY / f"k8s/components/{component}"
    described = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert described.keys() == {"apiVersion", "kind", "patches"}
    assert described["kind"] == "Component"
    job = yaml.safe_load((REPOSITORY / "k8s/base/job.yaml").read_text())
    for patch in described["patches"]:
        assert patch["target"] == {"kind": "Job"}
        for operation in yaml.safe_load((folder / patch["path"]).read_text()):
            assert operation.keys() == {"op", "path", "from" if operation["op"] == "move" else "value"} - (
                {"value"} if operation["op"] == "remove" else set()
            )
            job = applied(job, operation)
    assert job == kustomize.build([component])[0]


def applied(job, operation):
    """Applies one operation to the values at all pointers: independent of launch's implementation, and slower."""
    values = dict(flattened(job))
    target = operation["path"]
    if "from" in operation:
        source = operation["from"]
        moved = {pointer: value for pointer, value in values.items() if pointer == source or pointer.startswith(source + "/")}
        values = {pointer: value for pointer, value in values.items() if pointer not in moved}
        values |= {target + pointer.removeprefix(source): value for pointer, value in moved.items()}
        return unflattened(values)
    if target.endswith("/-"):
        siblings = [pointer for pointer in values if re.fullmatch(re.escape(target[:-1]) + r"\d+(/.*)?", pointer)]
        numbers = {int(pointer.removeprefix(target[:-1]).partition("/")[0]) for pointer in siblings}
        target = f"{target[:-1]}{len(numbers)}"
    values = {pointer: value for pointer, value in values.items() if pointer != target and not pointer.startswith(target + "/")}
    if operation["op"] != "remove":
        values |= {target + pointer: value for pointer, value in flattened(operation["value"])}
    return unflattened(values)


def flattened(value, pointer=""):
    """Yields the type of each container and the value of each leaf, by JSON pointer."""
    yield pointer, type(value) if isinstance(value, dict | list) else value
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(each, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")


def unflattened(values):
    """Builds the document whose `flattened` values these are."""
    made = {}
    for pointer in sorted(values, key=lambda pointer: [step.zfill(6) for step in pointer.split("/")]):
        value = values[pointer]() if isinstance(values[pointer], type) else values[pointer]
        made[pointer] = value
        if pointer:
            parent, _, step = pointer.rpartition("/")
            if isinstance(made[parent], list):
                made[parent].append(value)
            else:
                made[parent][step.replace("~1", "/").replace("~0", "~")] = value
    return made[""]


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/a/-", "value": 3}, {"a": [1, 2, 3], "b/c": {}}),
        ({"op": "add", "path": "/a/0", "value": 3}, {"a": [3, 1, 2], "b/c": {}}),
        ({"op": "add", "path": "/b~1c/~0", "value": 3}, {"a": [1, 2], "b/c": {"~": 3}}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2], "b/c": {}}),
        ({"op": "replace", "path": "/a/1", "value": 3}, {"a": [1, 3], "b/c": {}}),
        ({"op": "move", "from": "/a", "path": "/b~1c/d"}, {"b/c": {"d": [1, 2]}}),
        ({"op": "replace", "path": "", "value": 3}, 3),
    ],
)
def test_patches_follow_rfc_6902(operation, result):
    document = {"a": [1, 2], "b/c": {}}
    assert kustomize.patch(document, [operation]) == result
    assert document == {"a": [1, 2], "b/c": {}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/c"},
        {"op": "replace", "path": "/c", "value": 1},
        {"op": "add", "path": "/c/d", "value": 1},
        {"op": "add", "path": "/a/3", "value": 1},
        {"op": "remove", "path": "/a/2"},
        {"op": "move", "from": "/c", "path": "/d"},
        {"op": "copy", "from": "/a", "path": "/d"},
    ],
)
def test_a_patch_that_does_not_fit_is_an_error(operation):
    with pytest.raises((KeyError, IndexError, ValueError)):
        kustomize.patch({"a": [1, 2]}, [operation])
