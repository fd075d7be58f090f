"""Flags, their allowed values, and those that a resumed job may change."""

import subprocess
import sys

import pytest
from absl import flags

from trainer import config
from trainer.config import TrainConfig
from trainer.errors import UserError


def parse(*arguments):
    values = flags.FlagValues()
    config.define_flags(values)
    values(["task", "--data_dir=d", "--job_dir=j", *arguments])
    return config.from_flags(values)


def test_flags_become_fields():
    parsed = parse("--model=cnn", "--epochs=3", "--learning_rate=0.5", "--run_eagerly", "--profile_steps=10,20")
    assert (parsed.model, parsed.epochs, parsed.learning_rate, parsed.run_eagerly) == ("cnn", 3, 0.5, True)
    assert parsed.profile_range == (10, 20)
    assert parse() == TrainConfig(data_dir="d", job_dir="j")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "vgg"),
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", float("nan")),
        ("dropout", 1.0),
        ("profile_steps", "20,10"),
        ("profile_steps", "soon"),
        ("data_dir", ""),
        ("job_dir", ""),
        ("seed", 2**32),
        ("warmup_epochs", float("inf")),
        ("freeze_epochs", -1.0),
        ("backbone_rate", 1.5),
    ],
)
def test_a_wrong_value_is_named_with_its_flag(field, value):
    with pytest.raises(UserError, match=f"--{field}"):
        TrainConfig(**({"data_dir": "d", "job_dir": "j"} | {field: value}))


@pytest.mark.parametrize(
    ("model", "weights", "remedy"),
    [
        ("resnet", "imagenet", r"=imagenet .* choose --model=efficientnet_v2_b0 or resnet50_v2,"),
        ("cnn", "a.weights.h5", "=a.weights.h5 .* choose --model=efficientnet_lite0 or "),
        ("efficientnet_lite2", "imagenet", "=imagenet .* python -m trainer.model.convert_efficientnet_lite "),
        ("resnet50_v2", "a.keras", r" must be none, imagenet or a file NAME\.weights\.h5, got 'a\.keras'$"),
    ],
)
def test_weights_that_a_network_cannot_begin_with_are_refused(model, weights, remedy):
    with pytest.raises(UserError, match=f"^--weights{remedy}"):
        TrainConfig(data_dir="d", job_dir="j", model=model, weights=weights)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--epochs=0", "--epochs must be at least 1, got 0"),
        ("--epochs=1.5", "--epochs must be a whole number, got '1.5'"),
        ("--dropout=much", "--dropout must be a number, got 'much'"),
        ("--dropout=1", "--dropout must be from 0 to 0.95, got 1"),
        ("--learning_rate=nan", "--learning_rate must be a finite number, got nan"),
        ("--optimizer=sgd", "--optimizer must be one of adam, adamw, got 'sgd'"),
        ("--fresh=maybe", "--fresh must be true or false, got 'maybe'"),
    ],
)
def test_an_error_says_what_a_flag_may_be_and_what_it_was(argument, said):
    with pytest.raises((UserError, flags.Error)) as caught:
        parse(argument)
    assert str(caught.value) == said


@pytest.mark.parametrize("option", ["--freeze_epochs=2", "--backbone_rate=0.5"])
def test_an_option_for_pretrained_weights_is_refused_without_them(option):
    with pytest.raises(UserError, match=f"^{option}.*--weights"):
        parse("--model=efficientnet_lite0", option)
    parse("--model=efficientnet_lite0", "--weights=a.weights.h5", option)
    assert parse("--freeze_epochs=1", "--backbone_rate=0.1") == parse()


def test_options_without_effect_in_an_earlier_job_are_ignored():
    described = parse().result_fields() | {"freeze_epochs": 2.0}
    assert config.from_description(described) == TrainConfig(data_dir="-", job_dir="-")
    pretrained = described | {"model": "resnet50_v2", "weights": "imagenet"}
    assert config.from_description(pretrained).freeze_epochs == 2.0


def test_a_jobs_description_has_the_name_of_its_weights_and_not_their_folder():
    job = parse("--model=efficientnet_lite0", "--weights=gs://bucket/films/a.weights.h5")
    assert job.result_fields()["weights"] == "a.weights.h5"
    assert config.from_description(job.result_fields()).is_pretrained


def test_what_does_not_change_the_result_may_change_on_resuming():
    results = parse().result_fields()
    free = {"strategy", "epochs", "log_format", "backup_steps", "data_dir", "job_dir", "fresh"}
    assert not free & results.keys()
    assert {
        "model",
        "seed",
        "batch_size",
        "learning_rate",
        "augment",
        "shuffle_window",
        "open_shards",
        "max_steps",
        "steps_per_execution",
    } <= results.keys()


def test_a_description_gives_the_network_back():
    job = parse("--model=cnn", "--dropout=0.1", "--precision=mixed_bfloat16", "--epochs=7")
    again = config.from_description({**job.result_fields(), "epochs": 7, "data": {}})
    assert again.result_fields() == job.result_fields()


def test_config_imports_no_tensorflow():
    code = "import sys, trainer.config; sys.exit(bool({'tensorflow', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
