"""A job's description as a YAML file whose names are the fields of `Job`."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from launch.job import Job
from trainer.errors import UserError

_FIELDS = {field.name: field.type for field in dataclasses.fields(Job) if field.init}

_MAPPINGS = ("env", "labels")
_NUMBERS = {"workers": int, "restarts": int, "time_limit": float}
_SWITCHES = ("spot", "jobset")


def read(path: str) -> dict[str, Any]:
    """The fields that a file sets, with their right types. A text is as it is written: 1.10 stays 1.10, and yes is yes.

    Raises:
      UserError: it is no such file, or a field that it names is none or has a value of the wrong kind.
    """
    import yaml  # Only here, because most jobs come without a file.

    class Loader(yaml.BaseLoader):
        """Takes all scalars for texts, and a key that is there twice for a mistake."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep=deep)

    try:
        described = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"--job_file={path}: {error.strerror}: name a YAML file") from None
    except RecursionError:
        raise UserError(f"--job_file={path} is nested too deep to be a job: correct it") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--job_file={path} is not YAML: {error}") from None
    if described is None:
        described = {}
    if not isinstance(described, dict):
        raise UserError(f"--job_file={path} must be a mapping of a job's fields, such as workers: 2")
    for key in described:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            hint = f"is it {near[0]}?" if near else f"there is {', '.join(_FIELDS)}"
            raise UserError(f"--job_file={path}: {key!r} is no field of a job: {hint}")
    return {key: _value(path, key, value) for key, value in described.items() if value not in ("", "null", "~")}


def _value(path: str, key: str, value: Any) -> Any:
    # A value that is wrong is not shown: it may hold a secret.
    if key in _MAPPINGS:
        if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
            raise UserError(f"--job_file={path}: {key} must be a mapping of texts, such as {{COLOUR: red}}")
        return value
    if key == "arguments":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UserError(f"--job_file={path}: {key} must be a list of flags, such as [--epochs=3]")
        return tuple(value)
    if not isinstance(value, str):
        raise UserError(f"--job_file={path}: {key} must be a text, not a list or a mapping")
    if key in _SWITCHES:
        if value.lower() not in ("true", "false"):
            raise UserError(f"--job_file={path}: {key}: {value} must be true or false")
        return value.lower() == "true"
    if key in _NUMBERS:
        try:
            return _NUMBERS[key](value)
        except ValueError:
            raise UserError(f"--job_file={path}: {key}: {value[:40]} must be a number") from None
    return value
