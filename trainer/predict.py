"""Predicts the genres of posters: `python -m trainer.predict --job_dir=DIR IMAGE|FOLDER|URL… [--json]`."""

import io
import json
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from absl import flags
from etils import epath
from PIL import Image

from trainer.dataset.rejects import Reason
from trainer.errors import EXIT_DONE, EXIT_USER_ERROR, Ended, UserError
from trainer.images import decode, formats
from trainer.images.decode import ImageError
from trainer.process import entry, tables, tensorflow_start
from trainer.process.progress import progress
from trainer.sources import folders, web
from trainer.storage import files, urls

_JOB_DIR = flags.DEFINE_string(
    "job_dir", None, "The directory of a finished job of trainer.task: a local path or gs://….", required=True
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per image, with the scores of all genres, instead of a table.")

BATCH_SIZE = 32
_OTHERS_SHOWN = 3

# Takes the content of image files; returns for each of them the scores of all genres, in the model's order, or its error.
Scorer = Callable[[Sequence[bytes]], list[dict[str, float] | ImageError]]


@dataclass(frozen=True)
class Prediction:
    """The model's result for one image.

    Attributes:
      path: the path or URL of the image.
      genres: the predicted genres, in the model's order.
      scores: the score of every genre, 0 to 1, in the model's order.
    """

    path: str
    genres: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """An image that cannot be used.

    Attributes:
      path: the path or URL of the image.
      error: the reason, and details after a colon.
    """

    path: str
    error: str


def main(arguments: list[str]) -> int:
    """Predicts the genres of every image that the arguments name.

    Returns:
      `EXIT_USER_ERROR` if an image cannot be used, else `EXIT_DONE`.
    """
    if not arguments:
        raise UserError("no images given: name at least one image file, folder or URL after the flags")
    job_dir = files.from_flag("--job_dir", _JOB_DIR.value)
    thresholds = load_thresholds(job_dir)
    paths = [path for argument in arguments for path in _images(argument)]
    scorer = load_scorer(job_dir)
    # A file's name may hold bytes that are not valid text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as cache:
        results = predict(paths, scorer, thresholds, cache_dir=Path(cache))
        failures = _print_json(results) if _JSON.value else _print_table(results, len(paths))
    return EXIT_USER_ERROR if failures else EXIT_DONE


def load_thresholds(job_dir: epath.Path) -> dict[str, float]:
    """Returns the threshold of every genre, which a finished job chose on its validation split.

    Raises:
      UserError: `job_dir` is not the directory of a finished job, or its metrics.json cannot be read.
    """
    if not files.exists(job_dir / "DONE.json"):
        raise UserError(
            f"--job_dir={job_dir} does not hold a finished job (there is no DONE.json): name another directory, "
            f"or finish the job with python -m trainer.task --job_dir={job_dir} …"
        )
    try:
        thresholds = files.read_json(job_dir / "evaluation" / "metrics.json")["tuned"]["thresholds"]
        return {genre: float(threshold) for genre, threshold in thresholds.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{job_dir}/evaluation/metrics.json is missing or has no readable tuned.thresholds: restore it or train again"
        ) from error


def load_scorer(job_dir: epath.Path) -> Scorer:
    """Loads the SavedModel of a job.

    Raises:
      UserError: the SavedModel is missing or cannot be loaded.
    """
    tensorflow_start.start()  # It takes seconds: errors in the arguments have been reported by now.
    import tensorflow as tf

    try:
        with files.copied_to_disk(job_dir / "model") as folder:
            serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    except Ended:
        raise
    except Exception as error:  # TensorFlow checks its files poorly: a truncated one raises an IndexError, for example.
        raise UserError(f"{job_dir}/model cannot be loaded ({type(error).__name__}): restore it or train again") from error

    # The first call makes the kernels, some of which print what the processor lacks: here, and not into the progress of the images.
    with tensorflow_start.quiet():
        serve(image_bytes=tf.constant([_one_pixel()]))

    def scorer(files: Sequence[bytes]) -> list[dict[str, float] | ImageError]:
        try:
            output = serve(image_bytes=tf.constant(files, tf.string))
        except tf.errors.InvalidArgumentError:
            if len(files) == 1:
                return [_why_not(files[0])]
            middle = len(files) // 2
            return [*scorer(files[:middle]), *scorer(files[middle:])]
        return [
            # Nine digits distinguish any two float32 values.
            {genre.decode(): float(f"{score:.9g}") for genre, score in zip(names, scores, strict=True)}
            for names, scores in zip(output["genres"].numpy(), output["scores"].numpy(), strict=True)
        ]

    return scorer


def _one_pixel() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


def predict(
    paths: Sequence[str], scorer: Scorer, thresholds: Mapping[str, float], *, cache_dir: Path
) -> Iterator[Prediction | Failure]:
    """Yields a result for each image, in the order of `paths`.

    Args:
      paths: the image files: local paths, gs:// URIs and http(s) URLs.
      scorer: the model, as `load_scorer` returns it.
      thresholds: the least score with which each genre is predicted.
      cache_dir: the folder for images from the web.

    Raises:
      UserError: the model has other genres than `thresholds`.
    """
    web_urls = [path for path in paths if urls.is_web(path)]
    fetched = web.download(web_urls, cache_dir=cache_dir) if web_urls else {}
    for batch, data in _read_ahead(paths, partial(_read, fetched=fetched)):
        images = {path: _checked(file) for path, file in zip(batch, data, strict=True)}
        usable = {path: file for path, file in images.items() if isinstance(file, bytes)}
        scores = dict(zip(usable, scorer(list(usable.values())), strict=True))
        outcomes = {path: error for path, error in images.items() if isinstance(error, ImageError)} | scores
        for path in batch:
            yield _result(path, outcomes[path], thresholds)


def _read_ahead(
    paths: Sequence[str], read: Callable[[str], bytes | ImageError]
) -> Iterator[tuple[Sequence[str], Iterator[bytes | ImageError]]]:
    """Yields batches of paths, each with the content of its files; the next batch is read while the caller uses one."""
    ahead: deque[tuple[Sequence[str], Iterator[bytes | ImageError]]] = deque()
    with ThreadPoolExecutor(BATCH_SIZE) as readers:
        for begin in range(0, len(paths), BATCH_SIZE):
            batch = paths[begin : begin + BATCH_SIZE]
            ahead.append((batch, readers.map(read, batch)))
            if begin:
                yield ahead.popleft()
        yield from ahead


def _result(path: str, outcome: Mapping[str, float] | ImageError, thresholds: Mapping[str, float]) -> Prediction | Failure:
    if isinstance(outcome, ImageError):
        return Failure(path, str(outcome))
    if outcome.keys() != thresholds.keys():
        raise UserError(
            f"--job_dir mixes two jobs, its model has the genres {', '.join(outcome)} but its metrics.json "
            f"{', '.join(thresholds)}: restore it or train again"
        )
    return Prediction(path, tuple(genre for genre, score in outcome.items() if score >= thresholds[genre]), outcome)


def _images(argument: str) -> list[str]:
    """Returns the image that an argument names, or the images directly in the folder that it names, sorted by name."""
    if urls.is_web(argument):
        return [argument]
    if urls.is_other_service(argument):
        raise UserError(f"{urls.shown(argument)} is not supported: name a file or folder, local or gs://…, or an http(s) URL")
    if not files.is_folder(epath.Path(argument).expanduser()):
        return [argument]
    found = folders.images_in(argument)
    if not found:
        raise UserError(f"{argument} holds no image file ({', '.join(formats.READ_EXTENSIONS)}): name another folder")
    return found


def _read(path: str, fetched: Mapping[str, Path | ImageError]) -> bytes | ImageError:
    """Returns the content of a file, or the error that occurred."""
    try:
        source = fetched[path] if urls.is_web(path) else path
        if isinstance(source, ImageError):
            return source
        return folders.read_image(str(source))
    except ImageError as error:
        return error


def _checked(file: bytes | ImageError) -> bytes | ImageError:
    """Returns the file, or an error if its header is not an image's; the model finds out whether the rest can be decoded."""
    try:
        if isinstance(file, bytes):
            decode.check_header(file)
    except ImageError as error:
        return error
    return file


def _why_not(file: bytes) -> ImageError:
    """Returns what is wrong with a file that TensorFlow cannot decode; TensorFlow's own messages do not help users."""
    try:
        # The pixels are not used, so the smallest scale will do.
        decode.decode(file, height=1, width=1)
    except ImageError as error:
        return error
    return ImageError(Reason.CORRUPT, "TensorFlow cannot decode it")


def _print_json(results: Iterator[Prediction | Failure]) -> int:
    """Prints each result as soon as it is available; returns the number of failures."""
    failures = 0
    for result in results:
        if isinstance(result, Failure):
            failures += 1
            line: dict[str, object] = {"path": result.path, "error": result.error}
        else:
            line = {"path": result.path, "genres": list(result.genres), "scores": dict(result.scores)}
        print(json.dumps(line), flush=True)
    return failures


def _print_table(results: Iterator[Prediction | Failure], total: int) -> int:
    """Prints a table when all results are available; returns the number of failures."""
    collected = list(progress(results, total=total, what="predicting genres"))
    rows = [("IMAGE", "GENRES", "NEXT LIKELIEST"), *map(_row, collected)]
    print(tables.aligned(rows, text_columns=3))
    return sum(isinstance(result, Failure) for result in collected)


def _row(result: Prediction | Failure) -> tuple[str, str, str]:
    if isinstance(result, Failure):
        return result.path, f"cannot be used: {result.error}", ""
    likeliest_first = sorted(result.scores, key=lambda genre: -result.scores[genre])
    named = [genre for genre in likeliest_first if genre in result.genres]
    others = [genre for genre in likeliest_first if genre not in result.genres][:_OTHERS_SHOWN]
    named_text, others_text = (", ".join(f"{genre} {result.scores[genre]:.2f}" for genre in genres) for genres in (named, others))
    return result.path, named_text or "(none)", others_text


if __name__ == "__main__":
    entry.run(main)
