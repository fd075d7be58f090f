"""trainer.predict: which images the arguments name, what is printed for each, and what a damaged job ends with."""

import contextlib
import io
import json
import os
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from etils import epath
from PIL import Image

from tests.support import buckets, own_flags
from trainer.dataset.rejects import Reason
from trainer.errors import EXIT_DONE, EXIT_USER_ERROR, LostService, UserError
from trainer.images.decode import ImageError
from trainer.process import tensorflow_start
from trainer.sources import web

GENRES = ("Red", "Green", "Blue")
THRESHOLDS = {"Red": 0.5, "Green": 0.5, "Blue": 0.001}


def file(colour="red", format="PNG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(buffer, format, **options)
    return buffer.getvalue()


def mean_colours(images):
    """Scores a genre by the mean of a colour channel."""
    scores = []
    for data in images:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64).mean(axis=(0, 1))
        scores.append(dict(zip(GENRES, (pixels / 255).tolist(), strict=True)))
    return scores


@pytest.fixture
def predict(monkeypatch):
    return own_flags.load(monkeypatch, "trainer.predict", "--job_dir=unused")


@pytest.fixture
def model(tmp_path):
    """A SavedModel for PNG files, which scores a genre by the mean of a colour channel."""

    def serve(image_bytes):
        def mean(data):
            return tf.reduce_mean(tf.cast(tf.io.decode_png(data, 3), tf.float32), axis=[0, 1])

        means = tf.map_fn(mean, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
        scores = tf.sigmoid(0.05 * (means - 127))
        return {"scores": scores, "genres": tf.tile([list(GENRES)], [tf.size(image_bytes), 1])}

    signature = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"), signatures={"serving_default": signature})
    return tmp_path / "model"


@pytest.fixture
def job(tmp_path):
    """A finished job, without its model."""
    job = tmp_path / "job"
    (job / "evaluation").mkdir(parents=True)
    (job / "evaluation" / "metrics.json").write_text(json.dumps({"tuned": {"thresholds": THRESHOLDS}}))
    (job / "DONE.json").write_text("{}")
    return job


def save(path, colour="red"):
    path.write_bytes(file(colour))
    return str(path)


def run(patch, job, *arguments, options=()):
    """Runs the command with `mean_colours` in place of the job's model; returns its exit code."""
    command = own_flags.load(patch, "trainer.predict", f"--job_dir={job}", *options)
    patch.setattr(command, "load_scorer", lambda folder: mean_colours if folder == epath.Path(job) else None)
    return command.main([str(argument) for argument in arguments])


def test_json_has_a_line_for_each_image_with_the_scores_of_all_genres(monkeypatch, capsys, job, tmp_path):
    images = [save(tmp_path / "red.png"), save(tmp_path / "lime.png", "lime"), tmp_path / "gone.png"]
    assert run(monkeypatch, job, *images, options=("--json",)) == EXIT_USER_ERROR
    red, lime, gone = map(json.loads, capsys.readouterr().out.splitlines())
    assert red == {
        "path": str(images[0]),
        "genres": ["Red"],
        "scores": {"Red": 1.0, "Green": 0.0, "Blue": 0.0},
    }
    assert list(red["scores"]) == list(GENRES)
    assert lime["genres"] == ["Green"]
    assert gone == {"path": str(images[2]), "error": "no_picture: no such file"}


def test_a_json_line_is_written_as_soon_as_its_image_has_been_scored(predict, monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, "utf-8"))

    def scored():
        yield predict.Failure("first.png", "empty: 0 bytes")
        assert b"first.png" in pipe.getvalue()
        yield predict.Failure("second.png", "empty: 0 bytes")

    assert predict._print_json(scored()) == 2


def test_the_exit_code_is_0_if_each_image_could_be_used(monkeypatch, capsys, job, tmp_path):
    image = save(tmp_path / "red.png")
    assert run(monkeypatch, job, image, image, options=("--json",)) == EXIT_DONE
    assert run(monkeypatch, job, image) == EXIT_DONE
    assert run(monkeypatch, job, image, tmp_path / "gone.png") == EXIT_USER_ERROR
    assert capsys.readouterr().out.count("red.png") == 4


def test_the_table_has_the_likeliest_genres_first_and_the_next_three(predict, capsys):
    scores = {"A": 0.125, "B": 0.75, "C": 0.5, "D": 0.25, "E": 0.0625, "F": 0.03125}
    results = [
        predict.Prediction("poster.png", ("B", "C"), scores),
        predict.Failure("bad.png", "empty: 0 bytes"),
        predict.Prediction("a-longer-name.png", (), {"A": 0.25, "B": 0.5}),
    ]
    assert predict._print_table(iter(results), 3) == 1
    assert capsys.readouterr().out.splitlines() == [
        "IMAGE              GENRES                          NEXT LIKELIEST",
        "poster.png         B 0.75, C 0.50                  D 0.25, A 0.12, E 0.06",
        "bad.png            cannot be used: empty: 0 bytes",
        "a-longer-name.png  (none)                          B 0.50, A 0.25",
    ]


def test_no_image_is_an_error_before_tensorflow_starts(monkeypatch, job, tmp_path):
    monkeypatch.setattr(tensorflow_start, "start", lambda: pytest.fail("TensorFlow was started"))
    with pytest.raises(UserError, match="no images given: name at least one image file, folder or URL after the flags"):
        run(monkeypatch, job)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"folder holds no image file \(\.jpg, \.jpeg, \.png, \.webp, .*\): name another folder"):
        run(monkeypatch, job, tmp_path / "folder")
    with pytest.raises(UserError, match=r"s3://bucket/a\.jpg is not supported: name a file or folder, local or gs://"):
        run(monkeypatch, job, "s3://key:secret@bucket/a.jpg?signature=1")


def test_the_job_dir_is_required(monkeypatch):
    with pytest.raises(flags.IllegalFlagValueError, match="job_dir"):
        own_flags.load(monkeypatch, "trainer.predict")


def test_a_folder_stands_for_the_images_directly_in_it_sorted_by_name(monkeypatch, capsys, job, tmp_path):
    folder = tmp_path / "posters"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.WEBP", "a.jpg", "c.png", "notes.txt", "deeper/d.png", "._a.jpg", ".hidden.png"):
        (folder / name).write_bytes(file())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(monkeypatch, job, "~/posters", folder / "notes.txt", options=("--json",)) == EXIT_DONE
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [f"{folder}/a.jpg", f"{folder}/b.WEBP", f"{folder}/c.png", f"{folder}/notes.txt"]


def test_in_a_folder_a_file_without_extension_is_an_image_if_it_begins_like_one(monkeypatch, capsys, job, tmp_path):
    folder = tmp_path / "posters"
    (folder / "deeper").mkdir(parents=True)
    (folder / "poster17").write_bytes(file())
    (folder / "Dr. No").write_bytes(file("blue"))
    (folder / "README").write_text("about the posters")
    (folder / "album.jpg").mkdir()
    assert run(monkeypatch, job, folder, options=("--json",)) == EXIT_DONE
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [f"{folder}/Dr. No", f"{folder}/poster17"]


def test_an_image_of_a_folder_in_a_format_that_is_not_read_is_reported(monkeypatch, capsys, job, tmp_path):
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "a.gif").write_bytes(file(format="GIF"))
    (tmp_path / "posters" / "b.jfif").write_bytes(file(format="JPEG"))
    assert run(monkeypatch, job, tmp_path / "posters", options=("--json",)) == EXIT_USER_ERROR
    unread, read = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert unread["error"].startswith("unsupported_format: neither JPEG, PNG nor WebP")
    assert read["genres"] == ["Red"]


def test_a_folder_of_a_bucket_stands_for_the_images_directly_in_it(monkeypatch, capsys, job):
    bucket = buckets.in_memory(monkeypatch, "films")
    for name in ("", "a.png", "b", "c.txt", ".d.png", "deeper/e.png"):
        bucket.put(f"gs://films/posters/{name}", file())
    for folder in ("gs://films/posters", "gs://films/posters/"):
        assert run(monkeypatch, job, folder, options=("--json",)) == EXIT_DONE
        paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
        assert paths == ["gs://films/posters/a.png", "gs://films/posters/b"]


def test_a_file_name_that_is_not_valid_text_is_printed_escaped(monkeypatch, job, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(path)).write_bytes(file())
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr("sys.stdout", printed)
    assert run(monkeypatch, job, os.fsdecode(path)) == EXIT_DONE
    printed.flush()
    assert rb"\udcff.png" in printed.buffer.getvalue()


def results(predict, paths, tmp_path, *, scorer=mean_colours, thresholds=THRESHOLDS):
    return list(predict.predict([str(path) for path in paths], scorer, thresholds, cache_dir=tmp_path / "cache"))


def test_results_come_in_the_order_of_the_images_however_many_batches_they_are(predict, tmp_path):
    paths = [save(tmp_path / f"{number}.png", ("red", "lime", "blue")[number % 3]) for number in range(70)]
    sizes = []

    def scorer(files):
        sizes.append(len(files))
        return mean_colours(files)

    found = results(predict, paths, tmp_path, scorer=scorer)
    assert [result.path for result in found] == paths
    assert [result.genres[0] for result in found] == [GENRES[number % 3] for number in range(70)]
    assert sizes == [32, 32, 6]


def test_the_next_batch_is_read_while_the_model_works(predict, monkeypatch, tmp_path):
    read = []
    second_batch = threading.Event()

    def reading(path, fetched):
        read.append(path)
        if path == "40":
            second_batch.set()
        return file()

    monkeypatch.setattr(predict, "_read", reading)
    first = next(predict.predict([str(n) for n in range(100)], mean_colours, THRESHOLDS, cache_dir=tmp_path))
    assert first.path == "0"
    assert second_batch.wait(timeout=10)
    assert not set(read) & {str(n) for n in range(64, 100)}, "one batch ahead, not all images in memory"


def test_a_bad_image_does_not_affect_the_others(predict, tmp_path):
    empty, text, good = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "good.png"
    empty.touch()
    text.write_text("<html>")
    save(good)
    scored = []

    def scorer(files):
        scored.extend(files)
        return mean_colours(files)

    found = results(predict, [empty, good, text, tmp_path, good], tmp_path, scorer=scorer)
    errors = {Path(result.path).name: result.error for result in found if isinstance(result, predict.Failure)}
    assert errors == {
        "empty.png": "empty: 0 bytes",
        "text.png": "unsupported_format: neither JPEG, PNG nor WebP: it begins with b'<html>'",
        tmp_path.name: "no_picture: not a regular file",
    }
    assert [result.genres for result in found if isinstance(result, predict.Prediction)] == [("Red",)] * 2
    assert set(scored) == {good.read_bytes()}, "only what may be an image goes to the model"


def test_an_image_that_the_model_refuses_fails_alone(predict, tmp_path):
    good, bad = save(tmp_path / "good.png"), save(tmp_path / "bad.png", "lime")

    def scorer(files):
        return [
            ImageError(Reason.CORRUPT, "no") if data == Path(bad).read_bytes() else scores
            for data, scores in zip(files, mean_colours(files), strict=True)
        ]

    first, second, third = results(predict, [bad, good, bad], tmp_path, scorer=scorer)
    assert first == third == predict.Failure(bad, "corrupt: no")
    assert second == predict.Prediction(good, ("Red",), {"Red": 1.0, "Green": 0.0, "Blue": 0.0})


def test_images_of_the_web_are_downloaded_first_and_others_are_not(predict, monkeypatch, tmp_path):
    local, url, gone = save(tmp_path / "local.png"), "https://example.com/lime.png", "http://example.com/gone.png"
    asked = []

    def download(urls, *, cache_dir):
        asked.append((urls, cache_dir))
        cache_dir.mkdir()
        return {url: Path(save(cache_dir / "0", "lime")), gone: ImageError(Reason.NOT_FETCHED, "404")}

    monkeypatch.setattr(web, "download", download)
    found = results(predict, [local, url, gone], tmp_path)
    assert asked == [([url, gone], tmp_path / "cache")]
    assert [result.path for result in found] == [local, url, gone]
    assert found[1].genres == ("Green",)
    assert found[2].error == "not_fetched: 404"
    results(predict, [local], tmp_path)
    assert len(asked) == 1


def test_a_genre_is_predicted_from_its_threshold_on(predict, tmp_path):
    image = save(tmp_path / "a.png")
    (found,) = results(
        predict,
        [image],
        tmp_path,
        scorer=lambda files: [{"Red": 0.5, "Green": 0.49, "Blue": 0.9}],
        thresholds={"Blue": 0.95, "Green": 0.5, "Red": 0.5},
    )
    assert found.genres == ("Red",)


def test_a_model_and_thresholds_of_two_jobs_are_refused(predict, tmp_path):
    with pytest.raises(UserError, match=r"genres Red, Green, Blue but its metrics.json Drama: restore it or train again"):
        results(predict, [save(tmp_path / "a.png")], tmp_path, thresholds={"Drama": 0.5})


def test_the_loaded_model_scores_each_file_and_names_those_that_it_refuses(predict, job, model, monkeypatch):
    (job / "model").symlink_to(model)
    steps = []

    @contextlib.contextmanager
    def quiet():
        steps.append("quiet")
        yield
        steps.append("no longer quiet")

    loading = tf.saved_model.load

    def load(path):
        steps.append("load")
        serve = loading(path).signatures["serving_default"]

        def serving(image_bytes):
            steps.append(f"serve {len(image_bytes)}")
            return serve(image_bytes=image_bytes)

        return types.SimpleNamespace(signatures={"serving_default": serving})

    monkeypatch.setattr(tensorflow_start, "start", lambda: steps.append("start TensorFlow"))
    monkeypatch.setattr(tensorflow_start, "quiet", quiet)
    monkeypatch.setattr(tf.saved_model, "load", load)
    scorer = predict.load_scorer(epath.Path(job))
    assert steps == ["start TensorFlow", "load", "quiet", "serve 1", "no longer quiet"], "the first call prints noise"

    damaged = bytearray(file("lime"))
    damaged[damaged.index(b"IDAT") + 6] ^= 0xFF
    outcomes = scorer([file(), b"x", file("lime"), bytes(damaged), file("blue")])
    likeliest = [max(scores, key=scores.get) for scores in outcomes if not isinstance(scores, ImageError)]
    assert likeliest == ["Red", "Green", "Blue"]
    assert list(outcomes[0]) == list(GENRES)
    assert [str(error).partition(":")[0] for error in outcomes if isinstance(error, ImageError)] == [
        "unsupported_format",
        "corrupt",
    ]
    assert np.float32(outcomes[0]["Red"]) == tf.sigmoid(0.05 * 128).numpy(), "each float32 can be told from the next"
    assert scorer([]) == []


def test_an_image_that_only_tensorflow_refuses_says_so(predict, monkeypatch):
    monkeypatch.setattr(predict.decode, "decode", lambda *_, **__: None)
    assert str(predict._why_not(b"x")) == "corrupt: TensorFlow cannot decode it"


def test_a_model_that_cannot_be_loaded_is_refused(predict, job, monkeypatch):
    with pytest.raises(UserError, match=rf"^{job}/model cannot be loaded \(\w+\): restore it or train again"):
        predict.load_scorer(epath.Path(job))

    def lost(_):
        raise LostService("storage.googleapis.com does not answer")

    monkeypatch.setattr(predict.files, "copied_to_disk", lost)
    with pytest.raises(LostService, match="does not answer"):
        predict.load_scorer(epath.Path(job))


def test_thresholds_are_read_as_numbers(predict, job):
    (job / "evaluation" / "metrics.json").write_text('{"tuned": {"thresholds": {"Red": 1, "Blue": 0.25}}}')
    assert predict.load_thresholds(epath.Path(job)) == {"Red": 1.0, "Blue": 0.25}


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"tuned": []}', '{"tuned": {"thresholds": 3}}', '{"tuned": {"thresholds": {"Red": "high"}}}']
)
def test_a_job_without_readable_thresholds_is_refused(predict, job, content):
    path = job / "evaluation" / "metrics.json"
    path.unlink()
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"metrics.json is missing or has no readable tuned.thresholds: restore it or train again"):
        predict.load_thresholds(epath.Path(job))


def test_an_unfinished_job_is_refused(predict, job):
    (job / "DONE.json").unlink()
    with pytest.raises(UserError, match=rf"^--job_dir={job} does not hold a finished job .* finish the job with python -m"):
        predict.load_thresholds(epath.Path(job))
