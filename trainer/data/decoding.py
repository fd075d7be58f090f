"""Decoding, resizing and encoding the pictures of a data set, on all cores."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from trainer.data import images
from trainer.data.images import PictureError
from trainer.data.progress import progress
from trainer.errors import UserError

_T = TypeVar("_T")
_R = TypeVar("_R")

_BATCH = 16  # Pictures that travel between the processes at once.
_BATCHES_IN_FLIGHT = 4  # For each core: enough to keep it busy while the parent writes, and all that is held in memory.


@dataclass(frozen=True)
class Stored:
    """Where an encoded picture lies in the spool, in bytes, and the SHA-256 of the file that it was made of, in hexadecimal."""

    source_hash: str
    offset: int
    size: int


def store(files: Sequence[Path], spool: BinaryIO, *, height: int, width: int, encoding: str) -> list[Stored | PictureError]:
    """Decodes pictures, resizes and encodes them and appends them to a spool: which ones are good decides the shards' sizes.

    Args:
      files: the picture files.
      spool: a file, at its beginning.
      height: the pictures' new height in pixels.
      width: the pictures' new width in pixels.
      encoding: one of `shards.ENCODINGS`.

    Returns:
      For each file, in their order, where its picture is, or why there is none.

    Raises:
      UserError: the system ended one of the decoding processes.
    """
    work = partial(_encode, height=height, width=width, encoding=encoding)
    stored: list[Stored | PictureError] = []
    offset = 0
    for result in progress(_parallel(work, files), total=len(files), what="decoding pictures"):
        if isinstance(result, PictureError):
            stored.append(result)
            continue
        source_hash, encoded = result
        spool.write(encoded)
        stored.append(Stored(source_hash, offset, len(encoded)))
        offset += len(encoded)
    spool.flush()
    return stored


def _encode(file: Path, *, height: int, width: int, encoding: str) -> tuple[str, bytes] | PictureError:
    try:
        data = images.read(file)
        pixels = images.resize(images.decode(data, height=height, width=width), height=height, width=width)
    except PictureError as error:
        return error
    return hashlib.sha256(data).hexdigest(), images.encode_jpeg(pixels) if encoding == "jpeg" else pixels.tobytes()


def _parallel(work: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """Maps `work` over the items, on all cores, in order, with a bounded number of them in flight."""
    cores = len(os.sched_getaffinity(0))
    in_flight: deque[Future[list[_R]]] = deque()
    # A fork would copy the threads' locks; a fresh interpreter is ready in a third of a second.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_start_worker) as pool:
        try:
            for start in range(0, len(items), _BATCH):
                in_flight.append(pool.submit(_map_batch, work, items[start : start + _BATCH]))
                if len(in_flight) >= cores * _BATCHES_IN_FLIGHT:
                    yield from in_flight.popleft().result()
            while in_flight:
                yield from in_flight.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes pictures was ended from outside, most often for want of memory: give it more"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _map_batch(work: Callable[[_T], _R], batch: Sequence[_T]) -> list[_R]:
    return [work(item) for item in batch]


def _start_worker() -> None:
    """Lets the parent alone answer Ctrl-C, and ends the worker when the parent was killed: it would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
