"""Writing the model that a TensorFlow server can serve: image files in, a score for every genre out."""

import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.images import tf_decode


def export(
    model: Callable[[tf.Tensor], tf.Tensor],
    path: os.PathLike[str],
    *,
    genres: Sequence[str],
    height: int,
    width: int,
    temperature: float,
) -> None:
    """Writes a SavedModel that decodes and resizes pictures itself, with TensorFlow's own ops alone.

    Its signature `serving_default` takes `image_bytes`, string [N] (JPEG, PNG or WebP files; N may be 0), and returns
    `scores`, float32 [N, G], and `genres`, string [N, G]: the names, again in every row, because TensorFlow Serving's
    REST interface wants the batch first in every output. A file that cannot be decoded, or has more than
    `trainer.images.decode.MAX_PIXELS`, fails its request (INVALID_ARGUMENT).

    Args:
      model: uint8 [N, height, width, 3] -> float32 logits [N, G].
      path: where the SavedModel's folder is made.
      genres: the G genres in the order of the logits.
      height: the height of the model's pictures in pixels.
      width: their width in pixels.
      temperature: what the logits are divided by before they become scores.
    """

    def image(data: tf.Tensor) -> tf.Tensor:
        return tf_decode.resize(tf_decode.decode(data, height=height, width=width), height=height, width=width)

    # AutoGraph would rewrite every function that is called here, for ifs and loops on tensors of which this package writes none: on
    # all paths together that took a seventh of a short job's time.
    @tf.autograph.experimental.do_not_convert
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(image, image_bytes, fn_output_signature=tf.TensorSpec([height, width, 3], tf.uint8))
        count = tf.size(image_bytes)
        # TensorFlow's fusion of convolution and batch normalization fails on an empty batch: it gets a black picture.
        at_least_one = tf.pad(images, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        scores = tf.sigmoid(model(at_least_one) / temperature)[:count]
        return {"scores": scores, "genres": tf.tile([list(genres)], [count, 1])}

    signature = tf.function(serve).get_concrete_function(tf.TensorSpec([None], tf.string, name="image_bytes"))
    module = tf.Module()
    # Just the variables that the signature reads: a Keras model as an attribute would bring all its layers' functions.
    # `graph.variables` is in no fixed order, which would show in the files.
    module.weights = sorted(signature.graph.variables, key=lambda variable: variable.name)
    tf.saved_model.save(module, os.fspath(path), signatures={"serving_default": signature})
