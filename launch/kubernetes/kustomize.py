"""Builds the objects of k8s/ as `kubectl kustomize` does: a base, and components that consist of JSON patches (RFC 6902)."""

import copy
import importlib.resources
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml


def folder() -> Traversable:
    """Returns the folder k8s/: inside an installed package, or beside launch/ in a checkout."""
    installed = importlib.resources.files("launch") / "k8s"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "k8s"


def build(components: Iterable[str]) -> list[dict[str, Any]]:
    """Returns the objects of the base, patched by components.

    Args:
      components: the names of folders in k8s/components, in the order in which they are applied.
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
    """Applies JSON patch operations (RFC 6902) to a copy of a document.

    Args:
      document: the document, made of dicts, lists and scalars.
      operations: the operations, each one of add, remove, replace and move.

    Returns:
      The patched copy.

    Raises:
      KeyError, IndexError: an operation names a path that does not exist.
      ValueError: an operation is not supported.
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
                raise ValueError(f"{other!r} is not a supported operation: use add, remove, replace or move")
    return root[""]


def _steps(pointer: str) -> list[str]:
    # A pointer begins with a slash, so that its first step is "", which stands for the document.
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")]


def _parent(root: Any, path: list[str]) -> Any:
    parent = root
    for step in path[:-1]:
        parent = parent[int(step)] if isinstance(parent, list) else parent[step]
    return parent


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
