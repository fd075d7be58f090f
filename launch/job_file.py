"""Reads a job's description from a YAML file whose keys are the fields of `Job`."""

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
    """Returns the fields that a file sets, with their types.

    Text is kept as written: 1.10 stays "1.10", and yes stays "yes".

    Args:
      path: the path of the YAML file.

    Raises:
      UserError: the file cannot be read or is not YAML, or a field is unknown or has a value of the wrong type.
    """
    import yaml  # Imported here, because most jobs have no file.

    class Loader(yaml.BaseLoader):
        """Loads every scalar as a string, and rejects duplicate keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} appears twice", node.start_mark)
            return super().construct_mapping(node, deep=deep)

    try:
        described = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"--job_file={path} cannot be read ({error.strerror}): give a YAML file") from None
    except RecursionError:
        raise UserError(f"--job_file={path} is nested too deeply: write a mapping of a job's fields, such as workers: 2") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--job_file={path} is not valid YAML ({' '.join(str(error).split())}): correct it") from None
    if described is None:
        described = {}
    if not isinstance(described, dict):
        raise UserError(f"--job_file={path} must be a mapping of a job's fields, such as workers: 2")
    for key in described:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(_FIELDS)}"
            raise UserError(f"--job_file={path}: {key!r} is not a field of a job: {hint}")
    return {key: _value(path, key, value) for key, value in described.items() if value not in ("", "null", "~")}


def _value(path: str, key: str, value: Any) -> Any:
    # The message does not show a wrong value, which may hold a secret.
    if key in _MAPPINGS:
        if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
            raise UserError(f"--job_file={path}: {key} must be a mapping of strings, such as {{COLOUR: red}}")
        return value
    if key == "arguments":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UserError(f"--job_file={path}: {key} must be a list of flags, such as [--epochs=3]")
        return tuple(value)
    if not isinstance(value, str):
        raise UserError(f"--job_file={path}: {key} must be a string, not a list or a mapping")
    if key in _SWITCHES:
        if value.lower() not in ("true", "false"):
            raise UserError(f"--job_file={path}: {key} must be true or false, got {value!r}")
        return value.lower() == "true"
    if key in _NUMBERS:
        try:
            return _NUMBERS[key](value)
        except ValueError:
            raise UserError(f"--job_file={path}: {key} must be a number, got {value[:40]!r}") from None
    return value
