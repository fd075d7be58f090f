"""What building a data set needs to know about its destination: a folder on a disk or in a bucket."""

from pathlib import Path
from typing import Protocol

from trainer.dataset.manifest import Shard


class Output(Protocol):
    """A destination that takes a data set, file by file.

    Attributes:
      folder: the folder on a disk into which the files are written.
      verb: what happens to a shard, as the progress line names it, such as "writing".
    """

    @property
    def folder(self) -> Path: ...

    @property
    def verb(self) -> str: ...

    def add(self, shard: Shard) -> None:
        """Takes a shard that is complete in `folder` and will not change any more."""
