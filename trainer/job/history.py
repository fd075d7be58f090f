"""The rows of history.csv, one per epoch, and the choice of the best epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""The metrics of an epoch by name; an undefined metric is absent or None."""

MONITOR = "val_mean_average_precision"
"""The metric by which the best checkpoint and early stopping are decided."""


def best(history: Sequence[Row]) -> Row:
    """Returns the row with the highest `MONITOR`, the first if several have it.

    If no row has it (no validation film has a genre), returns the row with the lowest `val_loss`.

    Raises:
      ValueError: `history` is empty.
    """
    rated = [row for row in history if row.get(MONITOR) is not None]
    if rated:
        return max(rated, key=lambda row: row[MONITOR])
    return min(history, key=lambda row: row.get("val_loss", math.inf))


def columns(history: Sequence[Row]) -> list[str]:
    """Returns the names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in history for name in row))
