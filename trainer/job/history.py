"""The rows of history.csv, an epoch each, and which of them is the best."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""An epoch's figures by name; one that is undefined is not there, or None."""

MONITOR = "val_mean_average_precision"
"""The figure that the best checkpoint and early stopping go by."""


def best(history: Sequence[Row]) -> Row:
    """Returns the row with the highest `MONITOR`, the first of several.

    Where no row has it (no validation film has a genre), the one with the lowest `val_loss`.

    Raises:
      ValueError: there is no row.
    """
    rated = [row for row in history if row.get(MONITOR) is not None]
    if rated:
        return max(rated, key=lambda row: row[MONITOR])
    return min(history, key=lambda row: row.get("val_loss", math.inf))


def columns(history: Sequence[Row]) -> list[str]:
    """Returns the names of all figures, in the order in which they first came."""
    return list(dict.fromkeys(name for row in history for name in row))
