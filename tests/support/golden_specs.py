"""The specs that `launch --dry_run` prints, in tests/golden/: one file for each command.

After an intended change, this writes the files again, and `git diff` shows the change:

    python -m tests.support.golden_specs
"""

import re
import shlex
from pathlib import Path

from tests.support.commands import run

FOLDER = Path(__file__).parents[1] / "golden"

_IMAGE = "--image=europe-docker.pkg.dev/films/images/poster-trainer:1"
_PATHS = "--data_dir=gs://films/dataset --job_dir=gs://films/jobs/first"

KUBERNETES = {
    "kubernetes-one": f"--name=film {_IMAGE} -- {_PATHS}",
    "kubernetes-workers": f"--name=film {_IMAGE} --workers=4 --cpu=8 --memory=32Gi --service_account=trainer --namespace=films "
    f"--restarts=5 --time_limit=86400 -- {_PATHS} --epochs=30",
    "kubernetes-gpu-spot": f"--name=film {_IMAGE} --workers=2 --accelerator=nvidia-l4:2 --spot -- {_PATHS}",
    "kubernetes-tpu": f"--name=film {_IMAGE} --accelerator=tpu-v5-lite-podslice:8 --cpu=24 --memory=48Gi -- {_PATHS}",
    "kubernetes-gcsfuse": f"--name=film {_IMAGE} -- --data_dir=/gcs/films/dataset --job_dir=/gcs/films/jobs/first",
    "kubernetes-kueue": f"--name=film {_IMAGE} --label=kueue.x-k8s.io/queue-name=training --label=team=films -- {_PATHS}",
    "kubernetes-jobset": f"--name=film {_IMAGE} --workers=2 --accelerator=nvidia-tesla-t4 --jobset --restarts=9 -- {_PATHS}",
    "kubernetes-everything": f"--name=film {_IMAGE} --workers=3 --accelerator=nvidia-tesla-a100:8 --spot --jobset --restarts=20 "
    f"--time_limit=3600.5 --env=COLOUR=red --label=team=films --service_account=trainer --namespace=films "
    "-- --data_dir=/gcs/films/dataset --job_dir=gs://films/jobs/first --batch_size=96",
    "kubernetes-patience": f"--name=film {_IMAGE} -- {_PATHS} --grace_period=40.5 --peer_timeout=60 --rejoin=3",
    "kubernetes-quoting": f"--name=film {_IMAGE} '--env=GREETING=$(HOME) costs $$5' -- {_PATHS} '--cache=/tmp/$(HOME) \"x\"'",
}


_LOCATION = "--project=films --region=europe-west4"
_ACCOUNT = "--service_account=trainer@films.iam.gserviceaccount.com"

# JSON has no comments, so that the commands of these files are only here.
VERTEX = {
    "vertex-one": f"--name=film {_IMAGE} -- {_PATHS}",
    "vertex-workers": f"--name=film {_IMAGE} --workers=4 --cpu=8 --memory=48Gi {_LOCATION} {_ACCOUNT} --label=team=films "
    f"--time_limit=86400 -- {_PATHS} --epochs=30",
    "vertex-gpu-spot": f"--name=film {_IMAGE} --workers=2 --accelerator=nvidia-l4:2 --spot -- {_PATHS}",
    "vertex-tpu": f"--name=film {_IMAGE} --accelerator=tpu-v5-lite-podslice:8 -- {_PATHS}",
    "vertex-tpu-v3": f"--name=film {_IMAGE} --accelerator=tpu-v3-device -- {_PATHS}",
    "vertex-tensorboard": f"--name=film {_IMAGE} {_LOCATION} {_ACCOUNT} "
    "--tensorboard=projects/films/locations/europe-west4/tensorboards/12 "
    f"--network=projects/123456/global/networks/films -- {_PATHS}",
    "vertex-no-restarts": f"--name=film {_IMAGE} --workers=2 --accelerator=nvidia-tesla-t4:4 --cpu=48 --restarts=0 -- {_PATHS}",
    "vertex-mounted": f"--name=film {_IMAGE} -- --data_dir=/gcs/films/dataset --job_dir=/gcs/films/jobs/first/ --rejoin=3",
    "vertex-quoting": f"--name=film {_IMAGE} '--env=GREETING=$(HOME) costs $$5 or $5' -- {_PATHS} '--cache=/tmp/$(HOME) \"x\"'",
}


def command(case: str) -> list[str]:
    """Returns the arguments of a case's command after `python -m`."""
    target = case.partition("-")[0]
    return ["launch", f"--target={target}", "--dry_run", *shlex.split({**KUBERNETES, **VERTEX}[case])]


def render(case: str) -> str:
    """Returns what the command of a case prints, with a constant suffix in the job's name."""
    out = re.sub("film-[0-9a-f]{8}", "film-0a1b2c3d", run(*command(case)).stdout)
    return out if case in VERTEX else f"# python -m {shlex.join(command(case))}\n{out}"


def path(case: str) -> Path:
    """Returns the path of a case's golden file."""
    return FOLDER / f"{case}.{'json' if case in VERTEX else 'yaml'}"


if __name__ == "__main__":
    for old in [*FOLDER.glob("kubernetes-*"), *FOLDER.glob("vertex-*")]:
        old.unlink()
    for each in [*KUBERNETES, *VERTEX]:
        path(each).write_text(render(each))
