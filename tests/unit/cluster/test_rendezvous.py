"""Waiting for the peers, on a clock and a network that are imitated."""

import dataclasses
import errno
import functools
import itertools
import logging
import queue
import socket
import threading
import types
from collections.abc import Callable

import pytest

from trainer.cluster import rendezvous
from trainer.cluster.discovery import Cluster
from trainer.errors import LostPeer, UserError

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
IN_USE = OSError(errno.EADDRINUSE, "Address already in use")


@dataclasses.dataclass
class Network:
    """What the machine answers: `answers` says how each host answers at a time, and `own` how the own port does.

    A host's answer is None (it accepts), an exception, or a number: the seconds after which it accepts.
    """

    answers: Callable[[str, float], Exception | float | None] = lambda host, now: None
    own: Callable[[float], Exception | None] = lambda now: None
    now: float = 1000.0
    dual: bool = True
    itself: str = ""
    pauses: list[float] = dataclasses.field(default_factory=list)
    asked: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    beats: list[float] = dataclasses.field(default_factory=list)
    opened: list[object] = dataclasses.field(default_factory=list)
    closed: int = 0
    late: float = 0.0
    limits: set[float] = dataclasses.field(default_factory=set)
    threads: list[str] = dataclasses.field(default_factory=list)
    looks: int = 0

    @property
    def seconds(self):
        return self.now - 1000

    def wait(self, workers=2, *, timeout=300.0, index=0):
        cluster = Cluster(tuple(f"w{i}:{5000 + i}" for i in range(workers)), index, "a test")
        rendezvous.wait(cluster, timeout=timeout, beat=lambda: self.beats.append(self.seconds))

    def clock(self):
        self.looks += 1
        assert self.looks < 20_000, "the worker does not stop waiting"
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def connect(self, address, timeout):
        host, port = address
        self.asked.append((self.seconds, host))
        self.limits.add(timeout)
        answer = self.answers(host, self.seconds)
        if isinstance(answer, Exception):
            raise answer
        self.late = answer or 0.0
        return Connection(port, port if host == self.itself else 40_000)

    def serve(self, address, **options):
        self.opened.append((address, options))
        if error := self.own(self.seconds):
            raise error
        return Server(self)


class Connection:
    def __init__(self, port, own_port):
        self.port, self.own_port = port, own_port

    def getsockname(self):
        return "127.0.0.1", self.own_port

    def getpeername(self):
        return "127.0.0.1", self.port

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Server:
    def __init__(self, network):
        self.network = network

    def settimeout(self, seconds):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.network.closed += 1


class Answers:
    """A queue.SimpleQueue into which an item may come late, by the fake clock."""

    def __init__(self, network):
        self.network = network
        self.items: list[tuple[float, object]] = []

    def put(self, item):
        self.items.append((self.network.now + self.network.late, item))
        self.network.late = 0.0

    def get(self, timeout):
        self.items.sort(key=lambda item: item[0])
        if not self.items or self.items[0][0] > self.network.now + timeout:
            self.network.now += timeout
            raise queue.Empty
        moment, item = self.items.pop(0)
        self.network.now = max(self.network.now, moment)
        return item


class Thread:
    """A thread that runs to its end when it starts; the one that serves the port when somebody waits for it."""

    def __init__(self, network, target, args=(), name="", daemon=False):
        assert daemon, "nothing waits for a thread when the process ends"
        network.threads.append(name)
        self.serves = name == "cluster port"
        self.run = lambda: target(*args)

    def start(self):
        if not self.serves:
            self.run()

    def join(self):
        self.run()


@pytest.fixture
def network(monkeypatch, caplog):
    network = Network()
    caplog.set_level(logging.INFO, logger="trainer.cluster.rendezvous")
    monkeypatch.setattr(rendezvous, "time", types.SimpleNamespace(monotonic=network.clock, sleep=network.sleep))
    monkeypatch.setattr(rendezvous, "queue", types.SimpleNamespace(SimpleQueue=lambda: Answers(network), Empty=queue.Empty))
    thread = functools.partial(Thread, network)
    monkeypatch.setattr(rendezvous, "threading", types.SimpleNamespace(Thread=thread, Event=threading.Event))
    own = {"create_connection": network.connect, "create_server": network.serve, "has_dualstack_ipv6": lambda: network.dual}
    monkeypatch.setattr(rendezvous, "socket", types.SimpleNamespace(**vars(socket) | own))
    return network


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_single_worker_waits_for_nobody(network, caplog):
    for workers in (0, 1):
        network.wait(workers)
    assert (network.opened, network.beats, said(caplog)) == ([], [], [])


def test_workers_that_answer_in_the_first_round_are_met_at_once(network, caplog):
    network.wait(3, index=1)
    assert network.asked == [(0, "w0"), (0, "w2")], "a worker does not ask itself"
    assert network.opened == [(("", 5001), {"family": socket.AF_INET6, "dualstack_ipv6": True})]
    assert network.closed == 1, "the port is free for TensorFlow"
    assert (network.seconds, network.beats, network.limits) == (0, [0], {2.0})
    assert network.threads == ["cluster port", "ask worker 0", "ask worker 2"], "a debugger shows what each does"
    assert said(caplog) == [
        "waiting for 2 peers, up to 300 s: worker(s) 0 (w0:5000), 2 (w2:5002)",
        "all 3 workers answer after 0.0 s",
    ]


def test_a_machine_without_ipv6_listens_on_ipv4(network):
    network.dual = False
    network.wait()
    assert network.opened == [(("", 5000), {"family": socket.AF_INET, "dualstack_ipv6": False})]


def test_a_late_worker_is_asked_again_and_again_with_growing_pauses(network, caplog):
    network.answers = lambda host, now: REFUSED if now < 100 else None
    network.wait()
    assert 100 <= network.seconds < 102
    assert network.pauses[:3] == pytest.approx([0.5, 0.6, 0.72])
    assert max(network.pauses) == network.pauses[-1] == 2.0
    assert len(network.beats) == len(network.pauses) + 1, "each round is a sign of life"
    assert len(network.opened) == 1, "the port stays open"
    first, *waits, last = said(caplog)
    assert first == "waiting for 1 peer, up to 300 s: worker(s) 1 (w1:5001)"
    assert [line[:30] for line in waits] == [
        "waiting for 1 peer, since 30 s",
        "waiting for 1 peer, since 60 s",
        "waiting for 1 peer, since 90 s",
    ]
    assert waits[0].endswith(": worker(s) 1 (w1:5001) (connection refused)")
    assert last == "all 2 workers answer after 100.2 s"


def test_all_workers_must_answer_in_one_and_the_same_round(network):
    # Worker 1 dies before worker 2 comes, and returns later.
    network.answers = lambda host, now: REFUSED if (10 <= now < 50 if host == "w1" else now < 20) else None
    network.wait(3)
    assert network.seconds >= 50


def test_workers_that_do_not_come_are_named_at_the_deadline_with_the_reasons(network):
    reasons = {"w1": REFUSED, "w2": None, "w3": TimeoutError("timed out"), "w4": socket.gaierror(-2, "Name or service not known")}
    network.answers = lambda host, now: reasons[host]
    with pytest.raises(LostPeer) as caught:
        network.wait(5, timeout=10)
    assert str(caught.value) == (
        "worker(s) 1 (w1:5001), 3 (w3:5003), 4 (w4:5004) did not come within 10 s (connection refused; name or service not known; "
        "no answer): check in their logs whether they started, or raise --peer_timeout"
    )
    assert network.seconds == pytest.approx(10), "the last pause is so short that the last round begins at the deadline"
    assert network.closed == 1


def test_a_host_name_that_python_cannot_encode_is_a_reason_too(network):
    network.answers = lambda host, now: UnicodeError("label too long")
    with pytest.raises(LostPeer, match=r"\(label too long\)"):
        network.wait(timeout=1)


@pytest.mark.parametrize(("workers", "end"), [(11, r"10 \(w10:5010\) did"), (12, r"10 \(w10:5010\) and 1 more did")])
def test_a_message_names_ten_workers_and_counts_the_rest(network, workers, end):
    network.answers = lambda host, now: REFUSED
    with pytest.raises(LostPeer, match=end):
        network.wait(workers, timeout=1)


def test_a_worker_that_answers_slowly_in_the_last_round_counts(network):
    network.answers = lambda host, now: REFUSED if now < 10 else 1.5
    network.wait(timeout=10)
    assert network.seconds == pytest.approx(11.5)
    assert [beat for beat in network.beats if beat > 10.5] == pytest.approx([11]), "a round without an answer is a sign of life too"


def test_a_worker_that_answers_only_after_the_last_round_is_missing(network):
    network.answers = lambda host, now: REFUSED if now < 10 else 2.5
    with pytest.raises(LostPeer, match=r"^worker\(s\) 1 \(w1:5001\) did not come within 10 s \(no answer\)"):
        network.wait(timeout=10)
    assert network.seconds == pytest.approx(12)


def test_a_round_lasts_until_the_slowest_name_server_has_answered(network):
    network.answers = lambda host, now: 20.0
    network.wait()
    assert network.seconds == 20
    assert network.beats == list(range(20))


def test_a_connection_that_reaches_itself_is_not_a_worker(network):
    network.itself = "w1"
    with pytest.raises(LostPeer, match=r"w1:5001\) did not come within 3 s \(connection refused\)"):
        network.wait(timeout=3)


def test_a_port_that_another_process_still_has_is_tried_again(network, caplog):
    network.own = lambda now: IN_USE if now < 40 else None
    network.wait()
    assert network.seconds >= 40
    assert network.closed == 1
    assert said(caplog)[1] == "waiting for the own port, since 30 s: port 5000 (in use by another process)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IN_USE, "in use by another process"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign the address"), "Cannot assign the address"),
    ],
)
def test_a_port_that_does_not_become_free_is_named_at_the_deadline(network, error, reason):
    network.own = lambda now: error
    with pytest.raises(LostPeer) as caught:
        network.wait(timeout=5)
    assert str(caught.value) == f"port 5000 ({reason}) did not become free within 5 s: end the process that listens on it"


def test_a_port_that_only_root_may_open_is_the_users_to_change(network):
    network.own = lambda now: PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(UserError) as caught:
        network.wait()
    assert str(caught.value) == "port 5000 is not allowed for this user: describe the cluster with a port above 1023"
    assert (network.seconds, network.closed) == (0, 0)


def test_the_listener_answers_everybody_until_it_is_closed(monkeypatch):
    closed = threading.Event()
    steps = itertools.count()

    class Peer:
        def close(self):
            closed.set()

    class Quiet:
        """A server to which nobody connects at first, then one peer, and then nobody again."""

        limit: float | None = None

        def settimeout(self, seconds):
            self.limit = seconds

        def accept(self):
            assert self.limit is not None
            assert self.limit < 1, "closing would wait for the next connection"
            if next(steps) == 2:
                return Peer(), ("127.0.0.1", 40_000)
            raise TimeoutError

        def __enter__(self):
            return self

        def __exit__(self, *error):
            freed.set()

    freed = threading.Event()
    monkeypatch.setattr(rendezvous.socket, "create_server", lambda *address, **options: Quiet())
    listener = rendezvous._Listener(5000)
    assert listener.open() is None
    assert closed.wait(10)
    assert not freed.is_set()
    listener.close()
    assert freed.is_set()


def test_the_listener_answers_a_real_connection_and_frees_its_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listener = rendezvous._Listener(port)
    assert listener.open() is None
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            assert connection.recv(1) == b"", "it closes a connection at once"
    assert rendezvous._Listener(port).open() == f"port {port} (in use by another process)"
    listener.close()
    socket.create_server(("127.0.0.1", port)).close()
