"""The container image: built as `make image` builds it, with jobs run as Kubernetes would run them. Run by `make test-image`.

It needs podman, and root for a substitute base image: if the official one in the Dockerfile has not been pulled, Debian's packages
form a substitute of the same name. This proves nothing about the official image, which has the same Debian but another build of the
same Python. ACCELERATOR=gpu or tpu tests those images, on the CPU. Images are kept, so that the next run can reuse their layers.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY
from tests.support.dockerfile import arguments, normalised, versions

ACCELERATOR = os.environ.get("ACCELERATOR", "cpu")

MISSING = [program for program in ("podman", "debootstrap") if not shutil.which(program)]

pytestmark = [
    pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make test-image"),
    pytest.mark.skipif(bool(MISSING), reason=f"make test-image needs {' and '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="make test-image needs root, for debootstrap"),
]

# A job that runs until it is stopped, and then finishes soon: 40 epochs of a few steps.
TRAINING = ("--model=cnn", "--strategy=one_device", "--epochs=40", "--batch_size=16")

# The files that the Dockerfile may copy, and those that the build needs.
SOURCES = ("Dockerfile", ".dockerignore", "Makefile", "pyproject.toml", "README.md", "LICENSE", "trainer", "launch", "k8s")

# Runs in the image, and lists its contents.
LOOK = """
import importlib.metadata, json, os, pathlib, sys, sysconfig
def files(folder, pattern):
    return [str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob(pattern) if path.is_file()]
code, packages = "/opt/poster-trainer", sysconfig.get_path("purelib")
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "distributions": [found.metadata["Name"] for found in importlib.metadata.distributions(path=[code, packages])],
    "code": files(code, "*"),
    "not_compiled": [str(path) for folder in (code, packages + "/tensorflow", packages + "/tf_keras")
        for path in pathlib.Path(folder).rglob("*.py")
        if not (path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc").exists()],
    "writable": [root for root, _, _ in os.walk("/") if os.access(root, os.W_OK) and not root.startswith(("/proc", "/dev"))],
}))
"""


class Podman:
    """Podman, configured for machines on which it may not raise its limits."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: folder for its configuration.
        """
        self.environment = dict(os.environ)
        if "CONTAINERS_CONF" not in os.environ:
            settings = folder / "containers.conf"
            runtime = "crun" if shutil.which("crun") else "runc"
            limits = '"nofile=20000:20000", "nproc=30000:30000"'
            settings.write_text(f'[engine]\nruntime = "{runtime}"\n[containers]\ndefault_ulimits = [{limits}]\n')
            self.environment["CONTAINERS_CONF"] = str(settings)

    def __call__(self, *arguments: object) -> str:
        """Runs a command that must succeed, and returns its stdout."""
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.args}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Starts a command, with stderr merged into stdout."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self.command(*arguments), env=self.environment, **pipes)  # type: ignore[call-overload]

    @staticmethod
    def command(*arguments: object) -> list[str]:
        return ["podman", *map(str, arguments)]


class Image:
    """An image, and the folder from which it is built, a copy of this repository."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman, self.source = podman, folder / "source"
        self.name = f"localhost/poster-trainer:test-{ACCELERATOR}"
        self._secrets = _pip_secrets(folder)
        self.source.mkdir()
        for name in (*SOURCES, *(lock.name for lock in REPOSITORY.glob("requirements-*.lock"))):
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            copy(REPOSITORY / name, self.source / name)

    def build(self) -> float:
        """Builds the image as a user would, with the flags that this machine needs, and returns the seconds that it took."""
        begun = time.monotonic()
        flags = " ".join(("--isolation=chroot", "--pull=never", "--network=host", "--layers", *self._secrets))
        command = ["make", "image", "DOCKER=podman", f"ACCELERATOR={ACCELERATOR}", f"IMAGE={self.name}", f"BUILD_FLAGS={flags}"]
        done = subprocess.run(command, cwd=self.source, env=self.podman.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return time.monotonic() - begun

    def layers(self) -> list[str]:
        """Returns its layers, the base image's first."""
        return json.loads(self.podman("image", "inspect", "--format={{json .RootFS.Layers}}", self.name))

    @contextlib.contextmanager
    def run(self, folder: Path, *command: object, entrypoint: str | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """Runs a container under the constraints of k8s/base/job.yaml. It may write only to /tmp and to one folder.

        Args:
          folder: folder that appears as /job in the container.
          *command: arguments of the container.
          entrypoint: command to run instead of the image's entrypoint.

        Yields:
          The container's name, and a process whose exit code is the container's.
        """
        name = f"poster-{uuid.uuid4().hex[:8]}"
        flags = [
            "--rm",
            "--pull=never",
            f"--name={name}",
            f"--volume={folder}:/job",
            "--env=POSTER_JOB_ID=poster",
            "--network=none",
        ]
        flags += ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"]
        flags += ["--env=TPU_LIBRARY_PATH=/dev/null"]  # As in the Dockerfile, because this machine has no TPU.
        flags += [f"--entrypoint={entrypoint}"] if entrypoint else []
        process = self.podman.start("run", *flags, self.name, *command)
        try:
            yield name, process
        finally:
            if process.poll() is None:
                self.podman("rm", "--force", "--ignore", name)
                process.communicate()

    def result(self, folder: Path, *command: object, entrypoint: str | None = None, code: int = 0) -> str:
        """Runs a container to its end, asserts its exit code, and returns its output."""
        with self.run(folder, *command, entrypoint=entrypoint) as (_, process):
            printed, _ = process.communicate(timeout=600)
        assert process.returncode == code, f"exit {process.returncode}, not {code}\n{printed}"
        return printed


def _pip_secrets(folder: Path) -> list[str]:
    """Returns flags that pass this machine's pip settings for index and certificates to the build."""

    def configured(key: str) -> str | None:
        done = subprocess.run(["pip", "config", "get", key], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None

    certificates = os.environ.get("PIP_CERT") or configured("global.cert")
    index = os.environ.get("PIP_INDEX_URL") or configured("global.index-url")
    lines = [f"index-url = {index}"] * bool(index) + ["cert = /run/secrets/ca_certificates"] * bool(certificates)
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    flags = [f"--secret=id=pip_conf,src={folder / 'pip.conf'}"]
    return [*flags, f"--secret=id=ca_certificates,src={certificates}"] if certificates else flags


def _stand_in(podman: Podman, name: str, folder: Path) -> None:
    """Makes a substitute from Debian's packages, which has all that the Dockerfile uses from the official image."""
    debian = name.rpartition("-")[2]
    root = folder / "base"
    packages = "--include=python3,python3-pip,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, debian, root], check=True, capture_output=True)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # The official image allows pip to install packages.
    for rubbish in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
        rubbish.unlink()
    subprocess.run(["tar", "--create", f"--directory={root}", f"--file={folder / 'base.tar'}", "."], check=True)
    podman("import", folder / "base.tar", f"docker.io/library/{name}")
    shutil.rmtree(root)
    (folder / "base.tar").unlink()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of this working tree."""
    folder = tmp_path_factory.mktemp("image")
    podman = Podman(folder)
    base = arguments("FROM")[0].split()[0]
    if base not in podman("images", "--format={{.Repository}}:{{.Tag}}"):
        _stand_in(podman, base, folder)
    image = Image(podman, folder)
    seconds = image.build()
    size = int(podman("image", "inspect", "--format={{.Size}}", image.name)) / 1e6
    below = int(podman("image", "inspect", "--format={{.Size}}", base)) / 1e6
    print(
        f"\n{ACCELERATOR}: {size:.0f} MB, the base {below:.0f} MB of them; built in {seconds:.0f} s on the layers that there were"
    )
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the image's user may write to."""
    os.chown(tmp_path, 1000, 1000)
    return tmp_path


def prepare(image: Image, folder: Path) -> None:
    """Draws posters and prepares them, in the image."""
    image.result(folder, "-m", "trainer.demo", "--output=/job/films", "--films=120", entrypoint="python")
    options = ("--csv=/job/films/films.csv", "--images=/job/films", "--output=/job/data", "--height=48", "--width=32")
    image.result(folder, "-m", "trainer.prepare", *options, entrypoint="python")


def train(*options: str) -> tuple[str, ...]:
    return ("--data_dir=/job/data", "--job_dir=/job/first", *TRAINING, *options)


def test_the_image_holds_the_locked_packages_and_the_code(image, folder):
    seen = json.loads(image.result(folder, "-c", LOOK, entrypoint="python").splitlines()[-1])
    assert seen["user"] == [1000, 1000]
    names = {normalised(name) for name in seen["distributions"]}
    of_the_base = {"pip", "setuptools", "wheel"}
    assert names - of_the_base - {"poster-trainer"} <= versions(f"requirements-{ACCELERATOR}.lock").keys()
    assert {"poster-trainer", "tf-keras", "aiohttp"} <= names
    assert {Path(path).parts[0].partition("-")[0] for path in seen["code"]} == {"trainer", "launch", "poster_trainer"}
    assert not seen["not_compiled"]
    assert set(seen["writable"]) == {"/tmp", "/job"}


def test_the_build_left_nothing_behind(image):
    look = "stat --format=%A /tmp; find /tmp /run/secrets /source -mindepth 1 2>/dev/null; true"
    printed = image.podman("run", "--rm", "--network=none", "--entrypoint=sh", image.name, "-c", look)
    assert printed.splitlines() == ["drwxrwxrwt"]


def test_a_job_trains_with_a_read_only_root(image, folder):
    prepare(image, folder)
    begun = time.monotonic()
    image.result(folder, *train("--max_steps=1"))
    print(f"\none step, its evaluation and export: {time.monotonic() - begun:.0f} s")
    assert (folder / "first/DONE.json").exists()
    assert (folder / "first/evaluation/report.html").stat().st_uid == 1000


def test_a_user_error_exits_with_the_code_that_the_kubernetes_rules_expect(image, folder):
    printed = image.result(folder, "--data_dir=/job/none", "--job_dir=/job/first", code=2)
    assert "error: " in printed and "Traceback" not in printed


def test_a_container_asked_to_stop_saves_its_state_and_the_next_one_resumes(image, folder):
    prepare(image, folder)
    with image.run(folder, *train()) as (name, process):
        deadline = time.monotonic() + 120
        while not (folder / "first/history.csv").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.05)
        begun = time.monotonic()
        image.podman("stop", "--time=17", name)
        printed, _ = process.communicate(timeout=60)
    print(f"\nstopped within {time.monotonic() - begun:.1f} s")
    assert process.returncode == 143, printed
    assert not (folder / "first/DONE.json").exists()
    assert "restored step" in image.result(folder, *train())
    assert (folder / "first/DONE.json").exists()
    assert len((folder / "first/history.csv").read_text().splitlines()) == 41


def test_a_change_of_the_code_rebuilds_only_its_layers(image, folder):
    before = image.layers()
    with (image.source / "trainer/guard.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    for secret in ("credentials.json", "trainer/credentials.json", "trainer/data/.env"):
        (image.source / secret).write_text("secret")
    print(f"\nafter a change of the code: built in {image.build():.0f} s")
    after = image.layers()
    assert before != after
    assert before[:-2] == after[:-2]  # The last two layers are the code and a check, which adds no files.
    look = "import os; print([files for _, _, files in os.walk('/') if {'credentials.json', '.env'} & set(files)])"
    assert image.result(folder, "-c", look, entrypoint="python").splitlines() == ["[]"]
