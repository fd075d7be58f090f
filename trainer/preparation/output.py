"""What building a data set needs to know of the place where it goes."""

from pathlib import Path
from typing import Protocol

from trainer.dataset.manifest import Shard


class Output(Protocol):
    """A place that takes a data set, file by file.

    Attributes:
      folder: on a disk, to write into.
      verb: what becomes of a shard, for the user who waits.
    """

    @property
    def folder(self) -> Path: ...

    @property
    def verb(self) -> str: ...

    def add(self, shard: Shard) -> None:
        """Takes a shard that is written in `folder`, and will not be changed there any more."""
