"""Reads a list of genres that a program wrote into a cell: a literal of Python, JSON or PostgreSQL, or an array of numpy."""

import ast
import csv
import json
import math
import re
from collections.abc import Sequence
from typing import Any

_MAX_CHARACTERS = 10_000  # A film has a few genres; a huge input could exhaust Python's parser.
_MAX_ENCODED = 3  # A text that was encoded as JSON again and again.

BRACKETS = (("[", "]"), ("{", "}"))
"""The brackets of lists and objects, which no genre has."""

BRACKET = re.compile(r"[\[\]{}]")
"""Any of these brackets."""

_CLOSING = {"[": "]", "{": "}", "(": ")", "<": ">"}
# How Python, numpy, pandas, R and Spark print what holds a list: set(), array(['Drama'], dtype=object), c("Drama").
_PRINTED = re.compile(
    r"(?:frozenset|set|list|tuple|array|Index|deque|OrderedDict|dict_keys|dict_values|c|WrappedArray|ArrayBuffer|Array|List|Vector|Set)"
    r"\((.*?)(?:,\s*dtype=[^()]*)?\)",
    re.DOTALL,
)
_TAGS = re.compile(r"(?:<[^<>]+>)+")
_NOT_A_NUMBER = re.compile(r"(?<=[\[({,\s])nan(?=[\])},\s])")
_QUOTED = re.compile(r"(?<!\w)'")  # An apostrophe, as in Children's, quotes nothing.
_NAME_KEYS = ("name", "displayName", "genre", "label", "title", "value", "text", "description")


def is_list(cell: str) -> bool:
    """Returns whether a cell is a list in brackets, as Python, JSON or PostgreSQL writes it."""
    try:
        cell = _decoded(cell.strip())
    except ValueError:
        return False
    return _is_bracketed(cell) and cell.endswith(_CLOSING[cell[0]])


def parse(cell: str) -> list[str] | None:
    """Parses a cell that holds a list.

    A list may be an array, tuple or set of names or of objects with a name, lists inside it included; an object whose values are
    names (`{"/m/07lt7": "Thriller"}`) or say yes and no (`{"Drama": 1, "War": 0}`); and any of these as a JSON string.

    Args:
      cell: The cell.

    Returns:
      The names in the order of the cell, those of a set sorted; None if the cell is not a list.

    Raises:
      ValueError: The cell begins like a list but cannot be read, or holds something other than names.
    """
    cell = _decoded(cell.strip())
    if not _is_bracketed(cell):
        return None
    if len(cell) > _MAX_CHARACTERS:
        raise ValueError(f"the list has more than {_MAX_CHARACTERS:,} characters")
    if not cell.endswith(_CLOSING[cell[0]]):
        raise ValueError("the list has no closing bracket")
    names = re.findall(r"<([^<>]+)>", cell) if cell[0] == "<" else _names(_value(cell))
    if not all(name.isprintable() and not BRACKET.search(name) for name in names):
        raise ValueError("the list holds something other than names")
    return names


def _decoded(cell: str) -> str:
    """Returns the text of a JSON string, and the list in what Python prints of an object."""
    for _ in range(_MAX_ENCODED):
        if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
            break
        try:
            text = json.loads(cell)
        except (ValueError, RecursionError):
            break
        cell = text.strip()
    if printed := _PRINTED.fullmatch(cell):
        inside = printed[1].strip()
        return inside if _is_bracketed(inside) else f"[{inside}]"
    return cell


def _is_bracketed(cell: str) -> bool:
    if cell[:1] == "<":
        return _TAGS.fullmatch(cell) is not None
    if cell[:1] == "(":
        # A name may begin with a parenthesis; a tuple begins with a string, a list or its end.
        return re.match(r"\(\s*(?:['\"\[({]|\)$)", cell) is not None
    return cell[:1] in ("[", "{")


def _value(cell: str) -> Any:
    """Returns the value of a literal."""
    # numpy prints arrays without commas, and Python joins string literals that have no comma between them.
    literal = _NOT_A_NUMBER.sub("None", re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", cell))
    for parse_literal in (json.loads, ast.literal_eval):
        try:
            return parse_literal(literal)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    inside = cell[1:-1]
    if cell[0] == "{" and not _QUOTED.search(inside) and ":" not in inside:
        return _postgresql_array(inside)
    if '"' in inside or _QUOTED.search(inside) or BRACKET.search(inside):
        raise ValueError("the list cannot be parsed")
    return inside.split(",")


def _postgresql_array(inside: str) -> list[str]:
    """Parses the elements of a PostgreSQL array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO)."""
    try:
        (elements,) = csv.reader([inside], skipinitialspace=True, escapechar="\\", doublequote=False, strict=True)
    except (csv.Error, ValueError):
        raise ValueError("the list cannot be parsed") from None
    return elements


def _names(value: Any) -> list[str]:
    """Returns the names in a value, at any depth."""
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, set | frozenset):
        return sorted(_names_of_all(list(value)))
    if isinstance(value, list | tuple):
        return _names_of_all(value)
    if isinstance(value, dict):
        return _names_of_object(value)
    raise ValueError("the list holds something other than names")


def _names_of_all(values: Sequence[Any]) -> list[str]:
    return [name for value in values for name in _names(value)]


def _names_of_object(value: dict[Any, Any]) -> list[str]:
    for key in _NAME_KEYS:
        if isinstance(value.get(key), str):
            return [value[key]]
    values = list(value.values())
    if all(isinstance(content, str) for content in values):
        return values
    if all(isinstance(key, str) for key in value):
        if all(isinstance(content, int) and content in (0, 1) for content in values) and "id" not in value:
            return [key for key, content in value.items() if content]
        lists = [content for content in values if isinstance(content, list | tuple)]
        if len(lists) == 1:
            return _names(lists[0])
    raise ValueError("the list holds something other than names")
