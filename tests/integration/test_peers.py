"""Workers that wait for their peers, as real processes that start, die and answer as in a cluster.

POSTER_LONG=1 starts them up to a minute apart, many times.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY
from trainer.cluster import rendezvous
from trainer.cluster.discovery import Cluster
from trainer.errors import LostPeer

# A worker: waits for its peers, then holds its port as TensorFlow does, until its stdin is closed.
WORKER = """
import logging, signal, socket, sys, time
from trainer import errors
from trainer.cluster import rendezvous
from trainer.cluster.discovery import Cluster

index, delay, timeout, *addresses = sys.argv[1:]
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
start = time.monotonic()

def stop(number, frame):
    raise errors.Stopped("asked to stop")

def beat():
    print("beat", flush=True)

system_lookup = socket.getaddrinfo

def lookup(host, *arguments, **options):
    # Two host names that only tests know: one resolves after a second, the other never gets an answer.
    if host == "late.test":
        if time.monotonic() - start < 1:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        host = "127.0.0.1"
    if host == "silent.test":
        time.sleep(60)
    return system_lookup(host, *arguments, **options)

socket.getaddrinfo = lookup
signal.signal(signal.SIGTERM, stop)
try:
    time.sleep(float(delay))
    rendezvous.wait(Cluster(tuple(addresses), int(index), "test"), timeout=float(timeout), beat=beat)
except (errors.Ended, errors.Stopped) as end:
    print(end)
    sys.exit(end.exit_code)
with socket.create_server(("", int(addresses[int(index)].rpartition(":")[2]))):
    print("met", flush=True)
    sys.stdin.read()
"""


class Worker:
    """A process that waits for its peers, with its output in a file."""

    def __init__(self, folder: Path, index: int, addresses: list[str], *, delay: float = 0, timeout: float = 60) -> None:
        self.output = folder / f"worker-{index}-{time.monotonic_ns()}.txt"
        command = [sys.executable, "-c", WORKER, str(index), str(delay), str(timeout), *addresses]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=REPOSITORY)

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    @property
    def met(self) -> bool:
        return "met" in self.lines()

    @property
    def beats(self) -> int:
        return self.lines().count("beat")

    def end(self) -> int:
        """Lets the worker end, as when a job is finished."""
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def start(tmp_path):
    """Starts workers, and kills them after the test."""
    started = []

    def begin(*arguments, **options):
        started.append(Worker(tmp_path, *arguments, **options))
        return started[-1]

    yield begin
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


def until(condition, *, seconds=20.0):
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


def free_ports(count):
    """Returns free ports below the range that the system uses for outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 500):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def local(*ports):
    return [f"127.0.0.1:{port}" for port in ports]


def assert_free(port):
    """Asserts that a new server with gRPC's socket option gets the port at once, on all interfaces."""
    socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
    socket.create_server(("", port)).close()


def wait(addresses, *, index=0, timeout, beats=None):
    rendezvous.wait(
        Cluster(tuple(addresses), index, "test"), timeout=timeout, beat=lambda: None if beats is None else beats.append(1)
    )


LONG = os.environ.get("POSTER_LONG") == "1"


@pytest.mark.parametrize("seed", range(10 if LONG else 1))
def test_workers_meet_whatever_their_start_times(start, seed):
    draw = random.Random(seed)
    addresses = local(*free_ports(4))
    delays = [0.0, *(draw.uniform(0, 60 if LONG else 3) for _ in addresses[1:])]
    draw.shuffle(delays)
    workers = [start(index, addresses, delay=delay) for index, delay in enumerate(delays)]
    for worker in workers:
        until(lambda worker=worker: worker.met, seconds=max(delays) + 20)
        others = ", ".join(f"{i} ({a})" for i, a in enumerate(addresses) if i != workers.index(worker))
        assert worker.lines()[0].endswith(f"waiting for 3 peers, up to 60 s: worker(s) {others}")
        assert worker.beats >= 1
    assert [worker.end() for worker in workers] == [0] * len(workers)


def test_a_worker_that_dies_while_another_is_missing_must_answer_again(start):
    addresses = local(*free_ports(3))
    first, dying = start(0, addresses), start(1, addresses)
    until(lambda: dying.beats >= 1)
    seen = first.beats
    until(lambda: first.beats >= seen + 2)
    dying.process.kill()
    dying.process.communicate()
    last = start(2, addresses)
    until(lambda: last.beats >= 3 and first.beats >= seen + 4)
    assert not first.met
    assert not last.met
    workers = [first, start(1, addresses), last]
    until(lambda: all(worker.met for worker in workers))
    assert [worker.end() for worker in workers] == [0, 0, 0]


def test_a_restarted_worker_meets_peers_that_already_run_tensorflow(start):
    addresses = local(*free_ports(2))
    workers = [start(index, addresses) for index in range(2)]
    until(lambda: all(worker.met for worker in workers))
    workers[0].process.kill()
    workers[0].process.communicate()
    again = start(0, addresses)
    until(lambda: again.met)
    assert [again.end(), workers[1].end()] == [0, 0]


def test_a_host_name_may_resolve_late(start):
    ports = free_ports(2)
    begin = time.monotonic()
    workers = [start(0, [f"127.0.0.1:{ports[0]}", f"late.test:{ports[1]}"]), start(1, local(*ports))]
    until(lambda: all(worker.met for worker in workers))
    assert time.monotonic() - begin >= 1


def test_a_worker_that_drops_packets_delays_no_round_and_is_met_when_it_answers():
    ports = free_ports(3)
    addresses = local(*ports)
    beats: list[int] = []
    with socket.create_server(("127.0.0.1", ports[1])), socket.socket() as silent, contextlib.ExitStack() as full:
        silent.bind(("127.0.0.1", ports[2]))
        silent.listen(0)
        # Linux drops connections when the queue is full.
        for _ in range(3):
            connection = full.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", ports[2]))
        begin = time.monotonic()
        with pytest.raises(LostPeer, match=rf"^worker\(s\) 2 \(127\.0\.0\.1:{ports[2]}\) did not come within 3 s \(no answer\)"):
            wait(addresses, timeout=3, beats=beats)
        assert 3 <= time.monotonic() - begin < 6
        assert len(beats) >= 2

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    silent.accept()[0].close()

        timer = threading.Timer(0.5, answer)
        timer.start()
        wait(addresses, timeout=20)
        silent.shutdown(socket.SHUT_RDWR)
        timer.join()


@pytest.mark.parametrize("silent", [False, True])
def test_a_waiting_worker_ends_at_once_when_asked_to_stop(start, silent):
    own, other = free_ports(2)
    worker = start(0, [f"127.0.0.1:{own}", f"{'silent.test' if silent else '127.0.0.1'}:{other}"])
    until(lambda: worker.beats >= 2)
    begin = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=10) == 143
    assert time.monotonic() - begin < 3
    assert worker.lines()[-1] == "asked to stop"
    assert_free(own)


def test_a_worker_waits_until_its_own_port_is_free(start):
    ports = free_ports(2)
    with socket.create_server(("127.0.0.1", ports[0])):
        worker, other = start(0, local(*ports)), start(1, local(*ports))
        until(lambda: worker.beats >= 3 and other.met)
        assert not worker.met
    until(lambda: worker.met)


def test_waiting_leaves_no_thread_behind():
    ports = free_ports(2)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", ports[1])):
        wait(local(*ports), timeout=10)
    assert_free(ports[0])
    # A thread that has answered may still be ending.
    until(lambda: threading.active_count() == before, seconds=1)
