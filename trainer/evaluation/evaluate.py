"""Evaluates a network: quickly after each epoch, and with a report at a job's end or on other data."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.dataset import manifest, near_duplicates
from trainer.evaluation.metrics import assessment, metrics
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import examples, extremes, page, text
from trainer.input import pipeline

_log = logging.getLogger(__name__)

_POSTERS_SHOWN = 30


def epoch_metrics(predictor: SplitPredictor, loss: keras.losses.Loss) -> dict[str, float | None]:
    """The figures of a split for history.csv; `loss` is what training minimises, so that the two compare."""
    logits = predictor.logits()
    predictions = predictor.predictions(logits)
    figures = metrics.compute(
        predictions, split="validation", thresholds=dict.fromkeys(predictions.genres, 0.5), train_genre_counts={}
    )
    return {
        "loss": float(tf.reduce_mean(loss.call(tf.constant(predictor.labels, tf.float32), tf.constant(logits)))),
        "accuracy": figures["accuracy"],
        "precision": figures["at_0.5"]["precision"],
        "recall": figures["at_0.5"]["recall"],
        "f1_micro": figures["at_0.5"]["f1_micro"],
        "f1_macro": figures["at_0.5"]["f1_macro"],
        "mean_average_precision": figures["mean_average_precision"],
        "roc_auc": figures["roc_auc"],
    }


def evaluate(
    predictor: SplitPredictor,
    dataset: manifest.Dataset,
    output: epath.Path,
    *,
    split: str,
    thresholds: Mapping[str, float],
    temperature: float,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Evaluates a network on a split and writes its figures, plots and report.

    Args:
      predictor: of that split.
      dataset: the data set.
      output: the folder to write.
      split: the split's name.
      thresholds: by genre, chosen on the validation split of the data that the network was trained on.
      temperature: fitted there, before the thresholds were chosen.
      config: what the job's config.json says: its settings, for the report, and `data`, which it was trained on.
      history: its epochs; empty leaves the curves out.

    Returns:
      What metrics.json holds.
    """
    predictions = predictor.predictions(predictor.logits(), temperature)
    trained_on = config["data"]
    # Of another data set, near_duplicates.csv says nothing of the films that the job was trained on.
    leaked = near_duplicates.leaked(dataset, split) if dataset.fingerprint == trained_on["fingerprint"] else None
    figures = assessment.assess(
        predictions,
        split=split,
        fingerprint=dataset.fingerprint,
        trained_on=trained_on,
        thresholds=thresholds,
        temperature=temperature,
        leaked=leaked,
    )
    for verdict in text.verdicts(figures):
        _log.log(logging.INFO if verdict.clear else logging.WARNING, "%s", verdict.sentence)
    sample = examples.pick_examples(predictions, _POSTERS_SHOWN)
    rows = {*sample, *(row for genre in extremes.pick(predictions, figures) for row in genre.rows)}
    images = pipeline.read_images(dataset, split, sorted(rows))
    page.write(
        output,
        metrics=figures,
        predictions=predictions,
        history=history,
        config=config,
        sample=[predictions.ids[row] for row in sample],
        images={predictions.ids[row]: image for row, image in images.items()},
        train_genre_counts=trained_on["train"]["genre_counts"],
        train_examples=trained_on["train"]["examples"],
    )
    return figures
