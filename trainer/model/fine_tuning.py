"""Fine-tuning of pretrained weights: the head learns first, then the backbone's later layers too, at a lower rate."""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model.adam import Adam


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The part of a network that starts with pretrained weights.

    Attributes:
      backbone: the network without its head.
      multiplier: the multiplier of the backbone's learning rate, a variable, float32 [], that a callback sets before every step.
        At 0 the backbone is frozen.
    """

    backbone: keras.Model
    multiplier: tf.Variable


def freeze_early_layers(backbone: keras.Model) -> None:
    """Freezes every layer whose feature map is higher than an eighth of the image: the stem and the first stages.

    Their filters for edges and colours suit any image (Yosinski et al. 2014, "How transferable are features in deep neural
    networks?"). Their feature maps are the largest, so their gradients would be the most expensive part of a step.

    Args:
      backbone: the network, whose layers it changes.
    """
    # Each stride rounds up.
    eighth = math.ceil(backbone.input_shape[1] / 8)
    for layer in backbone.layers:
        if layer.weights and layer.output_shape[1] > eighth:
            layer.trainable = False


def multiplier(config: TrainConfig, *, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the multiplier of the backbone's learning rate, as a function of the global step alone.

    After `freeze_epochs` it rises from 0 to `backbone_rate` over one epoch: the optimizer's averages have not seen gradients of
    the backbone before, and its first steps would be too long for weights that are already good.

    Args:
      config: the job's flags.
      steps_per_epoch: the number of steps in an epoch.
    """
    frozen = round(config.freeze_epochs * steps_per_epoch)

    def at(step: int) -> float:
        return config.backbone_rate * min(max(step + 1 - frozen, 0) / steps_per_epoch, 1.0)

    return at


class DiscriminativeAdam(Adam):
    """Adam or AdamW with discriminative learning rates: one for the head, one for the backbone.

    See Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification". While the backbone's rate is 0, its
    gradients are not computed.
    """

    def __init__(self, pretrained: Pretrained, *, learning_rate: float, weight_decay: float | None) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self._multiplier = pretrained.multiplier
        self._backbone_keys = frozenset(self._var_key(variable) for variable in pretrained.backbone.trainable_variables)

    def compute_gradients(
        self, loss: tf.Tensor, var_list: list[tf.Variable], tape: tf.GradientTape
    ) -> list[tuple[tf.Tensor, tf.Variable]]:
        """Returns pairs of gradient and weight, as Keras's method does; the gradients of a frozen backbone are zeros.

        Args:
          loss: the loss, a scalar.
          var_list: the weights.
          tape: a persistent tape that has recorded the loss.
        """
        in_backbone = [self._is_in_backbone(variable) for variable in var_list]

        def with_backbone() -> list[tf.Tensor]:
            return tape.gradient(loss, var_list)

        def head_alone() -> list[tf.Tensor]:
            head = [variable for variable, inside in zip(var_list, in_backbone, strict=True) if not inside]
            gradients = iter(tape.gradient(loss, head))
            return [
                tf.zeros(variable.shape, variable.dtype) if inside else next(gradients)
                for variable, inside in zip(var_list, in_backbone, strict=True)
            ]

        return list(zip(tf.cond(self._multiplier > 0, with_backbone, head_alone), var_list, strict=True))

    def learning_rate_of(self, variable: tf.Variable) -> tf.Tensor:
        """Returns the learning rate of a weight: in the backbone it is multiplied by the multiplier."""
        rate = super().learning_rate_of(variable)
        return rate * tf.cast(self._multiplier, rate.dtype) if self._is_in_backbone(variable) else rate

    def _is_in_backbone(self, variable: tf.Variable) -> bool:
        return self._var_key(variable) in self._backbone_keys
