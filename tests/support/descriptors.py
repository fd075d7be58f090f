"""The open file descriptors of this process, by which a test finds one that was left open."""

from pathlib import Path


def count() -> int:
    """Returns the number of open descriptors; the one that reads their list counts each time."""
    return len(list(Path("/proc/self/fd").iterdir()))
