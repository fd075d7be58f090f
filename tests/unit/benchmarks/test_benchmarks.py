"""The programs of benchmarks/: the commands that they run, and the flags that they refuse before they start."""

import functools
import importlib
import subprocess
import sys
import types

import pytest
import tensorflow as tf
import tf_keras as keras
from absl import app, flags

from benchmarks import scaling
from benchmarks.lib import comparison
from launch.job import parse_training
from trainer.model import networks


@pytest.fixture
def program(monkeypatch):
    """Loads a program and a function that runs it, with its own flag registry: several programs define flags of the same name."""

    def load(name):
        own = flags.FlagValues()
        for definition in ("DEFINE_string", "DEFINE_enum", "DEFINE_list", "register_validator"):
            monkeypatch.setattr(flags, definition, functools.partial(getattr(flags, definition), flag_values=own))
        module = importlib.import_module(f"benchmarks.{name}")
        del sys.modules[module.__name__]
        return module, lambda *arguments: module.main(own([name, *arguments])[1:])

    return load


class TestAccuracy:
    @pytest.fixture
    def commands(self, monkeypatch):
        """The commands that were run; those of trainer.task fail."""
        run = []

        def record(command, **options):
            assert "cwd" not in options
            run.append(list(command))
            return subprocess.CompletedProcess(command, 75 if "trainer.task" in command else 0)

        monkeypatch.setattr(subprocess, "run", record)
        return run

    @pytest.fixture
    def compare(self, program, commands):
        _, call = program("accuracy")
        return functools.partial(call, "--images=https://films.example/posters.zip", "--output=out")

    def test_paths_are_passed_on_as_they_are_and_a_failure_ends_it_with_its_code(self, compare, commands):
        with pytest.raises(SystemExit) as end:
            compare("--csv=gs://films/films.csv", "--recipes=fine_tuned", "--weights=some/lite2.weights.h5")
        assert end.value.code == 75
        prepare, train = commands
        assert {"--csv=gs://films/films.csv", "--images=https://films.example/posters.zip"} < set(prepare)
        assert "--weights=some/lite2.weights.h5" in train

    @pytest.mark.parametrize(
        ("name", "size", "model"),
        [("published", "64x64", "cnn"), ("from_scratch", "96x64", "resnet"), ("fine_tuned", "240x168", "efficientnet_lite2")],
    )
    def test_a_recipe_is_its_flag_file(self, compare, commands, name, size, model):
        with pytest.raises(SystemExit):
            compare("--csv=films.csv", f"--recipes={name}", "--weights=some/lite2.weights.h5")
        prepare, train = commands
        height, width = size.split("x")
        assert {f"--height={height}", f"--width={width}"} < set(prepare)
        (data_dir,) = (option for option in train if option.startswith("--data_dir="))
        assert data_dir.endswith(f"/data-{size}")
        job = parse_training([option for option in train if option.startswith("--")])
        assert job.model == model
        assert job.weights == ("some/lite2.weights.h5" if name == "fine_tuned" else "none")

    @pytest.mark.parametrize(("old", "new"), [("scratch", "from_scratch"), ("pretrained", "fine_tuned")])
    def test_an_old_name_still_works_and_says_the_new_one(self, compare, commands, capsys, old, new):
        with pytest.raises(SystemExit):
            compare("--csv=films.csv", f"--recipes={old}", "--weights=some/lite2.weights.h5")
        assert f"--recipes={old}: this recipe is now called {new}" in capsys.readouterr().err
        assert any(option.endswith(f"/recipes/{new}.flags") for option in commands[-1])

    def test_each_csv_has_its_own_folders(self, compare, commands):
        for films in ("films.csv", "others.csv", "films.csv"):
            with pytest.raises(SystemExit):
                compare(f"--csv={films}", "--recipes=from_scratch")
        outputs = [option for command in commands for option in command if option.startswith("--output=")]
        jobs = [option for command in commands for option in command if option.startswith("--job_dir=")]
        for first, second, again in (outputs, jobs):
            assert first == again != second

    def test_without_weights_the_fine_tuned_recipe_is_refused_before_anything_runs(self, compare, commands):
        with pytest.raises(app.UsageError, match=r"--weights is missing"):
            compare("--csv=films.csv")
        assert not commands

    @pytest.mark.parametrize("option", ["--seeds=", "--seeds=a", "--recipes=", "--recipes=from_scratch,vgg"])
    def test_empty_lists_and_unknown_names_are_refused(self, compare, commands, option):
        with pytest.raises(flags.IllegalFlagValueError):
            compare("--csv=films.csv", option)
        assert not commands


class TestComparison:
    @pytest.fixture(autouse=True)
    def two_rounds(self, monkeypatch):
        monkeypatch.setattr(comparison, "_REPEATS", types.SimpleNamespace(value=2))

    def test_contenders_are_measured_in_turn_starting_with_a_different_one_after_a_warm_up_round(self):
        calls = []

        def contender(name):
            def measure():
                calls.append(name)
                return float(len(calls))

            return measure

        found = comparison.in_turn({"a": contender("a"), "b": contender("b")})
        assert calls == ["a", "b", "b", "a", "a", "b"]
        assert found == {"a": [4.0, 5.0], "b": [3.0, 6.0]}

    def test_the_table_has_the_ratios_within_rounds_and_says_which_goals_were_reached(self, capsys):
        found = {comparison.OURS: [200.0, 300.0, 220.0], "slow": [100.0, 100.0, 100.0], "fast": [190.0, 290.0, 210.0]}
        goals = [comparison.Goal(("slow", "fast"), least=2), comparison.Goal(("slow",), least=2)]
        comparison.report("Work", "images a second", found, goals)
        printed = capsys.readouterr().out
        assert "| slow | 100 | 100 to 100 | 2.2 | 2 to 3 |" in printed
        assert "- 1.05 × fast, to be at least 2: NOT reached" in printed, "the best of several counts"
        assert "- 2.2 × slow, to be at least 2: reached" in printed

    def test_where_lower_is_better_the_lowest_of_several_counts(self, capsys):
        found = {comparison.OURS: [1.2], "slow": [2.0], "fast": [1.0]}
        comparison.report("Start", "seconds", found, [comparison.Goal(("slow", "fast"), most=1.3)])
        assert "- 1.2 × fast, to be at most 1.3: reached" in capsys.readouterr().out

    def test_the_machine_is_described_with_its_package_versions(self):
        assert f"tensorflow {tf.__version__}" in comparison.machine()


class TestScaling:
    def test_the_cost_of_a_layer_is_counted_from_its_multiplications(self, monkeypatch):
        # One 3 x 3 convolution from 3 to 4 channels, and a dense layer from its outputs to 25 genres.
        monkeypatch.setattr(scaling, "_HEIGHT", 8)
        monkeypatch.setattr(scaling, "_WIDTH", 8)

        def tiny(x, position, config):
            return keras.layers.Flatten()(keras.layers.Conv2D(4, 3, padding="same")(x))

        monkeypatch.setattr(networks, "_cnn", tiny)
        found = scaling.cost("cnn")
        assert found.parameters == 3 * 3 * 3 * 4 + 4 + 256 * 25 + 25
        assert found.flops == 2 * (8 * 8 * 4 * 27 + 256 * 25)
        assert found.moved == 256 + 25

    def test_an_all_reduce_sends_every_byte_almost_twice(self):
        assert scaling.all_reduce(4 * 10**9, 2, gigabits=8, latency=0) == pytest.approx(4)
        assert scaling.all_reduce(4 * 10**9, 256, gigabits=8, latency=0) == pytest.approx(8 * 255 / 256)

    def test_a_short_message_takes_twice_the_depth_of_a_tree(self):
        assert scaling.all_reduce(0, 256, gigabits=8, latency=1) == pytest.approx(2 * 8)

    def test_statistics_are_exchanged_twice_for_each_layer(self):
        found = scaling.Cost(parameters=0, flops=0, moved=0, kept=0, normalized=(32, 64))
        gradients, statistics = scaling.exchange(found, 2, gigabits=8)
        assert statistics == pytest.approx(4 * gradients, rel=1e-2)

    def test_arithmetic_and_memory_bandwidth_each_bound_the_rate(self):
        device = scaling.Accelerator("", tera_flops=3, gigabytes=1, memory=1, processors=1, gigabits=1)
        found = scaling.Cost(parameters=0, flops=10**6, moved=100, kept=500, normalized=())
        assert scaling.ceiling(found, device) == pytest.approx((10**6, 10**6))
        assert scaling.largest_batch(found, device) == 10**6
