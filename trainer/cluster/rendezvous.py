"""Waits for the other workers before TensorFlow does.

TensorFlow holds the interpreter's lock while a peer is absent, for ever if need be, and answers no signal. So each worker first
answers on its own cluster port with a plain listener, until all the others answer on theirs. A peer that has gone on to TensorFlow
answers there too: whoever leaves first keeps nobody waiting, and the short time in which neither listens costs one more round.
"""

import contextlib
import errno
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from trainer.cluster.discovery import Cluster, host_and_port
from trainer.errors import LostPeer, UserError

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0  # Long enough for a second SYN when the first one got lost.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 2.0
_LOG_SECONDS = 30.0
_NAMED = 10  # Workers that a line names; it counts the rest.


def wait(cluster: Cluster, *, timeout: float, beat: Callable[[], None]) -> None:
    """Returns when all the other workers answer, all of them in one round of asking; at once where there are none.

    The port is free for TensorFlow when this returns or raises.

    Args:
      cluster: the workers, and which of them this is.
      timeout: seconds after which it gives up; the last round may take a little longer.
      beat: called in each round, as a sign of life.

    Raises:
      LostPeer: a worker did not come, or this worker's own port did not become free.
      UserError: the system does not let this process listen on its port.
    """
    if cluster.workers == 1:
        return
    peers = {index: address for index, address in enumerate(cluster.addresses) if index != cluster.index}
    own = cluster.addresses[cluster.index]
    listener = _Listener(host_and_port(own)[1])
    start = logged = time.monotonic()
    pause = _FIRST_PAUSE
    _log.info("worker %d (%s) waits up to %g s for worker(s) %s", cluster.index, own, timeout, _names(peers, peers))
    try:
        while True:
            beat()
            trouble = listener.open()
            # Not even the last round is cut short: a peer that is there would count as missing.
            until = max(start + timeout, time.monotonic() + _CONNECT_SECONDS)
            # A peer that was there a round ago may have died since, so every round asks them all.
            missing = _missing(peers, until, beat)
            now = time.monotonic()
            if not missing and not trouble:
                break
            if now - start >= timeout:
                if trouble:
                    raise LostPeer(f"{trouble} was not free for this worker within {timeout:g} s: end what listens there")
                raise LostPeer(
                    f"worker(s) {_names(missing, peers)} did not come within {timeout:g} s ({_reasons(missing)}): see in their "
                    "logs whether they started, or wait longer with --peer_timeout"
                )
            if now - logged >= _LOG_SECONDS:
                logged = now
                _log.info(
                    "%.0f s: waiting for %s", now - start, trouble or f"worker(s) {_names(missing, peers)}: {_reasons(missing)}"
                )
            time.sleep(min(pause, start + timeout - now))
            pause = min(pause * 1.2, _LONGEST_PAUSE)
    finally:
        listener.close()
    _log.info("all %d workers are there after %.1f s", cluster.workers, time.monotonic() - start)


class _Listener:
    """Accepts connections on a port and ends them: that a worker is there is all it says."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> str | None:
        """Listens, unless it does already; returns what keeps it from that."""
        if self._thread is not None:
            return None
        # Both have SO_REUSEADDR set. TensorFlow, too, takes the port on all interfaces, of IPv4 and IPv6.
        family, both = (socket.AF_INET6, True) if socket.has_dualstack_ipv6() else (socket.AF_INET, False)
        try:
            server = socket.create_server(("", self._port), family=family, dualstack_ipv6=both)
        except PermissionError:
            raise UserError(f"port {self._port} is not for this user: describe the cluster with a port above 1023") from None
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return f"port {self._port} ({'in use by another process' if in_use else error.strerror})"
        thread = threading.Thread(target=self._serve, args=(server,), name="cluster port", daemon=True)
        thread.start()
        self._thread = thread
        return None

    def close(self) -> None:
        """Frees the port before it returns."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, server: socket.socket) -> None:
        # Closed here, since a socket that another thread closes under a waiting accept() holds its port until that returns.
        with server:
            server.settimeout(0.1)
            while not self._closing.is_set():
                with contextlib.suppress(OSError):
                    server.accept()[0].close()


def _missing(peers: Mapping[int, str], until: float, beat: Callable[[], None]) -> dict[int, str]:
    """Asks all peers at the same time; returns those that do not answer, with the reasons.

    A round ends when each has answered or failed. Looking a name up has no time limit of its own, and cannot be interrupted by a
    signal; hence the threads, daemons that nothing waits for.
    """
    answers: queue.SimpleQueue[tuple[int, str | None]] = queue.SimpleQueue()

    def ask(index: int, address: str) -> None:
        answers.put((index, _ask(address)))

    for peer in peers.items():
        threading.Thread(target=ask, args=peer, name=f"ask worker {peer[0]}", daemon=True).start()
    missing = dict.fromkeys(peers, "no answer")
    asked = len(peers)
    while asked and (left := until - time.monotonic()) > 0:
        try:
            index, reason = answers.get(timeout=min(left, 1.0))
        except queue.Empty:
            beat()
            continue
        asked -= 1
        if reason is None:
            del missing[index]
        else:
            missing[index] = reason
    return missing


def _ask(address: str) -> str | None:
    """Connects to a peer, its name looked up anew: a pod's may come late, or move. Returns why that failed, or None."""
    try:
        with socket.create_connection(host_and_port(address), timeout=_CONNECT_SECONDS) as connection:
            # On one machine, a connection to a port where nobody listens can get that very port, and so meet itself.
            return "connection refused" if connection.getsockname() == connection.getpeername() else None
    except TimeoutError:
        return "no answer"
    except (OSError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()


def _names(indices: Iterable[int], peers: Mapping[int, str]) -> str:
    named = [f"{index} ({peers[index]})" for index in indices]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def _reasons(missing: Mapping[int, str]) -> str:
    return "; ".join(sorted(set(missing.values())))
