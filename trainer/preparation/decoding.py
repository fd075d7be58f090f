"""Decoding, resizing and encoding the pictures of a data set, on all cores."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from typing import BinaryIO

from trainer.errors import UserError
from trainer.images import decode, perceptual_hash
from trainer.images.decode import ImageError
from trainer.process import cores
from trainer.process.progress import progress
from trainer.sources.lookup import ImageFile

_BATCH = 16  # Pictures that travel between the processes at once, and are read side by side.
_BATCHES_IN_FLIGHT = 4  # For each core: enough to keep it busy while the parent writes, and all that is held in memory.
_WAITING_PROCESSES = 2  # For each core, where pictures come over a network: one decodes while the other waits.
_LARGE_BYTES = 8 << 20  # Larger pictures are read one by one, so that a batch of them does not fill the memory.


@dataclass(frozen=True)
class Stored:
    """Where an encoded picture lies in the spool, in bytes, and two hashes.

    Attributes:
      source_hash: the SHA-256 of the file that the picture was made of, in hexadecimal.
      picture_hash: `perceptual_hash.picture_hash` of the picture.
      offset: where it begins; `perceptual_hash.thumbnail` of it follows it.
      size: of the picture alone.
    """

    source_hash: str
    perceptual_hash: bytes
    offset: int
    size: int


@dataclass(frozen=True)
class _Encoded:
    source_hash: str
    perceptual_hash: bytes
    image: bytes
    thumbnail: bytes


def store(images: Sequence[ImageFile], spool: BinaryIO, *, height: int, width: int, encoding: str) -> list[Stored | ImageError]:
    """Decodes pictures, resizes and encodes them and appends them to a spool: which ones are good decides the shards' sizes.

    Args:
      pictures: where the picture files are; the decoding processes read them.
      spool: a file, at its beginning.
      height: the pictures' new height in pixels.
      width: the pictures' new width in pixels.
      encoding: one of `manifest.ENCODINGS`.

    Returns:
      For each file, in their order, where its picture is, or why there is none.

    Raises:
      UserError: the system ended one of the decoding processes, or nothing can be read where the pictures are.
      LostService: what holds the pictures does not answer.
    """
    work = partial(_encode_batch, height=height, width=width, encoding=encoding)
    stored: list[Stored | ImageError] = []
    offset = 0
    for result in progress(_parallel(work, images), total=len(images), what="decoding pictures"):
        if isinstance(result, ImageError):
            stored.append(result)
            continue
        spool.write(result.image)
        spool.write(result.thumbnail)
        stored.append(Stored(result.source_hash, result.perceptual_hash, offset, len(result.image)))
        offset += len(result.image) + len(result.thumbnail)
    spool.flush()
    return stored


def _parallel(
    work: Callable[[Sequence[ImageFile]], list[_Encoded | ImageError]], images: Sequence[ImageFile]
) -> Iterator[_Encoded | ImageError]:
    """Maps `work` over batches of the pictures, on all cores, in order, with a bounded number of them in flight."""
    count = cores.available()
    processes = count * _WAITING_PROCESSES if any(image.is_remote for image in images) else count
    in_flight: deque[Future[list[_Encoded | ImageError]]] = deque()
    # A fork would copy the threads' locks; a fresh interpreter is ready in a third of a second.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool:
        try:
            for start in range(0, len(images), _BATCH):
                in_flight.append(pool.submit(work, images[start : start + _BATCH]))
                if len(in_flight) >= count * _BATCHES_IN_FLIGHT:
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


def _encode_batch(images: Sequence[ImageFile], *, height: int, width: int, encoding: str) -> list[_Encoded | ImageError]:
    # While one is decoded, those after it are read.
    readers = _readers()
    read = deque(readers.submit(_read_ahead, image) for image in images)
    encoded: list[_Encoded | ImageError] = []
    for image in images:
        try:
            data = read.popleft().result()
            if data is None:
                data = image.read()
            encoded.append(_encode(data, height=height, width=width, encoding=encoding))
        except ImageError as error:
            encoded.append(error)
    return encoded


def _encode(data: bytes, *, height: int, width: int, encoding: str) -> _Encoded:
    pixels = decode.resize(decode.decode(data, height=height, width=width), height=height, width=width)
    thumbnail = perceptual_hash.thumbnail(pixels)
    return _Encoded(
        source_hash=hashlib.sha256(data).hexdigest(),
        perceptual_hash=perceptual_hash.compute(thumbnail),
        image=decode.encode_jpeg(pixels) if encoding == "jpeg" else pixels.tobytes(),
        thumbnail=thumbnail,
    )


def _read_ahead(image: ImageFile) -> bytes | None:
    """Reads a picture, unless it is a large one."""
    return image.read_small(_LARGE_BYTES)


@cache
def _readers() -> ThreadPoolExecutor:
    """Returns the threads of this process, which keep their connections from batch to batch."""
    return ThreadPoolExecutor(_BATCH)


def _start_worker() -> None:
    """Lets the parent alone answer Ctrl-C, and ends the worker when the parent was killed: it would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
