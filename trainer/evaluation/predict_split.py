"""A network's predictions for a whole split, under the job's strategy."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.evaluation.metrics.metrics import Predictions
from trainer.input import pipeline
from trainer.input.shard_cache import ShardCache
from trainer.model import networks
from trainer.process import heartbeat


class SplitPredictor:
    """Predicts a split again and again, as the network learns: traced once, the labels read once."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        dataset: manifest.Dataset,
        split: str,
        *,
        batch_size: int,
        cache: ShardCache | None = None,
    ) -> None:
        """Args:
          strategy: that the network was made under.
          network: takes pictures and positions, gives logits.
          dataset: the data set.
          split: its split.
          batch_size: pictures at a time, over all replicas together.
          cache: keeps the shards that are read.

        Raises:
          UserError: the split is not there or empty.
        """
        replicas = strategy.num_replicas_in_sync
        self._genres = dataset.genres
        self._labelled = pipeline.read_labels(dataset, split)
        self._batches = strategy.distribute_datasets_from_function(
            lambda context: pipeline.evaluation_dataset(
                dataset,
                split,
                replica_batch=-(-batch_size // replicas),
                replicas=replicas,
                worker=context.input_pipeline_id,
                workers=context.num_input_pipelines,
                cache=cache,
            )
        )

        @tf.function
        @tf.autograph.experimental.do_not_convert
        def forward(images: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            results = strategy.run(lambda *batch: (networks.logits(network, batch[0]), batch[1]), args=(images, rows))
            return tuple(strategy.gather(result, axis=0) for result in results)

        self._forward = forward

    @property
    def labels(self) -> np.ndarray:
        """Whether a film is of a genre, bool [N, G]."""
        return self._labelled.labels

    def logits(self) -> np.ndarray:
        """The logits of every film of the split, each once, float32 [N, G], in the order of `labels`.

        Raises:
          UserError: they are not finite.
        """
        logits = np.empty(self.labels.shape, np.float32)
        for batch in self._batches:
            values, rows = (part.numpy() for part in self._forward(*batch))
            real = rows >= 0
            logits[rows[real]] = values[real]
            heartbeat.beat()
        if not np.isfinite(logits).all():
            raise UserError("the network's outputs are not finite: lower --learning_rate, or lengthen --warmup_epochs")
        return logits

    def predictions(self, logits: np.ndarray, temperature: float = 1.0) -> Predictions:
        """The scores that belong to what `logits` returned, at a temperature of `calibration.fit_temperature`."""
        scores = tf.sigmoid(logits / np.float32(temperature)).numpy()
        return Predictions(ids=self._labelled.ids, genres=self._genres, labels=self.labels, scores=scores)
