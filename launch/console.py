"""What all targets print with: messages, tables, ages and the output of a job's workers."""

import datetime
import os
import sys
import threading
from collections.abc import Sequence

from trainer.process.tables import aligned


def age(moment: datetime.datetime) -> str:
    """Returns the time since a moment, rounded to one unit, such as 5m or 3d."""
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows as left-aligned columns; the first row holds the column heads."""
    print(aligned(rows, text_columns=len(rows[0])))


def tell(text: str) -> None:
    """Prints a message of the launcher on stderr."""
    print(f"launch: {text}", file=sys.stderr)


_stdout_lock = threading.Lock()


def write(data: bytes) -> None:
    """Writes output of a job's workers to stdout; any thread may call this."""
    with _stdout_lock:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # The reader has left; the job goes on.
            os._exit(0)
