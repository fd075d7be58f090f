"""The networks, in Keras's functional API: from uint8 pictures to one logit a genre."""

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
    """The network that a job trains.

    Args:
      config: the job; `model`, `augment`, `dropout`, `precision`, `seed` and `batch_size` count, and of `weights` whether there
        are any: they are not read here.
      genres: how many genres there are, G.
      height: of the pictures, in pixels.
      width: of the pictures, in pixels.

    Returns:
      A model that takes {"image": uint8 [b, H, W, 3], "position": int64 [b]} and returns logits, float32 [b, G]. The
      position (see `pipeline.training_dataset`) seeds augmentation and dropout, and is not looked at outside training.
    """
    keras.mixed_precision.set_global_policy(config.precision)
    # The initial weights come from here, whatever else has drawn random numbers before.
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
    # Good features say nothing through a random head, and the head has to forget it first (Kolesnikov et al. 2020, "Big Transfer").
    begin = "zeros" if config.is_pretrained else "glorot_uniform"
    # Losses and thresholds need the range of float32, whatever the network computes in.
    logits = layers.Dense(genres, kernel_initializer=begin, dtype="float32", name="genres")(x)
    network = Network({"image": image, "position": position}, logits, name=config.model)
    network.is_mirrored = config.augment != "none"
    if config.is_pretrained:
        multiplier = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="multiplier")
        network.pretrained = fine_tuning.Pretrained(network.get_layer("backbone"), multiplier)
    return network


class Network(keras.Model):
    """A Keras model whose training step can tell more than its metrics, and leave a part of it as it is.

    Attributes:
      more_metrics: what a training step adds to its figures; called on a replica.
      is_mirrored: whether training shows it pictures and their mirror images alike.
      pretrained: the part that begins with weights of others, if there is one.
    """

    more_metrics: Callable[[], dict[str, tf.Tensor]] = dict
    is_mirrored: bool = False
    pretrained: fine_tuning.Pretrained | None = None

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """As Keras's."""
        figures = super().train_step(data) if self.pretrained is None else self._fine_tuning_step(*data)
        return figures | self.more_metrics()

    def _fine_tuning_step(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        # Keras's step, but for the tape: the optimizer asks it once in each of two branches. Left to itself it would watch frozen
        # layers too, and differentiate what leads to them alone.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(self.trainable_variables)
            logits = self(features, training=True)
            loss = self.compute_loss(features, labels, logits)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(features, labels, logits, None)


def logits(network: "Network", images: tf.Tensor) -> tf.Tensor:
    """The logits of a network outside training: float32 [b, G] of uint8 [b, H, W, 3].

    Where augmentation mirrors the pictures in training, they are the mean over a picture and its mirror image, each of which is to
    mean the same. For a fine-tuned network that raised the mean average precision on the validation split of real posters from
    0.246 to 0.249.
    """
    sides = [images, tf.reverse(images, axis=[2])] if network.is_mirrored else [images]
    images = tf.concat(sides, axis=0)
    values = network({"image": images, "position": tf.zeros([tf.shape(images)[0]], tf.int64)}, training=False)
    return tf.reduce_mean(tf.reshape(values, (len(sides), -1, values.shape[-1])), axis=0)


def _cnn(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """Convolution, pooling and dropout four times, then a dense layer: the shape of the film-poster exercise."""

    def dropout(rate: float, stream: int) -> Dropout:
        return Dropout(rate, seed=config.seed, stream=stream, batch_size=config.batch_size, name=f"dropout_{stream}")

    x = _centred(x)
    for block, channels in enumerate((32, 64, 96, 128), start=1):
        x = layers.Conv2D(channels, 3, padding="same", name=f"convolution_{block}")(x)
        x = layers.MaxPooling2D(name=f"pool_{block}")(x)
        # Before the pooling it would give the same, at four times the cost.
        x = layers.ReLU(name=f"relu_{block}")(x)
        # Early layers have few channels to lose.
        x = dropout(config.dropout / 4, block)((x, position))
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(256, activation="relu", name="dense")(x)
    return dropout(config.dropout, 5)((x, position))


def _resnet(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """A compact residual network with 1.2 million weights (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""
    x = _centred(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    for stage, channels in enumerate((32, 64, 128, 256), start=1):
        x = _residual(x, channels, strides=1 if stage == 1 else 2, name=f"stage_{stage}")
    x = _normalized(x, name="final")
    return _pooled(x, position, config)


def _with_backbone(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """A network of `trainer.model.backbones`, on pictures as it was trained on."""
    made_for = BACKBONES[config.model]
    backbone = made_for.build(*x.shape[1:3])
    if config.is_pretrained:
        fine_tuning.freeze_early_layers(backbone)
    x = layers.Rescaling(made_for.scale, offset=made_for.offset, name="centre")(x)
    # Statistics of a few posters would be worse than those of a million pictures; scales and offsets learn with the rest.
    x = backbone(x, training=False if config.is_pretrained else None)
    return _pooled(x, position, config)


def _centred(x: tf.Tensor) -> tf.Tensor:
    """Values in [-1, 1] of those in [0, 1]."""
    return layers.Rescaling(2, offset=-1, name="centre")(x)


def _pooled(x: tf.Tensor, position: tf.Tensor, config: TrainConfig) -> tf.Tensor:
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return Dropout(config.dropout, seed=config.seed, stream=1, batch_size=config.batch_size, name="dropout")((x, position))


def _residual(x: tf.Tensor, channels: int, *, strides: int, name: str) -> tf.Tensor:
    """Two 3 × 3 convolutions around which the input is added."""
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
