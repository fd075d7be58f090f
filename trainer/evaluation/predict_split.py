"""Predicts a whole split with a network, under the job's tf.distribute strategy."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.evaluation.metrics.predictions import Predictions
from trainer.input import pipeline
from trainer.input.shard_cache import ShardCache
from trainer.model import networks
from trainer.process import heartbeat


class SplitPredictor:
    """Predicts the same split repeatedly while the network learns: it traces the network and reads the labels only once."""

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
        """Reads the labels of the split.

        Args:
          strategy: the strategy under which the network was built.
          network: the network.
          dataset: the data set that the split belongs to.
          split: the name of the split.
          batch_size: the number of images in a batch, over all replicas together.
          cache: a cache for the shards that are read; None to read them from the data set each time.

        Raises:
          UserError: the data set has no such split, or the split is empty.
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
        """The true genres of each film, bool [N, G]."""
        return self._labelled.labels

    def logits(self) -> np.ndarray:
        """Returns the logits of every film in the split, float32 [N, G], in the order of `labels`.

        Raises:
          UserError: a logit is not finite.
        """
        logits = np.empty(self.labels.shape, np.float32)
        for batch in self._batches:
            values, rows = (part.numpy() for part in self._forward(*batch))
            is_film = rows >= 0  # Padding has the row -1.
            logits[rows[is_film]] = values[is_film]
            heartbeat.beat()
        if not np.isfinite(logits).all():
            raise UserError("the network's outputs are not finite: lower --learning_rate or raise --warmup_epochs")
        return logits

    def predictions(self, logits: np.ndarray, temperature: float = 1.0) -> Predictions:
        """Returns the predictions with the scores of these logits.

        Args:
          logits: float32 [N, G], as `logits` returns them.
          temperature: the temperature, from `calibration.fit_temperature`.
        """
        scores = tf.sigmoid(logits / np.float32(temperature)).numpy()
        return Predictions(ids=self._labelled.ids, genres=self._genres, labels=self.labels, scores=scores)
