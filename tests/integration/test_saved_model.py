"""The exported model in a process that has only TensorFlow, like a TensorFlow server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from trainer.images import decode
from trainer.model import export

ODD_IMAGES = Path(__file__).parents[2].parent / "shared" / "data" / "odd_images"

# Run with -I from another folder, so that the project cannot be imported by accident.
STOCK_TENSORFLOW = """
import json, sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
files = [open(path, "rb").read() for path in sys.argv[2:]]
scores = serve(image_bytes=tf.constant(files))["scores"].numpy().tolist()
strangers = [name for name in sys.modules if name.partition(".")[0] in ("trainer", "tf_keras")]
print(json.dumps({"scores": scores, "strangers": strangers}))
"""


def mean_colour(images: tf.Tensor) -> tf.Tensor:
    return 0.05 * (tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) - 127)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "model"
    export.export(mean_colour, path, genres=("Red", "Green", "Blue"), height=12, width=8, temperature=1.0)
    return path


def scores_from_stock_tensorflow(model: Path, images: list[Path]) -> list[list[float]]:
    command = [sys.executable, "-I", "-c", STOCK_TENSORFLOW, str(model), *map(str, images)]
    # This project sets it, so that TensorFlow does not load Keras 3.
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(command, cwd=model, capture_output=True, text=True, check=True, env=environment)
    answer = json.loads(done.stdout)
    assert answer["strangers"] == []
    return answer["scores"]


def test_stock_tensorflow_serves_every_kind_of_image(model: Path, tmp_path: Path) -> None:
    red = Image.new("RGB", (40, 60), "red")
    kinds = {"a.jpg": red, "b.png": red.convert("P"), "c.webp": red.convert("RGBA"), "d.jpg": red.convert("CMYK")}
    for name, image in kinds.items():
        image.save(tmp_path / name)
    for scores in scores_from_stock_tensorflow(model, sorted(tmp_path.iterdir())):
        assert scores == pytest.approx([0.998, 0.002, 0.002], abs=0.001)


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason="no real CMYK and greyscale posters beside the repository")
def test_stock_tensorflow_sees_real_cmyk_and_greyscale_posters_as_pil_does(model: Path) -> None:
    images = sorted(ODD_IMAGES.iterdir())
    for path, scores in zip(images, scores_from_stock_tensorflow(model, images), strict=True):
        pixels = decode.resize(decode.decode(path.read_bytes(), height=12, width=8), height=12, width=8)
        expected = tf.sigmoid(mean_colour(pixels[None]))[0]
        # Half a grey level of CMYK's rounding moves a score by 0.05 * 0.5 / 4 at most.
        assert scores == pytest.approx(expected.numpy().tolist(), abs=0.0065)
