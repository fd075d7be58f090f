"""Waits for the other workers before TensorFlow does.

TensorFlow holds the interpreter's lock while it waits for a peer: it can wait for ever, and the process answers no signal. So
each worker first answers on its own cluster port with a plain listener, until all the others answer on theirs. A peer that has
gone on to TensorFlow answers on the same port, so the first worker to go on keeps no other waiting. Between the two nothing
listens on the port for a moment, which costs the others at most one more round.
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

_CONNECT_SECONDS = 2.0  # Long enough for a second SYN if the first one was lost.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 2.0
_LOG_SECONDS = 30.0
_NAMED = 10  # Workers that a message names; it counts the rest.


def wait(cluster: Cluster, *, timeout: float, beat: Callable[[], None]) -> None:
    """Waits until all other workers answer in one and the same round; returns at once if there are none.

    The port is free for TensorFlow when this returns or raises.

    Args:
      cluster: the workers, and which of them this is.
      timeout: the seconds after which to give up; the last round may take a little longer.
      beat: a function that reports progress, called in each round.

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
    _log.info("waiting for %s, up to %g s: worker(s) %s", _count(peers), timeout, _names(peers, peers))
    try:
        while True:
            beat()
            trouble = listener.open()
            # The last round gets its full time too, or a peer that is there would count as missing.
            until = max(start + timeout, time.monotonic() + _CONNECT_SECONDS)
            # Every round asks all peers, because one that answered before may have died since.
            missing = _missing(peers, until, beat)
            now = time.monotonic()
            if not missing and not trouble:
                break
            if now - start >= timeout:
                if trouble:
                    raise LostPeer(f"{trouble} did not become free within {timeout:g} s: end the process that listens on it")
                raise LostPeer(
                    f"worker(s) {_names(missing, peers)} did not come within {timeout:g} s ({_reasons(missing)}): check in their "
                    "logs whether they started, or raise --peer_timeout"
                )
            if now - logged >= _LOG_SECONDS:
                logged = now
                _log.info(
                    "waiting for %s, since %.0f s: %s",
                    *(_count(missing) if missing else "the own port", now - start),
                    trouble or f"worker(s) {_names(missing, peers)} ({_reasons(missing)})",
                )
            time.sleep(min(pause, start + timeout - now))
            pause = min(pause * 1.2, _LONGEST_PAUSE)
    finally:
        listener.close()
    _log.info("all %d workers answer after %.1f s", cluster.workers, time.monotonic() - start)


class _Listener:
    """Accepts connections on a port and closes them at once, to show that this worker is there."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> str | None:
        """Listens on the port, if it does not already; returns why that failed, or None."""
        if self._thread is not None:
            return None
        # Like TensorFlow: on all interfaces of IPv4 and IPv6, with SO_REUSEADDR.
        family, both = (socket.AF_INET6, True) if socket.has_dualstack_ipv6() else (socket.AF_INET, False)
        try:
            server = socket.create_server(("", self._port), family=family, dualstack_ipv6=both)
        except PermissionError:
            raise UserError(
                f"port {self._port} is not allowed for this user: describe the cluster with a port above 1023"
            ) from None
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return f"port {self._port} ({'in use by another process' if in_use else error.strerror})"
        thread = threading.Thread(target=self._serve, args=(server,), name="cluster port", daemon=True)
        thread.start()
        self._thread = thread
        return None

    def close(self) -> None:
        """Stops listening; the port is free when this returns."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, server: socket.socket) -> None:
        # This thread closes the socket: closed by another, it would hold its port until the waiting accept() returns.
        with server:
            server.settimeout(0.1)
            while not self._closing.is_set():
                with contextlib.suppress(OSError):
                    server.accept()[0].close()


def _missing(peers: Mapping[int, str], until: float, beat: Callable[[], None]) -> dict[int, str]:
    """Asks all peers at the same time; returns the indices of those that do not answer, with the reasons.

    The round ends when each peer has answered or failed, or when the clock passes `until`. A name lookup has no time limit of its
    own, and no signal interrupts it: it runs in a daemon thread, for which nothing waits.
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
    """Connects to a peer, and returns why that failed, or None. Looks the name up anew: a pod's may appear late, or move."""
    try:
        with socket.create_connection(host_and_port(address), timeout=_CONNECT_SECONDS) as connection:
            # A connection to a port of this machine where nothing listens can get that port as its own, and so reach itself.
            return "connection refused" if connection.getsockname() == connection.getpeername() else None
    except TimeoutError:
        return "no answer"
    except (OSError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()


def _count(peers: Mapping[int, str]) -> str:
    return "1 peer" if len(peers) == 1 else f"{len(peers)} peers"


def _names(indices: Iterable[int], peers: Mapping[int, str]) -> str:
    named = [f"{index} ({peers[index]})" for index in indices]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def _reasons(missing: Mapping[int, str]) -> str:
    return "; ".join(sorted(set(missing.values())))
