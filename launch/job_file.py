"""A job's description as a YAML file whose names are the fields of `Job`."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from launch.job import Job
from trainer.errors import UserError

_FIELDS = {field.name: field.type for field in dataclasses.fields(Job) if field.init}

_MAPPINGS = ("env", "labels")
_NUMBERS = ("workers", "restarts", "time_limit")
_SWITCHES = ("spot", "jobset")


def read(path: str) -> dict[str, Any]:
    """The fields that a file sets, with their right types.

    Raises:
      UserError: it is no such file, or a field that it names is none or has a value of the wrong kind.
    """
    import yaml  # Only here, because most jobs come without a file.

    try:
        described = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--job_file={path}: {error.strerror}: name a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    return {key: _value(path, key, value) for key, value in described.items() if value is not None}


def _value(path: str, key: str, value: Any) -> Any:
    if key in _MAPPINGS:
        if not isinstance(value, dict) or not all(_is_text(each) for pair in value.items() for each in pair):
            raise _wrong(path, key, value, "a mapping of texts, such as {COLOUR: red}; quote what YAML takes for something else")
        return {str(name): str(each) for name, each in value.items()}
    if key == "arguments":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _wrong(path, key, value, "a list of flags, such as [--epochs=3]")
        return tuple(value)
    if key in _SWITCHES:
        if not isinstance(value, bool):
            raise _wrong(path, key, value, "true or false")
        return value
    if key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int if key != "time_limit" else int | float):
            raise _wrong(path, key, value, "a number")
        return value
    if not _is_text(value):
        raise _wrong(path, key, value, "a text")
    return str(value)


def _is_text(value: Any) -> bool:
    # A switch would arrive as True, and a date in another form than it was written in.
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _wrong(path: str, key: str, value: Any, right: str) -> UserError:
    return UserError(f"--job_file={path}: {key}: {value!r} must be {right}")
