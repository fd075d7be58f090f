"""Decodes, resizes and encodes the images of a data set, on all cores."""

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
from trainer.sources.image_folder import ImageFile

_BATCH = 16  # Images that go to a process at once and are read in parallel there.
_BATCHES_IN_FLIGHT = 4  # Per core: enough to keep it busy while the parent writes, and a limit on the memory used.
_PROCESSES_PER_WAITING_CORE = 2  # Where images come over a network: one process decodes while the other waits.
_LARGE_BYTES = 8 << 20  # Larger images are read one by one, so that a batch of them does not fill the memory.


@dataclass(frozen=True)
class Stored:
    """Where the spool holds an encoded image, and its two hashes.

    Attributes:
      source_hash: the SHA-256 of the original image file, in hexadecimal.
      perceptual_hash: the image's perceptual hash (`perceptual_hash.compute`).
      offset: the position of the image in the spool, in bytes. Its thumbnail (`perceptual_hash.thumbnail`) follows it.
      size: the size of the image in bytes, without the thumbnail.
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
    """Decodes, resizes and encodes images and writes them to a spool file.

    The shards cannot be written directly: their number and sizes depend on how many images can be decoded.

    Args:
      images: the image files; the decoding processes read them.
      spool: the spool, an empty file open for writing.
      height: the new height of the images in pixels.
      width: the new width of the images in pixels.
      encoding: one of `manifest.ENCODINGS`.

    Returns:
      For each image, in the given order, its position in the spool or the error that makes it unusable.

    Raises:
      UserError: a decoding process was killed, or the storage of the images refuses access.
      LostService: the storage of the images does not answer.
    """
    work = partial(_encode_batch, height=height, width=width, encoding=encoding)
    stored: list[Stored | ImageError] = []
    offset = 0
    for result in progress(_parallel(work, images), total=len(images), what="decoding images"):
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
    """Maps `work` over batches of the images on all cores, and yields the results in order; limits the batches in flight."""
    count = cores.available()
    processes = count * _PROCESSES_PER_WAITING_CORE if any(image.is_remote for image in images) else count
    in_flight: deque[Future[list[_Encoded | ImageError]]] = deque()
    # Forking copies locks that other threads hold; a fresh interpreter is ready in a third of a second.
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
                "a process that decodes images was killed, most often because the memory was full: free or add memory and try again"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _encode_batch(images: Sequence[ImageFile], *, height: int, width: int, encoding: str) -> list[_Encoded | ImageError]:
    # The next images are read while one is decoded.
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
    """Reads an image; returns None if it is a large one."""
    return image.read_small(_LARGE_BYTES)


@cache
def _readers() -> ThreadPoolExecutor:
    """Returns the reading threads of this process, which keep their connections from batch to batch."""
    return ThreadPoolExecutor(_BATCH)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent is killed; otherwise it would wait for work forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
