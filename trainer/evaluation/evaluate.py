"""Evaluates a network on a split: quickly after each epoch, or with a report at the end of a job and in trainer.evaluate."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.dataset import manifest, near_duplicates
from trainer.evaluation.metrics.metrics import compute_metrics
from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import examples, extremes, page
from trainer.input import pipeline

_POSTERS_SHOWN = 30


def epoch_metrics(predictor: SplitPredictor, loss: keras.losses.Loss) -> dict[str, float | None]:
    """Returns the validation metrics of an epoch, by their column in history.csv without `val_`.

    Args:
      predictor: the predictor for the validation split.
      loss: the loss that training minimises, so that training and validation losses can be compared.
    """
    logits = predictor.logits()
    predictions = predictor.predictions(logits)
    metrics = compute_metrics(
        predictions, split="validation", thresholds=dict.fromkeys(predictions.genres, 0.5), train_genre_counts={}
    )
    return {
        "loss": float(tf.reduce_mean(loss.call(tf.constant(predictor.labels, tf.float32), tf.constant(logits)))),
        "accuracy": metrics["accuracy"],
        "precision": metrics["at_0.5"]["precision"],
        "recall": metrics["at_0.5"]["recall"],
        "f1_micro": metrics["at_0.5"]["f1_micro"],
        "f1_macro": metrics["at_0.5"]["f1_macro"],
        "mean_average_precision": metrics["mean_average_precision"],
        "roc_auc": metrics["roc_auc"],
    }


def evaluate_split(
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
    """Evaluates a network on a split and writes the metrics, the predictions, the charts and the report.

    Args:
      predictor: the network's predictor for the split.
      dataset: the data set that the split belongs to.
      output: the folder to write.
      split: the name of the split.
      thresholds: the tuned threshold of each genre, chosen on the validation split of the data set that the job was
        trained on.
      temperature: the temperature, fitted on the same validation split before the thresholds were chosen.
      config: the contents of the job's config.json; the report shows them, and `data` describes the data set trained on.
      history: a row for each epoch, with the columns of history.csv; without rows the report has no training curves.

    Returns:
      The contents of metrics.json.
    """
    predictions = predictor.predictions(predictor.logits(), temperature)
    trained_on = config["data"]
    # The near_duplicates.csv of another data set does not know the films that the job was trained on.
    leaked = near_duplicates.leaked(dataset, split) if dataset.fingerprint == trained_on["fingerprint"] else None
    metrics = compute_metrics_json(
        predictions,
        split=split,
        fingerprint=dataset.fingerprint,
        trained_on=trained_on,
        thresholds=thresholds,
        temperature=temperature,
        leaked=leaked,
    )
    sample = examples.pick_examples(predictions, _POSTERS_SHOWN)
    rows = {*sample, *(row for genre in extremes.pick_extremes(predictions, metrics) for row in genre.rows)}
    images = pipeline.read_images(dataset, split, sorted(rows))
    page.write_report(
        output,
        metrics=metrics,
        predictions=predictions,
        history=history,
        config=config,
        sample=[predictions.ids[row] for row in sample],
        images={predictions.ids[row]: image for row, image in images.items()},
        train_genre_counts=trained_on["train"]["genre_counts"],
        train_examples=trained_on["train"]["examples"],
    )
    return metrics
