"""Names the genres of posters: `python -m trainer.predict --job_dir=DIR POSTER|FOLDER|URL… [--json]`."""

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

from trainer.dataset.rejects import Reason
from trainer.errors import EXIT_DONE, EXIT_USER_ERROR, Ended, UserError
from trainer.images import decode, formats
from trainer.images.decode import ImageError
from trainer.process import entry
from trainer.process.progress import progress
from trainer.sources import folders, web
from trainer.storage import files
from trainer.storage import urls as addresses

_JOB_DIR = flags.DEFINE_string("job_dir", None, "Directory of a finished job of trainer.task.", required=True)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object a picture, with the scores of all genres.")

BATCH_SIZE = 32
_OTHERS_SHOWN = 3

# Picture files -> for each of them the score of every genre, in the model's order, or why there is none.
Scorer = Callable[[Sequence[bytes]], list[dict[str, float] | ImageError]]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture; `genres` (a part of `scores`) is in the order of `scores`, the model's."""

    path: str
    genres: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """A picture that cannot be used."""

    path: str
    error: str


def main(arguments: list[str]) -> int:
    """Predicts every picture that the arguments name; `EXIT_USER_ERROR` where one of them could not be used."""
    if not arguments:
        raise UserError("no pictures: name at least one picture file, folder or URL after the flags")
    job_dir = files.from_flag("--job_dir", _JOB_DIR.value)
    thresholds = load_thresholds(job_dir)
    paths = [path for argument in arguments for path in _images(argument)]
    scorer = load_scorer(job_dir)
    # A file's name may have bytes that are no text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as cache:
        results = predict(paths, scorer, thresholds, cache_dir=Path(cache))
        failures = _print_json(results) if _JSON.value else _print_table(results, len(paths))
    return EXIT_USER_ERROR if failures else EXIT_DONE


def load_thresholds(job_dir: epath.Path) -> dict[str, float]:
    """The threshold of every genre that a finished job chose on its validation split.

    Raises:
      UserError: the job is not finished, or `job_dir` is no job directory at all.
    """
    if not files.exists(job_dir / "DONE.json"):
        raise UserError(
            f"--job_dir={job_dir} holds no finished job: it has no DONE.json "
            "(train one, or let it finish, with python -m trainer.task --job_dir=…)"
        )
    try:
        thresholds = files.read_json(job_dir / "evaluation" / "metrics.json")["tuned"]["thresholds"]
        return {genre: float(threshold) for genre, threshold in thresholds.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{job_dir}/evaluation/metrics.json has no tuned.thresholds that can be read: restore it or train again"
        ) from error


def load_scorer(job_dir: epath.Path) -> Scorer:
    """Loads a job's SavedModel.

    Raises:
      UserError: it is not there or cannot be loaded.
    """
    import tensorflow as tf  # It takes seconds: who mistyped an argument has been told by now.

    try:
        with files.copied_to_disk(job_dir / "model") as folder:
            serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    except Ended:
        raise
    except Exception as error:  # TensorFlow checks little of what it reads: a file cut off ends in an IndexError, for one.
        raise UserError(
            f"{job_dir}/model is no model that can be loaded ({type(error).__name__}): restore it or train again"
        ) from error

    def scorer(files: Sequence[bytes]) -> list[dict[str, float] | ImageError]:
        try:
            output = serve(image_bytes=tf.constant(files, tf.string))
        except tf.errors.InvalidArgumentError:
            if len(files) == 1:
                return [_why_not(files[0])]
            middle = len(files) // 2
            return [*scorer(files[:middle]), *scorer(files[middle:])]
        return [
            # Nine digits tell any two float32 apart.
            {genre.decode(): float(f"{score:.9g}") for genre, score in zip(names, scores, strict=True)}
            for names, scores in zip(output["genres"].numpy(), output["scores"].numpy(), strict=True)
        ]

    return scorer


def predict(
    paths: Sequence[str], scorer: Scorer, thresholds: Mapping[str, float], *, cache_dir: Path
) -> Iterator[Prediction | Failure]:
    """Yields a result for each picture, in the order of `paths`.

    Args:
      paths: files (local or in a bucket) and URLs.
      scorer: see `load_scorer`.
      thresholds: for each genre the least score at which it is predicted.
      cache_dir: where the pictures behind URLs are put.

    Raises:
      UserError: the model has other genres than `thresholds`.
    """
    urls = [path for path in paths if addresses.is_web(path)]
    fetched = web.download(urls, cache_dir=cache_dir) if urls else {}
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
    """Yields a batch of the paths and what is in the files at a time; the next is read while one is worked on."""
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
            f"the model's genres ({', '.join(outcome)}) are not those of metrics.json ({', '.join(thresholds)}): "
            "the job directory is a mixture of two jobs"
        )
    return Prediction(path, tuple(genre for genre, score in outcome.items() if score >= thresholds[genre]), outcome)


def _images(argument: str) -> list[str]:
    """What an argument stands for: itself, or the pictures right in a folder, by name."""
    if addresses.is_web(argument):
        return [argument]
    if addresses.is_other_service(argument):
        raise UserError(f"{addresses.shown(argument)}: name a file or folder, local or gs://…, or an http(s) URL")
    folder = epath.Path(argument).expanduser()
    if not files.is_folder(folder):
        return [argument]
    found = [str(path) for path in files.children(folder) if path.suffix.lower() in formats.EXTENSIONS]
    if not found:
        raise UserError(f"{argument} holds no pictures ({', '.join(formats.EXTENSIONS)}): name another folder")
    return found


def _read(path: str, fetched: Mapping[str, Path | ImageError]) -> bytes | ImageError:
    """The bytes of a file, or why there are none."""
    try:
        source = fetched[path] if addresses.is_web(path) else path
        if isinstance(source, ImageError):
            return source
        return folders.read_image(str(source))
    except ImageError as error:
        return error


def _checked(file: bytes | ImageError) -> bytes | ImageError:
    """The same, if its header is that of a picture; whether the rest can be decoded, the model finds out."""
    try:
        if isinstance(file, bytes):
            decode.check_header(file)
    except ImageError as error:
        return error
    return file


def _why_not(file: bytes) -> ImageError:
    """What is wrong with a file that TensorFlow cannot decode, whose errors are not for users."""
    try:
        # At the smallest scale, because the pixels are not used.
        decode.decode(file, height=1, width=1)
    except ImageError as error:
        return error
    return ImageError(Reason.CORRUPT, "TensorFlow cannot decode it")


def _print_json(results: Iterator[Prediction | Failure]) -> int:
    """Prints each result as soon as it is there; returns the number of failures."""
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
    """Prints a table once all results are there; returns the number of failures."""
    collected = list(progress(results, total=total, what="naming genres"))
    rows = [("IMAGE", "GENRES", "NEXT LIKELIEST"), *map(_row, collected)]
    first, second, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for image, genres, others in rows:
        print(f"{image:{first}}  {genres:{second}}  {others}".rstrip())
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
