"""Writes the SavedModel that a TensorFlow server can serve: image files in, a score for every genre out."""

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
    """Writes a SavedModel that decodes and resizes images itself, only with TensorFlow's own ops.

    Its signature `serving_default` takes `image_bytes`, string [N] (JPEG, PNG or WebP files; N may be 0), and returns
    `scores`, float32 [N, G], and `genres`, string [N, G]. Every row repeats the genres' names, because the REST interface of
    TensorFlow Serving wants the batch as the first dimension of every output. A file that cannot be decoded, or has more than
    `trainer.images.decode.MAX_PIXELS`, fails its request (INVALID_ARGUMENT).

    Args:
      model: a function from images, uint8 [N, height, width, 3], to logits, float32 [N, G].
      path: the path of the SavedModel's folder, which is created.
      genres: the names of the G genres, in the order of the logits.
      height: the height in pixels of the images that the model takes.
      width: the width in pixels of the images that the model takes.
      temperature: the number by which the logits are divided before the sigmoid.
    """

    def image(data: tf.Tensor) -> tf.Tensor:
        return tf_decode.resize(tf_decode.decode(data, height=height, width=width), height=height, width=width)

    # AutoGraph would rewrite every function that is called here, to find ifs and loops on tensors, which this package does not
    # use. Without it, at all such calls, a short job takes a seventh less time.
    @tf.autograph.experimental.do_not_convert
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(image, image_bytes, fn_output_signature=tf.TensorSpec([height, width, 3], tf.uint8))
        count = tf.size(image_bytes)
        # TensorFlow's fusion of convolution and batch normalization fails on an empty batch, so that one gets a black image.
        at_least_one = tf.pad(images, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        scores = tf.sigmoid(model(at_least_one) / temperature)[:count]
        return {"scores": scores, "genres": tf.tile([list(genres)], [count, 1])}

    signature = tf.function(serve).get_concrete_function(tf.TensorSpec([None], tf.string, name="image_bytes"))
    module = tf.Module()
    # Only the variables that the signature reads: a Keras model as an attribute would add the functions of all its layers.
    # They are sorted because the order of `graph.variables` differs from run to run, and with it the files would.
    module.weights = sorted(signature.graph.variables, key=lambda variable: variable.name)
    tf.saved_model.save(module, os.fspath(path), signatures={"serving_default": signature})
