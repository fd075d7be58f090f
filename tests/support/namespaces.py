"""Hosts in network namespaces, joined by cables and a switch that a test can cut and mend: on Linux, as root.

What is in a namespace sees no network but that of the others, so the addresses clash with none outside.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# `ip netns exec` shows a file of /etc/netns/NAMESPACE as the file of /etc.
_ETC = Path("/etc/netns")


class Unavailable(Exception):
    """This system makes no network of namespaces."""


class Network:
    """Hosts, each with a cable to a switch.

    Each is a namespace, the switch too: so a cable has two ends that carry a signal whatever the switch does with what comes.
    """

    def __init__(self, hosts: tuple[str, ...]) -> None:
        """Args:
        hosts: the names by which they find each other.
        """
        self._prefix = f"posters-{os.getpid()}"
        self._namespaces = {host: f"{self._prefix}-{number}" for number, host in enumerate(hosts)}
        self._switch = f"{self._prefix}-switch"

    def add(self, host: str) -> str:
        """Plugs in one more host, which knows the others by the address alone that is returned."""
        self._namespaces[host] = f"{self._prefix}-{len(self._namespaces)}"
        self._plug_in(host, f"127.0.0.1 localhost\n{self._address(host)} {host}\n")
        return self._address(host)

    def on(self, host: str) -> tuple[str, ...]:
        """What precedes a command so that it runs on a host; the process is the command's own."""
        return ("ip", "netns", "exec", self._namespaces[host])

    def link_down(self, host: str) -> None:
        """Pulls a host's cable: its kernel knows at once, the others only that nothing comes."""
        _ip("-n", self._namespaces[host], "link", "set", "eth0", "down")

    def link_up(self, host: str) -> None:
        """Plugs it in again."""
        _ip("-n", self._namespaces[host], "link", "set", "eth0", "up")

    def lose(self, host: str) -> None:
        """Lets all that a host sends, or is sent, vanish in the switch: every link stays up, and nobody is told."""
        _ip("-n", self._switch, "link", "set", self._port(host), "nomaster")

    def find(self, host: str) -> None:
        """Ends what `lose` began."""
        _ip("-n", self._switch, "link", "set", self._port(host), "master", "bridge")

    def make(self) -> None:
        """Makes it, in place of one that a process of the same number left behind.

        Raises:
          Unavailable: it cannot be made here.
        """
        if os.geteuid() != 0:
            raise Unavailable("network namespaces need root")
        if not shutil.which("ip"):
            raise Unavailable("network namespaces need ip, of iproute2")
        self.remove()
        try:
            self._make()
            # It may be that a namespace can be made, and yet nothing can be run there.
            for host in self._namespaces:
                _run(*self.on(host), "true")
        except (subprocess.CalledProcessError, OSError) as error:
            self.remove()
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise Unavailable(f"network namespaces cannot be made: {reason}") from error

    def remove(self) -> None:
        """Removes what is there of it. Processes that still run there keep it until they end, but no longer its name."""
        for namespace in (*self._namespaces.values(), self._switch):
            subprocess.run(("ip", "netns", "delete", namespace), capture_output=True)
            shutil.rmtree(_ETC / namespace, ignore_errors=True)
        # The folder is others' too.
        with contextlib.suppress(OSError):
            _ETC.rmdir()

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        names = "127.0.0.1 localhost\n" + "".join(f"{self._address(host)} {host}\n" for host in self._namespaces)
        for host in self._namespaces:
            self._plug_in(host, names)

    def _plug_in(self, host: str, names: str) -> None:
        namespace, port = self._namespaces[host], self._port(host)
        _ip("netns", "add", namespace)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", namespace, "address", "add", f"{self._address(host)}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        (_ETC / namespace).mkdir(parents=True)
        (_ETC / namespace / "hosts").write_text(names)

    def _port(self, host: str) -> str:
        return f"port{self._number(host)}"

    def _address(self, host: str) -> str:
        return f"10.77.0.{1 + self._number(host)}"

    def _number(self, host: str) -> int:
        return list(self._namespaces).index(host)


@contextlib.contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """A network for the time of a `with` block.

    Args:
      hosts: the names by which they find each other.

    Raises:
      Unavailable: it cannot be made here.
    """
    made = Network(hosts)
    made.make()
    try:
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
