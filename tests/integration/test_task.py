"""trainer.task and trainer.evaluate as real processes: a job's files and its options."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.support import drawn
from tests.support.commands import ENVIRONMENT, refusal, run
from tests.support.jobs import RESULTS, history, mirrored, train
from trainer.dataset import near_duplicates


def test_a_job_writes_everything_that_the_contract_names(job_dir):
    names = {path.name for path in job_dir.iterdir()}
    assert names == {"config.json", "run.json", "history.csv", "DONE.json", "checkpoints", "logs", "model", "evaluation"}
    charts = {"loss.png", "confusion_matrix.png", "pr_curves.png", "posters.png", "extremes.png", "calibration.png", "report.html"}
    assert {"metrics.json", "predictions.csv"} | charts <= {path.name for path in (job_dir / "evaluation").iterdir()}
    assert (job_dir / "model" / "saved_model.pb").exists()
    rows = history(job_dir)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "10"), ("2", "20"), ("3", "30")]
    assert list(rows[0])[:4] == ["epoch", "step", "learning_rate", "loss"]
    assert {"val_loss", "val_mean_average_precision"} <= rows[0].keys()
    assert list(job_dir.rglob("events.out.tfevents.*"))


def test_history_holds_the_rate_of_each_epochs_last_step(job_dir):
    expected = [0.003 * (1 + np.cos(np.pi * (step - 10) / 20)) / 2 for step in (19, 29)]
    rates = [float(row["learning_rate"]) for row in history(job_dir)]
    np.testing.assert_allclose(rates, [0.003 * 10 / 11, *expected])


def test_times_hosts_and_paths_are_in_run_json_alone(job_dir, data_dir):
    told = json.loads((job_dir / "run.json").read_text())["attempts"][0]
    assert {"host", "started", "data_dir", "strategy"} <= told.keys()
    for name in (*RESULTS, "DONE.json"):
        text = (job_dir / name).read_text()
        assert not re.search(rf"\b{re.escape(told['host'])}\b", text), name
        assert str(data_dir) not in text
        assert str(job_dir) not in text


def test_a_finished_job_is_not_changed(job_dir, data_dir):
    before = {path: path.stat().st_mtime_ns for path in job_dir.rglob("*") if path.is_file()}
    ended = run(*train(data_dir, job_dir))
    assert "is finished" in ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in job_dir.rglob("*") if path.is_file()}


def test_a_short_traced_job_for_a_log_collector(data_dir, tmp_path):
    options = ("--model=cnn", "--max_steps=4", "--steps_per_execution=2", "--profile_steps=3,4", "--log_format=json")
    ended = run(*train(data_dir, tmp_path, *options))
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    assert all({"severity", "message", "worker", "step"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "epoch 1 of 3" in line["message"]] == [4]
    verdicts = [line["severity"] for line in lines if "never looks at a poster" in line["message"]]
    assert verdicts == ["WARNING", "WARNING"], "one for each operating point, and each once"
    assert "never looks at a poster" not in ended.stdout
    assert [row["step"] for row in history(tmp_path)] == ["4"]
    # Four steps are two calls, and a call runs at the rate of its first step.
    assert float(history(tmp_path)[0]["learning_rate"]) == pytest.approx(0.003 * 3 / 11)
    assert list((tmp_path / "logs").rglob("*.xplane.pb")), "a trace was written"


def test_step_by_step_in_python_on_synthetic_data(data_dir, tmp_path):
    options = ("--max_steps=2", "--run_eagerly", "--synthetic_data", "--model=cnn", "--optimizer=adam")
    run(*train(data_dir, tmp_path, *options))
    assert [row["step"] for row in history(tmp_path)] == ["2"]


def test_a_person_can_watch_a_job_and_reads_nothing_else(data_dir, tmp_path):
    environment = {
        name: value for name, value in ENVIRONMENT.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")
    }
    ended = run(*train(data_dir, tmp_path, "--model=cnn", "--epochs=1", "--log_steps=4", "--backup_steps=6"), env=environment)
    lines = [re.fullmatch(r"\d\d:\d\d:\d\d (.*)", line) for line in ended.stderr.splitlines()]
    assert None not in lines, ended.stderr
    told = [line[1] for line in lines if line]
    phases = (
        *(
            "data set: ",
            "job directory: ",
            "strategy ",
            "network: cnn, ",
            "plan: 1 epochs of 10 steps of 16 films",
            "starting at step 0 of 10",
        ),
        *("training", "step 4 of 10: loss ", "saved step 6", "step 8 of 10: loss ", "validating", "epoch 1 of 1, step 10: loss "),
        *("evaluating the weights of epoch 1", "exporting the model", "done: the report is "),
    )
    assert len(told) == len(phases), told
    for line, phase in zip(told, phases, strict=True):
        assert line.startswith(phase)
    assert ended.stdout.count("never looks at a poster") == 2, "a verdict for each operating point, and each once"


def test_one_genre_and_one_film_to_validate(tmp_path):
    drawn.dataset(tmp_path / "data", train=40, validation=1, test=2, shard_count=1)
    run(*train(tmp_path / "data", tmp_path / "job", "--model=cnn", "--epochs=1"))
    (row,) = history(tmp_path / "job")
    assert "val_loss" in row
    assert json.loads((tmp_path / "job" / "evaluation" / "metrics.json").read_text())["per_genre"]["Comedy"]


def test_a_batch_that_does_not_divide_among_replicas_is_refused_and_the_finished_job_kept(job_dir, data_dir, tmp_path):
    shutil.copytree(job_dir, tmp_path / "job")
    line = refusal(*mirrored(data_dir, tmp_path / "job", "--epochs=4", replicas=3))
    assert line == "error: --batch_size=16 does not divide among 3 replicas: choose a multiple of 3"
    assert (tmp_path / "job" / "DONE.json").exists()
    assert (tmp_path / "job" / "model" / "saved_model.pb").exists()


def test_the_same_film_counts_once_however_evaluation_is_batched(job_dir, data_dir, tmp_path):
    # The last batch has 2 of 37 films; the job's own evaluation had batches of 16.
    folder = f"--output={tmp_path}"
    run("trainer.evaluate", f"--job_dir={job_dir}", f"--data_dir={data_dir}", folder, "--batch_size=5")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    task_metrics = json.loads((job_dir / "evaluation" / "metrics.json").read_text())
    assert metrics["examples"] == 37
    assert metrics["loss"] == pytest.approx(task_metrics["loss"], rel=1e-5)
    assert metrics["tuned"]["thresholds"] == task_metrics["tuned"]["thresholds"]
    assert metrics["calibration"]["temperature"] == task_metrics["calibration"]["temperature"]


def test_evaluation_on_another_split_goes_to_its_own_folder(job_dir, data_dir):
    run("trainer.evaluate", f"--job_dir={job_dir}", f"--data_dir={data_dir}", "--split=validation")
    metrics = json.loads((job_dir / "evaluation-validation" / "metrics.json").read_text())
    assert (metrics["split"], metrics["examples"]) == ("validation", 30)
    shutil.rmtree(job_dir / "evaluation-validation")


def test_evaluation_on_another_data_set_is_kept_apart_and_claims_nothing_about_the_job(job_dir, tmp_path):
    made = drawn.dataset(tmp_path, train=12, validation=1, test=1, shard_count=1)
    # It is about the splits of this data set. It cannot know that the job was trained on all of these films.
    (tmp_path / near_duplicates.FILE).write_text("id,split,other_id,other_split,distance\ntt0000000,train,tt0000012,validation,3\n")
    own = {path: path.read_bytes() for path in (job_dir / "evaluation").iterdir()}
    folder = job_dir / f"evaluation-train-{made.fingerprint[:12]}"
    ended = run("trainer.evaluate", f"--job_dir={job_dir}", f"--data_dir={tmp_path}", "--split=train")
    metrics, page = json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text()
    shutil.rmtree(folder)
    assert metrics["data"] == {"fingerprint": made.fingerprint, "is_the_jobs": False}
    assert metrics["near_duplicates"] is None
    for text in (ended.stdout, page):
        assert f"train split of another data set ({made.fingerprint[:12]})" in text
        assert "come from another data set than the job" in text
        assert "on these films, so" not in text
    assert own == {path: path.read_bytes() for path in (job_dir / "evaluation").iterdir()}
