"""Flags, their allowed values, and those that a resumed job may change."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

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


# What users rely on: the default of each option, and the ends of the range that it may have; both ends are allowed.
NUMBERS = {
    "freeze_epochs": (1.0, 0.0, math.inf),
    "backbone_rate": (0.1, 0.0, 1.0),
    "dropout": (0.3, 0.0, 0.95),
    "epochs": (15, 1, math.inf),
    "batch_size": (64, 1, math.inf),
    "learning_rate": (1e-3, 0.0, math.inf),
    "warmup_epochs": (1.0, 0.0, math.inf),
    "weight_decay": (0.05, 0.0, math.inf),
    "early_stopping": (0, 0, math.inf),
    "seed": (0, 0, 4_294_967_295),
    "open_shards": (16, 1, math.inf),
    "shuffle_window": (512, 1, math.inf),
    "max_steps": (0, 0, math.inf),
    "peer_timeout": (300.0, 1.0, math.inf),
    "rejoin": (10, 0, math.inf),
    "grace_period": (12.0, 0.0, math.inf),
    "stall_timeout": (600.0, 0.0, math.inf),
    "backup_steps": (200, 1, math.inf),
    "steps_per_execution": (1, 1, math.inf),
    "log_steps": (0, 0, math.inf),
}
CHOICES = {
    "model": ("resnet", ("cnn", "resnet", "efficientnet_lite0", "efficientnet_lite2", "efficientnet_v2_b0", "resnet50_v2")),
    "precision": ("float32", ("float32", "mixed_bfloat16", "mixed_float16")),
    "augment": ("light", ("none", "light", "strong")),
    "optimizer": ("adamw", ("adam", "adamw")),
    "schedule": ("cosine", ("constant", "step", "exponential", "cosine")),
    "strategy": ("auto", ("auto", "one_device", "mirrored", "multi_worker", "tpu")),
    "log_format": ("auto", ("auto", "text", "json")),
}
SWITCHES = ("synthetic_data", "deterministic", "run_eagerly", "debug_nans", "fresh")
TEXTS = {"data_dir": "", "job_dir": "", "weights": "none", "cache": "", "profile_steps": ""}
JOB: dict[str, Any] = {"data_dir": "d", "job_dir": "j"}
# With these, the options for pretrained weights are allowed too.
TUNED = JOB | {"model": "resnet50_v2", "weights": "imagenet"}


def test_a_job_that_names_no_option_gets_the_documented_defaults():
    defaults = {name: default for name, (default, *_) in (NUMBERS | CHOICES).items()} | dict.fromkeys(SWITCHES, False) | TEXTS
    assert {field.name: field.default for field in dataclasses.fields(TrainConfig)} == defaults
    for name, value in defaults.items():
        assert type(getattr(parse(), name)) is type(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_reach_both_ends_of_its_range_and_not_pass_them(name):
    default, low, high = NUMBERS[name]

    def beyond(end, step):
        return end + step if isinstance(default, int) else math.nextafter(end, end + step)

    assert getattr(TrainConfig(**TUNED | {name: low}), name) == low
    with pytest.raises(UserError, match=f"^--{name} must be "):
        TrainConfig(**TUNED | {name: beyond(low, -1)})
    if math.isfinite(high):
        TrainConfig(**TUNED | {name: high})
        with pytest.raises(UserError, match=f"^--{name} must be from "):
            TrainConfig(**TUNED | {name: beyond(high, 1)})
    else:
        TrainConfig(**TUNED | {name: type(default)(10**9)})


@pytest.mark.parametrize("name", CHOICES)
def test_an_option_with_choices_takes_these_and_no_other(name):
    for value in CHOICES[name][1]:
        assert getattr(parse(f"--{name}={value}"), name) == value
    message = f"--{name} must be one of {', '.join(CHOICES[name][1])}, got 'other'"
    with pytest.raises(UserError) as caught:
        TrainConfig(**JOB | {name: "other"})
    assert str(caught.value) == message
    with pytest.raises(flags.Error) as refused:
        parse(f"--{name}=other")
    assert str(refused.value) == message


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_turned_on_by_its_name_and_off_by_no(name):
    assert getattr(parse(f"--{name}"), name) is True
    assert getattr(parse(f"--no{name}"), name) is False


def test_exactly_these_options_may_change_when_a_job_resumes():
    free = {
        *("data_dir", "job_dir", "epochs", "cache", "strategy", "peer_timeout", "rejoin", "grace_period", "stall_timeout"),
        *("backup_steps", "deterministic", "run_eagerly", "debug_nans", "profile_steps", "log_format", "log_steps", "fresh"),
    }
    assert {field.name for field in dataclasses.fields(TrainConfig)} - parse().result_fields().keys() == free
    changed = TrainConfig(**JOB, epochs=7, rejoin=3, stall_timeout=1.0, run_eagerly=True)
    assert changed.result_fields() == parse().result_fields()


@pytest.mark.parametrize(
    ("value", "steps"),
    [("", None), ("1,1", (1, 1)), ("10, 20", (10, 20)), ("0,5", "refused"), ("5,4", "refused"), ("5", "refused")],
)
def test_a_profile_is_of_one_step_or_several(value, steps):
    if steps == "refused":
        with pytest.raises(UserError) as caught:
            TrainConfig(**JOB, profile_steps=value)
        assert str(caught.value) == f"--profile_steps must be FIRST,LAST, such as 10,20, got {value!r}"
    else:
        assert TrainConfig(**JOB, profile_steps=value).profile_range == steps


def test_a_batch_divides_among_the_workers_without_a_rest():
    job = TrainConfig(**JOB, batch_size=48)
    for count in (1, 3, 48):
        job.check_divides(count, "workers")
    for count in (5, 96):
        with pytest.raises(UserError) as caught:
            job.check_divides(count, "workers")
        assert str(caught.value) == f"--batch_size=48 does not divide among {count} workers: choose a multiple of {count}"


def test_a_job_does_not_change_once_it_is_checked():
    job = parse()
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.epochs = 0


@pytest.mark.parametrize("name", ["data_dir", "job_dir"])
def test_a_job_needs_both_folders(name):
    with pytest.raises(UserError) as caught:
        TrainConfig(**JOB | {name: ""})
    assert str(caught.value) == f"--{name} is missing: name a folder, --{name}=FOLDER"


@pytest.mark.parametrize("model", ["efficientnet_lite0", "efficientnet_lite2", "efficientnet_v2_b0", "resnet50_v2"])
def test_a_backbone_may_begin_with_weights_of_a_file_or_with_random_ones(model):
    assert TrainConfig(**JOB, model=model, weights="gs://b/a.weights.h5").is_pretrained
    assert not TrainConfig(**JOB, model=model).is_pretrained
    if model in ("efficientnet_v2_b0", "resnet50_v2"):
        assert TrainConfig(**JOB, model=model, weights="imagenet").is_pretrained


def test_the_fields_without_effect_are_those_for_pretrained_weights():
    assert config.without_effect({}) == config.without_effect({"weights": "none"}) == ("freeze_epochs", "backbone_rate")
    assert config.without_effect({"weights": "imagenet"}) == ()


def test_a_description_of_an_earlier_version_gets_the_defaults_and_no_other_options():
    old = {"model": "cnn", "seed": 5, "epochs": 99, "rejoin": 0, "unknown": 1}
    assert config.from_description(old) == TrainConfig(data_dir="-", job_dir="-", model="cnn", seed=5)


def test_a_fingerprint_is_of_the_content_and_not_of_its_order():
    assert config.fingerprint({"a": 1, "b": [2]}) == config.fingerprint({"b": [2], "a": 1})
    assert config.fingerprint({"a": 1}) != config.fingerprint({"a": 2})
    # Jobs on a disk have it in their FAILED.json: it stays as it is.
    assert config.fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
