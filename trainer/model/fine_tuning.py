"""Training on from weights that others have trained: the head learns first, then the backbone's later layers too, more slowly."""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model.adam import Adam


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The part of a network that begins with weights of others.

    Attributes:
      backbone: that part.
      multiplier: of its learning rate; a variable, float32, that a callback sets before every step. At 0 it is frozen.
    """

    backbone: keras.Model
    multiplier: tf.Variable


def freeze_early_layers(backbone: keras.Model) -> None:
    """Freezes for good each layer whose feature map is higher than an eighth of the picture: the stem and the first stages.

    Their filters, of edges and colours, serve any pictures (Yosinski et al. 2014, "How transferable are features in deep neural
    networks?"), and their feature maps are the largest, so that their gradients would be the dearest part of a step.
    """
    # Each stride rounds up.
    eighth = math.ceil(backbone.input_shape[1] / 8)
    for layer in backbone.layers:
        if layer.weights and layer.output_shape[1] > eighth:
            layer.trainable = False


def multiplier(config: TrainConfig, *, steps_per_epoch: int) -> Callable[[int], float]:
    """The multiplier of the backbone's learning rate, as a function of the global step alone.

    It rises to `backbone_rate` over an epoch: the optimizer's averages have not seen the backbone's gradients before, and its first
    steps are too long for weights that are good already.
    """
    frozen = round(config.freeze_epochs * steps_per_epoch)

    def at(step: int) -> float:
        return config.backbone_rate * min(max(step + 1 - frozen, 0) / steps_per_epoch, 1.0)

    return at


class DiscriminativeAdam(Adam):
    """Adam, or AdamW where it is given a decay, with discriminative learning rates: one for the head, one for the backbone.

    See Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification". While the backbone's is 0 its
    gradients are not computed.
    """

    def __init__(self, pretrained: Pretrained, *, learning_rate: float, weight_decay: float | None) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self._multiplier = pretrained.multiplier
        self._of_backbone = frozenset(self._var_key(variable) for variable in pretrained.backbone.trainable_variables)

    def compute_gradients(
        self, loss: tf.Tensor, var_list: list[tf.Variable], tape: tf.GradientTape
    ) -> list[tuple[tf.Tensor, tf.Variable]]:
        """As Keras's; the tape must be a persistent one."""
        in_backbone = [self._is_of_backbone(variable) for variable in var_list]

        def all_of_them() -> list[tf.Tensor]:
            return tape.gradient(loss, var_list)

        def those_of_the_head() -> list[tf.Tensor]:
            head = [variable for variable, inside in zip(var_list, in_backbone, strict=True) if not inside]
            gradients = iter(tape.gradient(loss, head))
            return [
                tf.zeros(variable.shape, variable.dtype) if inside else next(gradients)
                for variable, inside in zip(var_list, in_backbone, strict=True)
            ]

        return list(zip(tf.cond(self._multiplier > 0, all_of_them, those_of_the_head), var_list, strict=True))

    def learning_rate_of(self, variable: tf.Variable) -> tf.Tensor:
        """The learning rate of a weight: a backbone's is smaller."""
        rate = super().learning_rate_of(variable)
        return rate * tf.cast(self._multiplier, rate.dtype) if self._is_of_backbone(variable) else rate

    def _is_of_backbone(self, variable: tf.Variable) -> bool:
        return self._var_key(variable) in self._of_backbone
