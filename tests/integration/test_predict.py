import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image

from tests.fakes.storage.faults import Plan
from tests.fakes.storage.server import Storage
from tests.support import commands
from trainer.model import export

GENRES = ("Red", "Green", "Blue")

refusal = functools.partial(commands.refusal, "trainer.predict")


@pytest.fixture(scope="module")
def job_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job whose model scores a genre by the mean of a colour channel."""

    gain = tf.Variable([[0.05] * len(GENRES)])

    def mean_colour(images: tf.Tensor) -> tf.Tensor:
        return gain * (tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) - 127)

    job_dir = tmp_path_factory.mktemp("job")
    export.export(mean_colour, job_dir / "model", genres=GENRES, height=12, width=8, temperature=1.0)
    write_thresholds(job_dir, {"Red": 0.5, "Green": 0.5, "Blue": 0.001})
    (job_dir / "DONE.json").write_text("{}")
    return job_dir


def write_thresholds(job_dir: Path, thresholds: dict[str, float]) -> None:
    (job_dir / "evaluation").mkdir(exist_ok=True)
    (job_dir / "evaluation" / "metrics.json").write_text(json.dumps({"tuned": {"thresholds": thresholds}}))


def save(path: Path, colour: str, **options: Any) -> str:
    Image.new("RGB", (40, 60), colour).save(path, **options)
    return str(path)


def predict(*arguments: object, code: int = 0, **environment: str) -> list[str]:
    """Returns the lines that the command prints."""
    # The image server is this machine, whatever proxy the environment names.
    environment = {**commands.ENVIRONMENT, "NO_PROXY": "127.0.0.1", **environment}
    done = commands.run("trainer.predict", *arguments, code=code, env=environment)
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a server for the files in `tmp_path / "web"`."""
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_json_has_a_line_for_every_image_and_bad_images_do_not_affect_good_ones(job_dir: Path, tmp_path: Path, web: str) -> None:
    red = save(tmp_path / "red.jpg", "red", quality=100, subsampling=0)
    empty, cut_off = tmp_path / "empty.jpg", tmp_path / "cut_off.jpg"
    corrupt, missing = tmp_path / "corrupt.png", tmp_path / "missing.jpg"
    empty.touch()
    cut_off.write_bytes(Path(red).read_bytes()[:-100])  # The header stays valid.
    corrupt.write_bytes(b"\x89PNG\r\n\x1a\nthis is not an image IEND")
    folder = tmp_path / "folder"
    folder.mkdir()
    in_folder = [save(folder / "1.webp", "lime"), save(folder / "2.PNG", "red"), save(folder / "3.jpeg", "blue")]
    (folder / "notes.txt").write_text("not an image, and ignored")
    save(tmp_path / "web" / "green.png", "lime")

    web_images = [f"{web}/green.png", f"{web}/gone.png"]
    images = [red, empty, cut_off, corrupt, missing, folder, *web_images, red]
    lines = [json.loads(line) for line in predict(f"--job_dir={job_dir}", *images, "--json", code=2)]

    bad = [str(empty), str(cut_off), str(corrupt), str(missing)]
    assert [line["path"] for line in lines] == [red, *bad, *in_folder, *web_images, red]
    assert [line.get("genres") for line in lines] == [
        *(["Red", "Blue"], None, None, None, None),  # Blue's threshold is below the score of an image without blue.
        *(["Green", "Blue"], ["Red", "Blue"], ["Blue"]),
        *(["Green", "Blue"], None, ["Red", "Blue"]),
    ]
    assert lines[0].keys() == {"path", "genres", "scores"}
    assert lines[0]["scores"] == pytest.approx({"Red": 0.998, "Green": 0.002, "Blue": 0.002}, abs=0.001)
    errors = [line["error"].partition(":")[0] for line in lines if "error" in line]
    assert errors == ["empty", "truncated", "corrupt", "no_picture", "not_fetched"]


def test_the_table_has_more_images_than_a_batch_in_the_order_of_their_names(job_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "job").symlink_to(job_dir)
    (tmp_path / "posters").mkdir()
    for number in range(70):
        save(tmp_path / "posters" / f"{number:02}.png", ("red", "lime")[number % 2])

    header, *rows, last = predict("--job_dir=~/job", "~/posters", "~/posters/00.png", HOME=str(tmp_path))

    assert header.split() == ["IMAGE", "GENRES", "NEXT", "LIKELIEST"]
    assert [Path(row.split()[0]).name for row in rows] == [f"{number:02}.png" for number in range(70)]
    assert rows[0].split()[1:] == ["Red", "1.00,", "Blue", "0.00", "Green", "0.00"]
    assert rows[69].split()[1:] == ["Green", "1.00,", "Blue", "0.00", "Red", "0.00"]
    assert last.split() == ["~/posters/00.png", *rows[0].split()[1:]]


def test_images_that_only_the_model_refuses_fail_alone(job_dir: Path, tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", "lime")
    moving = save(tmp_path / "moving.webp", "red", save_all=True, append_images=[Image.new("RGB", (40, 60), "blue")])
    damaged = tmp_path / "damaged.png"
    content = bytearray(Path(good).read_bytes())
    content[content.index(b"IEND") - 5] ^= 0xFF  # The checksum of the pixels, which Pillow may ignore.
    damaged.write_bytes(content)

    lines = [json.loads(line) for line in predict(f"--job_dir={job_dir}", moving, damaged, good, "--json", code=2)]

    assert ["error" in line for line in lines] == [True, True, False]
    assert lines[2]["genres"] == ["Green", "Blue"]


def test_endless_and_too_large_files_are_errors_of_their_own(job_dir: Path, tmp_path: Path) -> None:
    good, pipe, endless, long = (tmp_path / name for name in ("good.png", "pipe.png", "endless.png", "long.png"))
    save(good, "lime")
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    long.touch()
    os.truncate(long, 1 << 40)

    lines = [json.loads(line) for line in predict(f"--job_dir={job_dir}", tmp_path, "/dev/zero", "--json", code=2)]

    found = {line["path"]: line.get("error") for line in lines}
    irregular = "no_picture: not a regular file"
    assert found == {
        str(endless): irregular,
        str(good): None,
        str(long): "too_large: more than 268,435,456 bytes",
        str(pipe): irregular,
        "/dev/zero": irregular,
    }


def test_images_in_a_bucket(job_dir: Path, tmp_path: Path, cloud: Storage) -> None:
    Path(save(tmp_path / "red.png", "red"))
    bucket = cloud.bucket("predict")
    for name in ("folder/b.png", "folder/a.PNG", "folder/deep/c.png", "folder/notes.txt", "red.png"):
        cloud.put(f"{bucket}/{name}", (tmp_path / "red.png").read_bytes())
    names = [f"{bucket}/red.png", f"{bucket}/none.png", f"{bucket}/folder"]

    lines = [json.loads(line) for line in predict(f"--job_dir={job_dir}", *names, "--json", code=2, **cloud.environment)]

    assert [line["path"].removeprefix(f"{bucket}/") for line in lines] == ["red.png", "none.png", "folder/a.PNG", "folder/b.png"]
    assert [line.get("error") for line in lines] == [None, "no_picture: no such file", None, None]
    environment = commands.ENVIRONMENT | cloud.environment
    line = refusal(f"--job_dir={job_dir}", "gs://nowhere-at-all/a.png", env=environment)
    assert "there is no bucket gs://nowhere-at-all" in line
    cloud.inject(Plan(("403",), match="red.png"))
    line = refusal(f"--job_dir={job_dir}", names[0], env=environment)
    cloud.clear()
    assert "lacks storage.objects." in line


def test_arguments_are_checked_before_tensorflow_is_imported(job_dir: Path, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["tensorflow"] = None  # Importing it would be a crash, and no error of the user's.
from trainer import predict
from trainer.process import entry
entry.run(predict.main)
"""
    for arguments in ((), (f"--job_dir={tmp_path}", "poster.jpg"), (f"--job_dir={job_dir}",), (f"--job_dir={job_dir}", tmp_path)):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, cwd=commands.REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pattern", ["saved_model.pb", "variables/variables.index", "variables/variables.data*"])
def test_a_model_with_a_file_cut_off_is_an_error(job_dir: Path, tmp_path: Path, pattern: str) -> None:
    shutil.copytree(job_dir, tmp_path / "job")
    (file,) = (tmp_path / "job" / "model").glob(pattern)
    os.truncate(file, file.stat().st_size // 2)
    line = refusal(f"--job_dir={tmp_path / 'job'}", save(tmp_path / "red.png", "red"))
    assert f"{tmp_path}/job/model cannot be loaded" in line
    assert "train again" in line
