"""A worker's own copies of the shards that it has read, so that later epochs do not read them over the network.

Copies are whole files and are read like the originals: neither the order of films nor what a resumed job reads depends on a
cache.
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

_MEMORY_ROOT = "ram://shards"  # TensorFlow's file system in the memory of the process.
_CHUNK_BYTES = 4 << 20
_ABANDONED_SECONDS = 600


class ShardCache:
    """Copies a shard when it is opened for the first time.

    Every copy is compared with the checksum in dataset.json before its first use, also one from an earlier process.
    """

    def __init__(self, dataset: Dataset, kept_in: str) -> None:
        """Creates the folder for the copies.

        Args:
          dataset: the data set.
          kept_in: `MEMORY`, or the path of a local folder, which the workers of one machine may share.

        Raises:
          UserError: the path is a URI, or the folder cannot be made.
        """
        if "://" in kept_in:
            raise UserError(f"--cache must be a folder on a disk of this machine or {MEMORY}, got {kept_in!r}")
        self._kept_in = kept_in
        root = _MEMORY_ROOT if kept_in == MEMORY else str(Path(kept_in).expanduser())
        self._folder = f"{root}/{dataset.fingerprint[:16]}"
        self._checksums = {shard.name: shard.crc32c for split in dataset.splits.values() for shard in split.shards}
        self._copied: set[str] = set()
        try:
            tf.io.gfile.makedirs(self._folder)
        except tf.errors.OpError as error:
            raise UserError(
                f"--cache={kept_in} cannot be created ({error.message}): choose a folder that this process can write, or {MEMORY}"
            ) from None
        if kept_in != MEMORY:
            _remove_abandoned(Path(self._folder))

    def path(self, original: tf.Tensor) -> tf.Tensor:
        """Returns the path of a shard's copy, which it makes if there is none.

        Args:
          original: the path of the shard in the data set, string [].

        Returns:
          The path of the copy, string [].
        """
        # It has no state that matters to tf.data: the same original always gives the same copy.
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
        # Another process or thread may be making the same copy.
        partial = f"{target}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            with tf.io.gfile.GFile(partial, "wb") as file:
                found = objects.crc32c(_written(file, _chunks(source)))
            if found != checksum:
                if files.checksum(epath.Path(source)) != checksum:
                    raise UserError(f"{source} is damaged, because its CRC32C is not the one in dataset.json: {manifest.REMEDY}")
                raise LostService(f"{source} was damaged on its way, by its CRC32C: run the same command again")
            tf.io.gfile.rename(partial, target, overwrite=True)
        except tf.errors.OpError as error:
            # Beyond tf.data only the text of an error is left, so its cause must be found here.
            if isinstance(ended := failures.of_tensorflow(error), Ended):
                raise ended from error
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise UserError(
                    f"--cache={self._kept_in} is full ({error.message}): give it more space, or leave --cache out"
                ) from error
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
    """Removes unfinished copies of processes that were killed: those that were not written to for some minutes."""
    for path in folder.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
