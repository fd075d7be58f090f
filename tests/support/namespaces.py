"""Hosts in network namespaces, joined by cables and a switch that a test can cut and restore. Needs Linux and root.

The namespaces see only each other, so their addresses do not clash with addresses outside.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# `ip netns exec` shows files of /etc/netns/NAMESPACE in /etc.
_ETC = Path("/etc/netns")


class Unavailable(Exception):
    """This system cannot create network namespaces."""


class Network:
    """Hosts, each with a cable to a switch.

    The switch is a namespace too, so both ends of a cable stay up whatever the switch does with its packets.
    """

    def __init__(self, hosts: tuple[str, ...]) -> None:
        """Args:
        hosts: names by which the hosts find each other.
        """
        self._prefix = f"posters-{os.getpid()}"
        self._namespaces = {host: f"{self._prefix}-{number}" for number, host in enumerate(hosts)}
        self._switch = f"{self._prefix}-switch"

    def add(self, host: str) -> str:
        """Adds a host, and returns its address. The others know it only by this address, and it knows them only by theirs."""
        self._namespaces[host] = f"{self._prefix}-{len(self._namespaces)}"
        self._plug_in(host, f"127.0.0.1 localhost\n{self._address(host)} {host}\n")
        return self._address(host)

    def on(self, host: str) -> tuple[str, ...]:
        """Returns the prefix with which a command runs on a host; it execs the command, so the process is the command's."""
        return ("ip", "netns", "exec", self._namespaces[host])

    def link_down(self, host: str) -> None:
        """Pulls a host's cable. Its own kernel notices at once; the others only receive nothing."""
        _ip("-n", self._namespaces[host], "link", "set", "eth0", "down")

    def link_up(self, host: str) -> None:
        """Plugs a host's cable in again."""
        _ip("-n", self._namespaces[host], "link", "set", "eth0", "up")

    def lose(self, host: str) -> None:
        """Drops all packets from and to a host in the switch. Every link stays up, and nobody is notified."""
        _ip("-n", self._switch, "link", "set", self._port(host), "nomaster")

    def find(self, host: str) -> None:
        """Ends what `lose` began."""
        _ip("-n", self._switch, "link", "set", self._port(host), "master", "bridge")

    def make(self) -> None:
        """Creates the network, and replaces one that an earlier process with the same id left behind.

        Raises:
          Unavailable: this system cannot create it.
        """
        if os.geteuid() != 0:
            raise Unavailable("network namespaces need root")
        if not shutil.which("ip"):
            raise Unavailable("network namespaces need ip, of iproute2")
        self.remove()
        try:
            self._make()
            # A system may create namespaces but not run commands in them.
            for host in self._namespaces:
                _run(*self.on(host), "true")
        except (subprocess.CalledProcessError, OSError) as error:
            self.remove()
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise Unavailable(f"network namespaces cannot be made: {reason}") from error

    def remove(self) -> None:
        """Removes the network, as far as it exists. Running processes keep their namespace, without its name, until they end."""
        for namespace in (*self._namespaces.values(), self._switch):
            subprocess.run(("ip", "netns", "delete", namespace), capture_output=True)
            shutil.rmtree(_ETC / namespace, ignore_errors=True)
        # Other networks may use the folder too.
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
    """Creates a network for the duration of a `with` block.

    Args:
      *hosts: names by which the hosts find each other.

    Raises:
      Unavailable: this system cannot create it.
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
