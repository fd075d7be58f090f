"""A node that runs pods as containers: processes in their own namespaces. Needs Linux and root.

A container has its own file system, host name, network address, and process ids that begin with its command. The file system is an
image of this checkout and its Python, read-only if the pod says so, with the pod's volumes. The container runs as the pod's user,
which the image's passwd file does not list, with the pod's privileges. Each pod's /etc/hosts stands for the cluster's DNS.

Not emulated: limits on memory and cores; seccomp; sidecars, including Cloud Storage FUSE's (a folder on the disk stands for the
buckets); probes (a running container is ready); the delay of DNS; and pulling an image.
"""

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fakes.kubernetes import controllers, expander
from tests.fakes.kubernetes.expander import Endpoint, Manifest, Mount, Pod
from tests.support import namespaces
from tests.support.commands import REPOSITORY

_TOOLS = ("ip", "unshare", "setpriv", "mount")

# Paths in the image, outside the paths at which pods mount volumes.
_APP, _PYTHON = "/app", "/python"


@dataclasses.dataclass
class Container:
    """A pod on this node.

    Attributes:
      pod: description of the pod.
      address: IP address.
      log: file with its output.
    """

    pod: Pod
    address: str
    log: Path
    _folder: Path
    _process: subprocess.Popen[bytes]
    _is_asked: bool = False

    def poll(self) -> int | None:
        """Returns the container's exit code, None while it runs."""
        code = self._process.poll()
        if code is None and self._is_asked and self.ready:
            self._is_asked = False
            self._send(signal.SIGTERM)
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Sends SIGTERM to the first process, as soon as that is the command."""
        self._is_asked = True
        self.poll()

    def kill(self) -> None:
        """Ends all its processes with SIGKILL."""
        self._send(signal.SIGKILL)

    @property
    def ready(self) -> bool:
        """Whether its command runs; the command has no readiness probe."""
        # Before the command, its first process is in turn a shell, unshare, setpriv and env.
        return self._first() is not None and tuple(self.given()[0]) == self.pod.command

    def text(self) -> str:
        """Returns its output."""
        return self.log.read_text(errors="replace")

    def given(self) -> tuple[list[str], dict[str, str]]:
        """Returns the arguments and the environment with which its command was started, as the kernel has them."""
        words, variables = self._read("cmdline"), self._read("environ")
        return words, dict(each.split("=", 1) for each in variables if each)

    def show(self, names: str) -> None:
        """Replaces the names that the DNS knows. The mounted file stays the same file, and is never empty."""
        with (self._folder / "hosts").open("r+") as file:
            file.write(names)
            file.truncate()

    def end(self) -> None:
        """Kills the container, and waits until it is gone."""
        self.kill()
        self._process.wait(30)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first() or self._process.pid, number)

    def _first(self) -> int | None:
        """Returns the host's process id of the container's first process."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text())
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            return pid if status["NSpid"].split()[1:] == ["1"] else None
        return None

    def _read(self, name: str) -> list[str]:
        try:
            return Path(f"/proc/{self._first()}/{name}").read_text().removesuffix("\0").split("\0")
        except OSError:  # The process has just ended.
            return []


class Node:
    """A cluster of one node that runs a manifest's pods.

    Attributes:
      controller: controllers of the manifest's objects.
      containers: containers of all pods that were started.
    """

    def __init__(self, network: namespaces.Network, folder: Path, manifest: Manifest, pace: float) -> None:
        self._network, self._folder, self._manifest = network, folder, manifest
        self._names: dict[str, str] = {}
        self.containers: list[Container] = []
        self.controller = controllers.Controller(manifest, self._start, time.monotonic(), pace=pace)

    @property
    def buckets(self) -> Path:
        """The folder that holds all buckets of Cloud Storage."""
        return self._folder / "buckets"

    def sync(self) -> None:
        """Updates the controllers, and then the DNS."""
        self.controller.sync(time.monotonic())
        running = [run for run in self.controller.runs if run.code is None]
        endpoints = []
        for run in running:
            container = self.container(run)
            endpoints.append(Endpoint(run.pod, container.address, container.ready, run.deleted is not None))
        names = expander.names(self._manifest.services, endpoints)
        if names != self._names:
            self._names = names
            for run in running:
                self._tell(self.container(run))

    def wait(self, happened: Callable[[], object], seconds: float) -> None:
        """Runs the cluster until a condition holds.

        Raises:
          AssertionError: the condition does not hold within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s: {self.story()}{self.logs()}"
            self.sync()
            time.sleep(0.01)

    def container(self, run: controllers.Run) -> Container:
        """Returns the container of a pod."""
        assert isinstance(run.process, Container)
        return run.process

    def crash(self, index: int) -> None:
        """Kills the container of an index's pod; to Kubernetes, it has crashed."""
        run = self.controller.active(index)
        assert run is not None, self.story()
        run.process.kill()

    def evict(self, index: int) -> None:
        """Evicts the pod of an index, as a drained node or a preempted Spot VM does."""
        run = self.controller.active(index)
        assert run is not None, self.story()
        run.delete(time.monotonic(), disrupted=True)

    def story(self) -> list[tuple[int, int | None, bool]]:
        """Returns index, exit code and whether it was evicted for each pod, in order of creation."""
        return [(run.pod.index, run.code, run.disrupted) for run in self.controller.runs]

    def logs(self) -> str:
        """Returns the end of all containers' output."""
        return "".join(f"\n--- {each.log.name}:\n{each.text()[-3000:]}" for each in self.containers)

    def remove(self) -> None:
        """Ends the containers that still run."""
        for each in self.containers:
            each.end()

    def _start(self, pod: Pod) -> Container:
        number = len(self.containers)
        host = f"pod-{number}"
        address = self._network.add(host)
        folder = self._folder / f"{pod.hostname}.{number}"
        for path in (folder, folder / "root", folder / "volumes"):
            path.mkdir()
        for name, text in (("hosts", ""), ("passwd", "root:x:0:0:root:/root:/bin/sh\n")):
            (folder / name).write_text(text)
        log = self._folder / f"{pod.hostname}.{number}.log"
        # The kernel ends it with this process, however this process ends.
        command = ("setpriv", "--pdeathsig=KILL", *self._network.on(host), "unshare", "--mount", "--uts", "sh", "-euc")
        with log.open("wb") as file:
            process = subprocess.Popen((*command, "\n".join(self._script(pod, folder))), stdout=file, stderr=file)
        container = Container(pod, address, log, folder, process)
        self.containers.append(container)
        self._tell(container)
        return container

    def _tell(self, container: Container) -> None:
        pod, address = container.pod, container.address
        own = f"{pod.hostname}.{pod.subdomain}.{pod.namespace}.svc.cluster.local {pod.hostname}"
        lines = ["127.0.0.1 localhost", f"{address} {own}", *(f"{at} {name}" for name, at in self._names.items())]
        container.show("\n".join(lines) + "\n")

    def _script(self, pod: Pod, folder: Path) -> Iterator[str]:
        """Yields the shell commands that set up image, volumes and host name, and then exec the pod's command."""
        root, quote = folder / "root", shlex.quote
        yield f"mount -t tmpfs -o mode=755 image {quote(str(root))}"
        yield f"cd {quote(str(root))}"
        yield f"mkdir -p etc proc sys dev tmp .{_APP}/trainer .{_PYTHON} .{quote(sys.base_prefix)}"
        for name in ("bin", "sbin", "lib", "lib64"):
            path = Path("/", name)
            if path.is_symlink():
                yield f"ln -s {quote(str(path.readlink()))} {name}"
            elif path.is_dir():
                yield f"mkdir {name}; mount --rbind -o ro /{name} {name}"
        binds = {"/usr": "/usr", "/etc": "/etc", str(REPOSITORY / "trainer"): f"{_APP}/trainer", sys.prefix: _PYTHON}
        if not sys.base_prefix.startswith("/usr"):
            binds[sys.base_prefix] = sys.base_prefix
        for source, target in binds.items():
            yield f"mkdir -p .{quote(target)}; mount --bind -o ro {quote(source)} .{quote(target)}"
        for name in ("hosts", "passwd"):
            yield f"mount --bind -o ro {quote(str(folder / name))} etc/{name}"
        yield "mount --rbind -o ro /sys sys"
        for name in ("null", "zero", "full", "random", "urandom"):
            yield f"touch dev/{name}; mount --bind /dev/{name} dev/{name}"
        yield from (f"mkdir -p .{quote(mount.path)}" for mount in pod.mounts)
        if pod.read_only:
            yield "mount -o remount,ro ."
        for mount in pod.mounts:
            yield self._mount(mount, pod, folder)
        yield f"hostname {quote(pod.hostname)}"
        # The shell's first child is the container's first process. If a signal kills it, the shell exits with 128 + signal.
        stay = ("unshare", "--pid", "sh", "-c", '"$@"; exit $?', "sh")
        isolate = ("unshare", "--mount", f"--root={root}", f"--wd={_APP}", "--mount-proc=/proc")
        identity = ["setpriv", "--pdeathsig=KILL", f"--reuid={pod.user}", f"--regid={pod.group}"]
        identity.append("--clear-groups" if pod.volume_group is None else f"--groups={pod.volume_group}")
        if pod.bounded:
            identity += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        variables = {"PATH": f"{_PYTHON}/bin:/usr/local/bin:/usr/bin:/bin", **pod.environment}
        given = (f"{key}={value}" for key, value in variables.items())
        words = (*stay, *isolate, *identity, "env", "-i", *given, *pod.command)
        yield f"exec {shlex.join(words)}"

    def _mount(self, mount: Mount, pod: Pod, folder: Path) -> str:
        target = shlex.quote(f".{mount.path}")
        if mount.kind == "memory":
            return f"mount -t tmpfs -o mode=1777{_size(mount.size)} memory {target}"
        if mount.kind == "gcs":
            source = self.buckets
        else:
            source = folder / "volumes" / mount.path.strip("/").replace("/", "-")
            source.mkdir()
            if pod.volume_group is not None:
                os.chown(source, 0, pod.volume_group)
            source.chmod(0o2777)
        return f"mount --bind {shlex.quote(str(source))} {target}"


def _size(amount: str) -> str:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}
    number = amount.rstrip("KMGi")
    return f",size={int(number) * units[amount.removeprefix(number)]}" if amount else ""


@contextlib.contextmanager
def node(folder: Path, manifest: Manifest, *, pace: float) -> Iterator[Node]:
    """Creates the objects of a manifest in a new cluster; `Node.wait` runs it.

    Args:
      folder: folder for the pods' logs, and for `buckets`, which stands for all buckets and may exist already.
      manifest: objects of the job.
      pace: factor by which back-offs are shorter than in Kubernetes.

    Raises:
      namespaces.Unavailable: this system cannot create the namespaces.
    """
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing:
        raise namespaces.Unavailable(f"{', '.join(missing)} are missing")
    (folder / "buckets").mkdir(exist_ok=True)
    probe = ("unshare", "--mount", "--uts", "--pid", "--fork", "mount", "-t", "tmpfs", "probe", str(folder))
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True).returncode:
        raise namespaces.Unavailable("file systems cannot be mounted here, which needs root")
    with namespaces.network() as network:
        made = Node(network, folder, manifest, pace)
        try:
            made.sync()
            yield made
        finally:
            made.remove()
