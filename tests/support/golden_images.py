"""Drawn posters and the charts of a report, in tests/golden/images/: a small PNG for each.

After an intended change, or with another version of Pillow or matplotlib, this writes the files again. Look at those that differ:

    python -m tests.support.golden_images
    git diff --stat tests/golden/images
"""

import io
import random
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from trainer.demo import posters
from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.report import charts, examples, extremes, style

FOLDER = Path(__file__).parents[1] / "golden" / "images"

# Genres as they come: one with a long name, one of few films, and one that no film has.
_GENRES = ("Drama", "Comedy", "Mockumentaries of the Antarctic", "War", "Sci-Fi", "Western", "News")
_SHARES = np.array([0.6, 0.4, 0.2, 0.3, 0.15, 0.1, 0])
_THRESHOLDS = dict(zip(_GENRES, (0.45, 0.5, 0.4, 0.55, 0.35, 0.6, 1.9), strict=True))
_COUNTS = dict(zip(_GENRES, (230, 170, 60, 100, 90, 20, 0), strict=True))
_HISTORY = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.001 * epoch,
        "loss": 0.9 / epoch,
        "val_loss": 0.6 + 0.3 / epoch,
        "f1_micro": 0.1 * epoch,
        "val_f1_micro": 0.25,
        "val_mean_average_precision": (0.2, 0.35, 0.3)[epoch - 1],
        "val_roc_auc": 0.6 if epoch > 1 else None,
    }
    for epoch in (1, 2, 3)
]

# Another processor may round the edge of a line or a letter otherwise.
_SAME_LEVELS, _OTHER_PIXELS, _MEAN_LEVELS = 24, 6, 0.25


def draw_posters() -> dict[str, Image.Image]:
    """Returns a poster of each genre, and one of three genres, by the names of their files."""
    drawn = {genre: posters.draw("The Last Fiancée of Winter", [genre], random.Random(genre)) for genre in posters.STYLES}
    drawn["mixed"] = posters.draw("Río", ["Animation", "Horror", "Romance"], random.Random("three"))
    # Half of the size, and fewer levels, take little space.
    return {f"poster-{name}": poster.reduce(2).point(lambda level: level & 0xF8) for name, poster in drawn.items()}


def draw_charts() -> dict[str, Image.Image]:
    """Returns each chart of a report, by the names of their files."""
    draw = np.random.default_rng(5)
    labels = draw.random((120, len(_GENRES))) < _SHARES
    scores = (0.45 * labels + 0.6 * draw.random(labels.shape) ** 1.5).clip(0, 1).astype(np.float32)
    predictions = Predictions(tuple(f"film {row}" for row in range(120)), _GENRES, labels, scores)
    metrics = compute_metrics_json(
        predictions,
        split="test",
        fingerprint="f1",
        trained_on={"fingerprint": "f1", "train": {"examples": 400, "genre_counts": _COUNTS}},
        thresholds=_THRESHOLDS,
        temperature=1.5,
    )
    images = {
        film: np.full((18 + row % 3, 12, 3), (2 * row, 90, 255 - 2 * row), np.uint8) for row, film in enumerate(predictions.ids)
    }
    sample = {film: images[film] for film in predictions.ids[:8]}
    figures = {
        "training_history": charts.training_history(_HISTORY),
        "confusion_matrix": charts.confusion_matrix(predictions, metrics),
        "outcomes": charts.outcomes(metrics),
        "pr_curves": charts.pr_curves(predictions, metrics),
        "frequencies": charts.frequencies(metrics, _COUNTS, 400),
        "calibration": charts.calibration(metrics),
        "posters": examples.posters_chart(predictions, metrics, sample),
        "extremes": extremes.extremes_chart(predictions, metrics, images),
    }
    return {f"chart-{name}": _small(figure) for name, figure in figures.items()}


def _small(figure: Figure) -> Image.Image:
    image = Image.open(io.BytesIO(style.png(figure))).convert("RGB")
    return image.reduce(2).point(lambda level: level & 0xF0)


def difference(name: str, image: Image.Image) -> str:
    """Returns in which way an image differs from the file of this name; empty if it is the same but for rounding."""
    with Image.open(FOLDER / f"{name}.png") as file:
        expected = file.convert("RGB")
    if image.size != expected.size:
        return f"{image.size} pixels, not {expected.size}"
    levels = np.abs(np.asarray(image, np.float64) - np.asarray(expected, np.float64)).max(axis=2)
    other = int((levels > _SAME_LEVELS).sum())
    if other > _OTHER_PIXELS or levels.mean() > _MEAN_LEVELS:
        return f"{other} pixels are others, and all differ by {levels.mean():.2f} levels in the mean"
    return ""


def main() -> None:
    """Writes all files again."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, image in (draw_posters() | draw_charts()).items():
        image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
