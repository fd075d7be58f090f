"""The networks, in Keras's functional API: from uint8 images to one logit for each genre."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model import augment, fine_tuning
from trainer.model.backbones import BACKBONES
from trainer.model.layers import BatchNormalization, Dropout

layers = keras.layers


def build(config: TrainConfig, *, genres: int, height: int, width: int) -> "Network":
    """Returns the network that a job trains, with its initial weights; pretrained weights are not loaded here.

    Args:
      config: the job's flags, of which `model`, `augment`, `dropout`, `precision`, `seed` and `batch_size` matter, and whether
        `weights` is none.
      genres: the number of genres, G.
      height: the height of the images in pixels.
      width: the width of the images in pixels.

    Returns:
      A model that takes {"image": uint8 [b, H, W, 3], "position": int64 [b]} and returns logits, float32 [b, G]. The
      position (see `pipeline.training_dataset`) seeds augmentation and dropout, and is not used outside training.
    """
    keras.mixed_precision.set_global_policy(config.precision)
    # The initial weights depend only on this seed, whatever has drawn random numbers before.
    keras.utils.set_random_seed(config.seed)
    image = keras.Input((height, width, 3), dtype=tf.uint8, name="image")
    position = keras.Input((), dtype=tf.int64, name="position")

    x = layers.Rescaling(1 / 255, dtype="float32", name="scale")(image)
    if config.augment != "none":
        strength = augment.STRENGTHS[config.augment]
        changes = augment.Augment(strength, seed=config.seed, batch_size=config.batch_size, dtype="float32", name="augment")
        x = changes((x, position))

    body = {"cnn": _cnn, "resnet": _resnet}.get(config.model, _with_backbone)
    x = body(x, position, config)
    # A random head would turn good features into noise that it has to unlearn first (Kolesnikov et al. 2020, "Big Transfer").
    initializer = "zeros" if config.is_pretrained else "glorot_uniform"
    # Losses and thresholds need the range and precision of float32, whatever the network computes in.
    logits = layers.Dense(genres, kernel_initializer=initializer, dtype="float32", name="genres")(x)
    network = Network({"image": image, "position": position}, logits, name=config.model)
    network.is_mirrored = config.augment != "none"
    if config.is_pretrained:
        multiplier = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="multiplier")
        network.pretrained = fine_tuning.Pretrained(network.get_layer("backbone"), multiplier)
    return network


class Network(keras.Model):
    """A Keras model whose training step can return more metrics, and can leave its backbone frozen.

    Attributes:
      more_metrics: a function that a training step calls on each replica; its results are added to the step's metrics.
      is_mirrored: whether training mirrors images at random.
      pretrained: the part that starts with pretrained weights, or None.
    """

    more_metrics: Callable[[], dict[str, tf.Tensor]] = dict
    is_mirrored: bool = False
    pretrained: fine_tuning.Pretrained | None = None

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Trains on one batch (features, labels), and returns the metrics by name, as Keras's method does."""
        metrics = super().train_step(data) if self.pretrained is None else self._fine_tuning_step(*data)
        return metrics | self.more_metrics()

    def _fine_tuning_step(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        # As Keras's step, but with another tape. It is persistent, because the optimizer uses it in each of two branches. It
        # watches only the weights that learn; else it would also differentiate what leads only to frozen layers.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(self.trainable_variables)
            logits = self(features, training=True)
            loss = self.compute_loss(features, labels, logits)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(features, labels, logits, None)


def logits(network: "Network", images: tf.Tensor) -> tf.Tensor:
    """Returns the logits of a network outside training.

    If augmentation mirrors images in training, the logits are the mean over an image and its mirror image, which should get the
    same genres. For a fine-tuned network this raised the mean average precision on the validation split of real posters from
    0.246 to 0.249.

    Args:
      network: the network.
      images: uint8 [b, H, W, 3].

    Returns:
      Logits, float32 [b, G].
    """
    sides = [images, tf.reverse(images, axis=[2])] if network.is_mirrored else [images]
    images = tf.concat(sides, axis=0)
    values = network({"image": images, "position": tf.zeros([tf.shape(images)[0]], tf.int64)}, training=False)
    return tf.reduce_mean(tf.reshape(values, (len(sides), -1, values.shape[-1])), axis=0)


def _cnn(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """Adds convolution, pooling and dropout four times, then a dense layer: the network of the film-poster exercise."""

    def dropout(rate: float, stream: int) -> Dropout:
        return Dropout(rate, seed=config.seed, stream=stream, batch_size=config.batch_size, name=f"dropout_{stream}")

    x = _centred(x)
    for block, channels in enumerate((32, 64, 96, 128), start=1):
        x = layers.Conv2D(channels, 3, padding="same", name=f"convolution_{block}")(x)
        x = layers.MaxPooling2D(name=f"pool_{block}")(x)
        # Before the pooling it would give the same result at four times the cost.
        x = layers.ReLU(name=f"relu_{block}")(x)
        # Early layers have few channels, so they lose fewer of them.
        x = dropout(config.dropout / 4, block)((x, position))
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(256, activation="relu", name="dense")(x)
    return dropout(config.dropout, 5)((x, position))


def _resnet(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """Adds a compact residual network, 1.2 million weights (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""
    x = _centred(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    for stage, channels in enumerate((32, 64, 128, 256), start=1):
        x = _residual(x, channels, strides=1 if stage == 1 else 2, name=f"stage_{stage}")
    x = _normalized(x, name="final")
    return _pooled(x, position, config)


def _with_backbone(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """Adds a network of `trainer.model.backbones`, after scaling the values as in its own training."""
    description = BACKBONES[config.model]
    backbone = description.build(*x.shape[1:3])
    if config.is_pretrained:
        fine_tuning.freeze_early_layers(backbone)
    x = layers.Rescaling(description.scale, offset=description.offset, name="centre")(x)
    # Statistics of a few posters would be worse than those of a million images. Scales and offsets still learn.
    x = backbone(x, training=False if config.is_pretrained else None)
    return _pooled(x, position, config)


def _centred(x: tf.Tensor) -> tf.Tensor:
    """Scales values from [0, 1] to [-1, 1]."""
    return layers.Rescaling(2, offset=-1, name="centre")(x)


def _pooled(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return Dropout(config.dropout, seed=config.seed, stream=1, batch_size=config.batch_size, name="dropout")((x, position))


def _residual(x: tf.Tensor, channels: int, *, strides: int, name: str) -> tf.Tensor:
    """Adds two 3 × 3 convolutions, whose result is added to their input."""
    residual = _normalized(x, name=f"{name}_1")
    shortcut = x
    if strides != 1 or x.shape[-1] != channels:
        shortcut = layers.AveragePooling2D(strides, padding="same", name=f"{name}_pool")(residual) if strides != 1 else residual
        shortcut = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_shortcut")(shortcut)
    residual = layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_a")(residual)
    residual = _normalized(residual, name=f"{name}_2")
    residual = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_b")(residual)
    return layers.Add(name=f"{name}_add")([shortcut, residual])


def _normalized(x: tf.Tensor, *, name: str) -> tf.Tensor:
    x = BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
