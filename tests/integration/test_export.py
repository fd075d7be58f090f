import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from trainer.model import export

GENRES = ("Red", "Green", "Blue")
HEIGHT, WIDTH = 12, 8
TEMPERATURE = 0.25


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 60), colour).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255, input_shape=(HEIGHT, WIDTH, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "model"
    export.export(network(), path, genres=GENRES, height=HEIGHT, width=WIDTH, temperature=TEMPERATURE)
    return path


@pytest.fixture(scope="module")
def serve(exported: Path) -> Callable[..., dict[str, tf.Tensor]]:
    return tf.saved_model.load(str(exported)).signatures["serving_default"]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images_is_served(serve: Callable[..., dict[str, tf.Tensor]], count: int) -> None:
    output = serve(image_bytes=tf.constant([jpeg("orange")] * count, tf.string))
    assert output["scores"].dtype == tf.float32
    assert output["scores"].shape == (count, 3)
    assert output["genres"].numpy().tolist() == [[b"Red", b"Green", b"Blue"]] * count


def test_scores_are_the_sigmoid_of_the_models_logits_at_the_temperature(serve: Callable[..., dict[str, tf.Tensor]]) -> None:
    colours = ["red", "gray", "white"]
    pixels = np.stack([np.asarray(Image.new("RGB", (WIDTH, HEIGHT), colour)) for colour in colours])
    output = serve(image_bytes=tf.constant([jpeg(colour) for colour in colours]))
    np.testing.assert_allclose(output["scores"], tf.sigmoid(network()(pixels) / TEMPERATURE), atol=5e-3)


def test_one_unreadable_image_fails_the_request(serve: Callable[..., dict[str, tf.Tensor]]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(image_bytes=tf.constant([jpeg("red"), b"not an image"]))


def test_a_small_file_of_too_many_pixels_fails_the_request(serve: Callable[..., dict[str, tf.Tensor]]) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
        serve(image_bytes=tf.constant([buffer.getvalue()]))


def test_a_model_is_any_function_and_its_weights_are_written_in_a_fixed_order(tmp_path: Path) -> None:
    gains = [tf.Variable(0.01 * number, name=f"gain_{number}") for number in range(1, 9)]

    def brightness(images: tf.Tensor) -> tf.Tensor:
        return tf.add_n(gains) * (tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) - 127)

    export.export(brightness, tmp_path / "model", genres=GENRES, height=HEIGHT, width=WIDTH, temperature=1.0)

    weights = tf.train.load_checkpoint(str(tmp_path / "model" / "variables" / "variables"))
    for index, gain in enumerate(gains):
        assert weights.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE") == gain.numpy()

    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    scores = serve(image_bytes=tf.constant([jpeg("red"), jpeg("blue")]))["scores"].numpy()
    assert (scores > 0.5).tolist() == [[True, False, False], [False, False, True]]


def test_no_path_of_this_machine_is_written(exported: Path) -> None:
    root = str(Path(__file__).parents[2]).encode()
    assert not any(root in path.read_bytes() for path in exported.rglob("*") if path.is_file())
