"""Spellings of a genre that differ in case alone: they are one genre."""

import unicodedata
from collections.abc import Mapping


def canonical(counts: Mapping[str, int]) -> dict[str, str]:
    """Returns the spelling of each name: the commonest of those that differ in case, blanks or Unicode form alone.

    Args:
      counts: Each name with the number of its films. Of two equally common spellings the first in this order counts.

    Returns:
      For each name the spelling that it is to have.
    """
    commonest: dict[str, str] = {}
    for name, count in counts.items():
        known = commonest.setdefault(_key(name), name)
        if count > counts[known]:
            commonest[_key(name)] = name
    return {name: commonest[_key(name)] for name in counts}


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
