"""Speed of preparation: trainer.prepare, simple scripts with the same purpose, and the fastest libraries alone.

    python -m benchmarks.prepare --posters=10000

Each contender is a separate program, timed from start to exit on all cores. It turns image files into JPEG of 192 × 128 at quality
95, without chroma subsampling. The peers write images and a label into TFRecord shards. trainer.prepare also reads the CSV, checks
and hashes each image, looks for the same poster in two splits, and writes checksums. The limit decodes, resizes and encodes, but
writes no file.
"""

import functools
import io
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from absl import app, flags

from benchmarks.lib import affinity, comparison, films
from benchmarks.lib.comparison import OURS, Goal

_CONTENDER = flags.DEFINE_string("contender", None, "Internal: be one of the peers.")
_IMAGES = flags.DEFINE_string("images", None, "Internal: the folder of its posters.")
_OUTPUT = flags.DEFINE_string("output", None, "Internal: the folder that it writes to.")

_HEIGHT, _WIDTH, _QUALITY, _SHARDS = 192, 128, 95, 16
_PIL, _TF_DATA = "a pool of processes with PIL", "tf.data with tf.image.resize"
_REDUCED = "that pool, with PIL's draft mode"
_LIMIT = "limit: libjpeg-turbo at a reduced scale, and OpenCV"


def pil() -> None:
    """Decodes with PIL in a process pool, and writes the results as they arrive."""
    _write(_pooled(_with_pil))


def reduced() -> None:
    """Does the same, with PIL decoding at the reduced scale that trainer.prepare uses, a lesser-known feature of PIL."""
    _write(_pooled(functools.partial(_with_pil, draft=True)))


def tf_data() -> None:
    """Decodes, resizes and encodes in a tf.data map."""
    import tensorflow as tf

    def encode(path: tf.Tensor) -> tf.Tensor:
        image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3)
        resized = tf.image.resize(image, (_HEIGHT, _WIDTH), method="bicubic", antialias=True)
        return tf.io.encode_jpeg(tf.saturate_cast(tf.round(resized), tf.uint8), quality=_QUALITY, chroma_downsampling=False)

    paths = tf.data.Dataset.from_tensor_slices(_files())
    _write(paths.map(encode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).as_numpy_iterator())


def limit() -> None:
    """Does only the unavoidable work, with the fastest libraries."""
    for _ in _pooled(_with_fastest):
        pass


def _pooled(work: Callable[[str], bytes]) -> Iterator[bytes]:
    with multiprocessing.get_context("spawn").Pool(len(affinity.allowed_cores())) as pool:
        yield from pool.imap(work, _files(), chunksize=16)


def _with_pil(path: str, *, draft: bool = False) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        if draft:
            image.draft(None, (_WIDTH, _HEIGHT))
        resized = image.convert("RGB").resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=_QUALITY, subsampling="4:4:4")
    return buffer.getvalue()


def _with_fastest(path: str) -> bytes:
    import cv2
    import simplejpeg

    # Decodes at the smallest scale that is not below the new size.
    image = simplejpeg.decode_jpeg(Path(path).read_bytes(), min_height=_HEIGHT, min_width=_WIDTH, fastdct=True, fastupsample=True)
    resized = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(resized, quality=_QUALITY, colorsubsampling="444", fastdct=True)


def _write(images: Iterable[bytes]) -> None:
    import tensorflow as tf

    writers = [tf.io.TFRecordWriter(f"{_OUTPUT.value}/train-{number:05d}.tfrecord") for number in range(_SHARDS)]
    for film, image in enumerate(images):
        feature = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "image/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 1, 0, 1])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writers[film % _SHARDS].write(example.SerializeToString())
    for writer in writers:
        writer.close()


def _files() -> list[str]:
    return sorted(map(str, Path(_IMAGES.value).iterdir()))


_PROGRAMS = {_PIL: pil, _TF_DATA: tf_data, _REDUCED: reduced, _LIMIT: limit}


def main(_: list[str]) -> None:
    """Prints the comparison, or runs as one of the peers."""
    if _CONTENDER.value:
        _PROGRAMS[_CONTENDER.value]()
        return
    with films.films() as given:
        count = len(given.files())

        def rate(*command: str) -> float:
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                comparison.run((sys.executable, "-m", *command, f"--images={given.images}", f"--output={folder}"))
                return count / (time.monotonic() - began)

        contenders = {OURS: functools.partial(rate, "trainer.prepare", f"--csv={given.csv}")}
        contenders |= {name: functools.partial(rate, "benchmarks.prepare", f"--contender={name}") for name in _PROGRAMS}
        found = comparison.in_turn(contenders)
    goals = [Goal((_PIL, _TF_DATA), least=2), Goal((_LIMIT,), least=0.8)]
    comparison.report(f"Preparing {count:,} posters", "posters a second, start included", found, goals)


if __name__ == "__main__":
    app.run(main)
