"""Builds the objects of k8s/ as `kubectl kustomize` would: a base, and components made of JSON 6902 patches."""

import copy
import importlib.resources
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml


def folder() -> Traversable:
    """Where the files are: in an installed package, or beside it in a checkout."""
    installed = importlib.resources.files("launch") / "k8s"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "k8s"


def build(components: Iterable[str]) -> list[dict[str, Any]]:
    """The base's objects, with the patches of some components.

    Args:
      components: folders of k8s/components, in the order in which they are applied.
    """
    base = folder() / "base"
    objects = [_read(base / name) for name in _read(base / "kustomization.yaml")["resources"]]
    for name in components:
        component = folder() / "components" / name
        for each in _read(component / "kustomization.yaml")["patches"]:
            operations = _read(component / each["path"])
            kind = each["target"]["kind"]
            objects = [patch(one, operations) if one["kind"] == kind else one for one in objects]
    return objects


def patch(document: Any, operations: Iterable[dict[str, Any]]) -> Any:
    """Applies JSON 6902 operations (add, remove, replace, move) to a copy of a document.

    Raises:
      KeyError, IndexError, ValueError: an operation names a place that is not there, or is none of the four.
    """
    root = {"": copy.deepcopy(document)}
    for operation in operations:
        path = _steps(operation["path"])
        match operation["op"]:
            case "add":
                _add(root, path, copy.deepcopy(operation["value"]))
            case "replace":
                _remove(root, path)
                _add(root, path, copy.deepcopy(operation["value"]))
            case "remove":
                _remove(root, path)
            case "move":
                _add(root, path, _remove(root, _steps(operation["from"])))
            case other:
                raise ValueError(f"{other!r} is no operation that is known here")
    return root[""]


def _steps(pointer: str) -> list[str]:
    # A pointer begins with a slash: its first step is "", the document.
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")]


def _parent(root: Any, path: list[str]) -> Any:
    place = root
    for step in path[:-1]:
        place = place[int(step)] if isinstance(place, list) else place[step]
    return place


def _add(root: Any, path: list[str], value: Any) -> None:
    parent, step = _parent(root, path), path[-1]
    if not isinstance(parent, list):
        parent[step] = value
    elif step == "-":
        parent.append(value)
    elif 0 <= int(step) <= len(parent):
        parent.insert(int(step), value)
    else:
        raise IndexError(f"{'/'.join(path)} is past the end of its list")


def _remove(root: Any, path: list[str]) -> Any:
    parent, step = _parent(root, path), path[-1]
    return parent.pop(int(step)) if isinstance(parent, list) else parent.pop(step)


def _read(path: Traversable) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
