"""A worker's own copies of the shards that it has read, so that later epochs read nothing from afar.

Whole files are kept, and read as the originals are: neither the order of the films nor what a resumed job reads depends on a cache.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from etils import epath

from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset
from trainer.errors import Ended, LostService, UserError
from trainer.storage import failures, files, objects

MEMORY = "memory"

_MEMORY_ROOT = "ram://shards"  # TensorFlow's file system in the memory of a process.
_CHUNK_BYTES = 4 << 20
_ABANDONED_SECONDS = 600


class ShardCache:
    """Copies a shard when it is opened for the first time.

    A copy is compared with the checksum in dataset.json before it is used, also one that an earlier process has left.
    """

    def __init__(self, dataset: Dataset, kept_in: str) -> None:
        """Args:
          dataset: the data set.
          kept_in: `MEMORY`, or a folder, which workers of one machine may share.

        Raises:
          UserError: the folder cannot be made.
        """
        if "://" in kept_in:
            raise UserError(f"--cache={kept_in}: name a folder on a disk of this machine, or memory")
        self._kept_in = kept_in
        root = _MEMORY_ROOT if kept_in == MEMORY else str(Path(kept_in).expanduser())
        self._folder = f"{root}/{dataset.fingerprint[:16]}"
        self._checksums = {shard.name: shard.crc32c for split in dataset.splits.values() for shard in split.shards}
        self._copied: set[str] = set()
        try:
            tf.io.gfile.makedirs(self._folder)
        except tf.errors.OpError as error:
            raise UserError(f"--cache={kept_in}: {error.message}: name a folder that can be written, or memory") from None
        if kept_in != MEMORY:
            _remove_abandoned(Path(self._folder))

    def path(self, original: tf.Tensor) -> tf.Tensor:
        """Returns the path of a shard's copy: a string [] for a string []."""
        # Called stateless: asked to be deterministic TensorFlow would run a stateful function of several shards in turn.
        copy = tf.numpy_function(self._copy, [original], tf.string, stateful=False)
        return tf.ensure_shape(copy, [])

    def _copy(self, original: bytes) -> bytes:
        source = original.decode()
        name = source.rpartition("/")[2]
        target = f"{self._folder}/{name}"
        if name not in self._copied:
            if not tf.io.gfile.exists(target) or objects.crc32c(_chunks(target)) != self._checksums[name]:
                self._make(source, target, self._checksums[name])
            self._copied.add(name)
        return target.encode()

    def _make(self, source: str, target: str, checksum: str) -> None:
        # Another process, or another thread, may be at the same copy.
        partial = f"{target}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            with tf.io.gfile.GFile(partial, "wb") as file:
                found = objects.crc32c(_written(file, _chunks(source)))
            if found != checksum:
                if files.checksum(epath.Path(source)) != checksum:
                    raise UserError(f"{source} is damaged, its CRC32C is not that of dataset.json: {manifest.REMEDY}")
                raise LostService(f"{source} arrived damaged, by its CRC32C: run the same command again")
            tf.io.gfile.rename(partial, target, overwrite=True)
        except tf.errors.OpError as error:
            # Past tf.data there is the text alone: what an error means has to be said here.
            if isinstance(told := failures.of_tensorflow(error), Ended):
                raise told from error
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise UserError(f"--cache={self._kept_in}: {error.message}: give it more space, or leave --cache out") from error
            if isinstance(error, tf.errors.NotFoundError):
                raise UserError(f"{source} is gone: restore it or {manifest.REMEDY}") from error
            raise
        finally:
            if tf.io.gfile.exists(partial):
                tf.io.gfile.remove(partial)


def _chunks(path: str) -> Iterator[bytes]:
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _written(file: tf.io.gfile.GFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        file.write(chunk)
        yield chunk


def _remove_abandoned(folder: Path) -> None:
    """Removes unfinished copies that nobody writes to any more: whoever began them was killed."""
    for path in folder.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
