"""How the job controller reacts to ended pods under the rules that launch renders, on a clock that the test sets."""

import dataclasses
import functools
from typing import Any

import pytest
import yaml

from launch.job import Job
from launch.kubernetes import spec
from tests.fakes.kubernetes import controllers, expander

PATHS = ("--data_dir=/gcs/b/d", "--job_dir=/gcs/b/j")


@dataclasses.dataclass
class Process:
    """A pod's process, which ends as the test decides."""

    code: int | None = None
    asked: bool = False
    obeys: int | None = 143

    def poll(self):
        return self.code

    def terminate(self):
        self.asked = True
        if self.code is None:
            self.code = self.obeys

    def kill(self):
        if self.code is None:
            self.code = controllers.KILLED


@functools.cache
def load(text):
    """Loads a manifest; cached, because most tests have the same job and validation is slow."""
    return expander.load(text, check_rules=False)


class World:
    """A cluster without processes."""

    def __init__(self, change=lambda objects: None, **fields):
        defaults: dict[str, Any] = {"arguments": PATHS, "image": "i", "name": "film", "workers": 2}
        job = Job(**(defaults | fields))
        objects = list(yaml.safe_load_all(spec.to_yaml(spec.specify(job, name="film-1"))))
        change(objects)
        self.now = 0.0
        self.processes: list[Process] = []
        self.controller = controllers.Controller(load(yaml.safe_dump_all(objects)), self.start, self.now)
        self.go(0)

    def start(self, pod):
        self.processes.append(Process())
        return self.processes[-1]

    def go(self, seconds):
        """Advances the time in small steps."""
        until, step = self.now + seconds, max(0.1, seconds / 400)
        while True:
            self.controller.sync(self.now)
            if self.now >= until:
                return
            self.now = min(self.now + step, until)

    def running(self, index):
        """Returns the running pod of an index, and its process."""
        run = self.controller.active(index)
        assert run is not None
        return run, self.processes[self.controller.runs.index(run)]

    def exit(self, index, code):
        """Ends the container of an index."""
        _, process = self.running(index)
        process.code = code
        self.go(0)

    def evict(self, index, *, code=143):
        """Evicts the pod of an index. Its container exits with `code`, or with None ignores SIGTERM."""
        run, process = self.running(index)
        process.obeys = code
        run.delete(self.now, disrupted=True)
        self.go(0)

    def pods(self, index):
        """Returns the number of pods that an index has had."""
        return sum(run.pod.index == index for run in self.controller.runs)

    @property
    def end(self):
        return self.controller.end


def rules(objects):
    return objects[0]["spec"]["podFailurePolicy"]["rules"]


def test_a_job_is_complete_when_every_worker_has_exited_0():
    world = World()
    world.exit(0, 0)
    world.go(3600)
    assert (world.end, world.pods(0)) == (None, 1)  # A worker that exited 0 is never restarted.
    world.exit(1, 0)
    assert world.end == ("Complete", "CompletionsReached")


def test_exit_2_fails_the_job_at_once():
    world = World()
    world.exit(1, 2)
    world.go(0)
    assert world.end == ("Failed", "PodFailurePolicy")
    assert [process.asked for process in world.processes] == [True, False]
    world.go(3600)
    assert (world.pods(0), world.pods(1)) == (1, 1)


@pytest.mark.parametrize("code", [75, 143])
def test_ignored_exit_codes_are_retried_without_limit_with_longer_and_longer_delays(code):
    world = World(restarts=0, time_limit=10**6)
    for delay in (10, 20, 40, 80, 160, 320, 600, 600):
        pods = world.pods(1)
        world.exit(1, code)
        world.go(delay - 0.5)
        assert world.pods(1) == pods
        world.go(1)
        assert world.pods(1) == pods + 1
    assert world.end is None
    assert (world.controller.runs[-1].failures, world.controller.runs[-1].ignored) == (0, 8)
    assert world.pods(0) == 1  # The other worker is not disturbed.


@pytest.mark.parametrize("code", [1, 137, 139, 134, 255])
def test_crashes_are_counted_for_each_worker(code):
    world = World(restarts=2)
    for index in (0, 1, 0, 1):
        world.exit(index, code)
        world.go(50)
    assert world.end is None
    world.exit(1, code)
    world.go(1)
    assert world.end == ("Failed", "MaxFailedIndexesExceeded")
    assert (world.pods(0), world.pods(1)) == (3, 3)


def test_ignored_failures_between_crashes_do_not_count_but_extend_the_back_off():
    world = World(restarts=1)
    world.exit(1, 137)
    world.go(10)
    world.exit(1, 75)
    world.go(19)
    assert world.pods(1) == 2
    world.go(1)
    assert (world.pods(1), world.controller.runs[-1].failures, world.controller.runs[-1].ignored) == (3, 1, 1)
    world.exit(1, 137)
    world.go(0)
    assert world.end == ("Failed", "MaxFailedIndexesExceeded")


@pytest.mark.parametrize("code", [143, 137, 1, 2])
def test_an_evicted_pod_is_not_counted_whatever_its_exit_code(code):
    world = World(restarts=0)
    world.evict(0, code=code)
    world.go(11)
    assert (world.end, world.pods(0)) == (None, 2)


def test_an_evicted_pod_that_ignores_sigterm_is_killed_after_the_grace_period_and_only_then_replaced():
    world = World(restarts=0)
    world.evict(0, code=None)
    world.go(16.5)
    assert (world.controller.runs[0].code, world.pods(0)) == (None, 1)
    world.go(1)
    assert (world.controller.runs[0].code, world.pods(0)) == (137, 1)
    world.go(10)
    assert (world.end, world.pods(0)) == (None, 2)


def test_an_evicted_pod_that_has_just_finished_counts_as_done():
    world = World()
    world.evict(0, code=0)
    world.exit(1, 0)
    assert world.end == ("Complete", "CompletionsReached")


def test_the_time_limit_asks_the_workers_to_stop():
    world = World(time_limit=100)
    world.go(99)
    assert world.end is None
    for process in world.processes:
        process.obeys = None
    world.go(2)
    assert world.controller.jobs[0].conditions == [("FailureTarget", "DeadlineExceeded")]
    assert all(process.asked for process in world.processes)
    world.go(17)
    assert world.end == ("Failed", "DeadlineExceeded")


def test_a_failing_job_starts_no_pod_while_others_end():
    world = World()
    world.processes[0].obeys = None
    world.exit(1, 2)
    world.go(16)
    assert (world.end, len(world.controller.runs)) == (None, 2)
    world.go(2)
    assert (world.end, len(world.controller.runs)) == (("Failed", "PodFailurePolicy"), 2)


# A change to the rules, how a worker ends, and the outcome, which differs from the outcome under launch's rules.
CHANGES = {
    "disruption checked after exit 2": (lambda objects: rules(objects).insert(0, rules(objects).pop(1)), "evicted", 2, "failed"),
    "disruption not checked": (lambda objects: rules(objects).pop(0), "evicted", 137, "failed"),
    "exit 2 not checked": (lambda objects: rules(objects).pop(1), "exits", 2, "again"),
    "exit 2 ignored first": (lambda objects: rules(objects)[0].update(
        onExitCodes={"operator": "NotIn", "values": [0]}, onPodConditions=None), "exits", 2, "again"),
    "75 counted": (lambda objects: rules(objects)[2]["onExitCodes"].update(values=[143]), "exits", 75, "failed"),
    "143 counted": (lambda objects: rules(objects)[2]["onExitCodes"].update(values=[75]), "exits", 143, "failed"),
    "all but 2 ignored": (
        lambda objects: rules(objects)[2]["onExitCodes"].update(operator="NotIn", values=[2]), "exits", 137, "again"),
    "of another container": (
        lambda objects: rules(objects)[1]["onExitCodes"].update(containerName="sidecar"), "exits", 2, "again"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "how", "code", "outcome"), CHANGES.values(), ids=CHANGES)
def test_a_change_to_the_rules_changes_the_outcome(change, how, code, outcome):
    def cleaned(objects):
        change(objects)
        for rule in rules(objects):
            for key in [key for key, value in rule.items() if value is None]:
                del rule[key]

    def outcome_of(world):
        if how == "evicted":
            world.evict(1, code=code)
        else:
            world.exit(1, code)
        world.go(11)
        return "failed" if world.end else "again"

    restarts = 0 if outcome == "failed" else 1
    assert outcome_of(World(cleaned, restarts=restarts)) == outcome
    assert outcome_of(World(restarts=restarts)) != outcome or (how, code) == ("exits", 137)


def test_a_replacement_may_start_early_if_the_policy_allows_it():
    world = World(lambda objects: objects[0]["spec"].update(podReplacementPolicy="TerminatingOrFailed"))
    world.evict(0, code=None)
    world.go(0.1)
    assert (world.controller.runs[0].code, world.pods(0)) == (None, 2)


def test_without_a_limit_per_index_all_workers_share_one_limit_and_one_back_off():
    def change(objects):
        del objects[0]["spec"]["backoffLimitPerIndex"], objects[0]["spec"]["maxFailedIndexes"]
        objects[0]["spec"]["backoffLimit"] = 1

    world = World(change)
    world.exit(0, 75)
    world.exit(1, 137)
    world.go(19)
    assert len(world.controller.runs) == 2
    world.go(1)
    assert len(world.controller.runs) == 4
    world.exit(0, 137)
    world.go(0)
    assert world.end == ("Failed", "BackoffLimitExceeded")


def test_no_more_pods_run_at_once_than_parallelism():
    world = World(lambda objects: objects[0]["spec"].update(parallelism=1))
    assert (world.pods(0), world.pods(1)) == (1, 0)
    world.exit(0, 0)
    assert (world.pods(0), world.pods(1)) == (1, 1)


@pytest.mark.parametrize("code", [1, 75, 137, 143])
def test_a_jobset_restarts_all_workers_when_one_fails_and_counts_the_restart(code):
    world = World(jobset=True, restarts=2)
    for restart in (1, 2):
        world.exit(1, code)
        world.go(0.3)
        assert (world.controller.restarts, world.pods(0), world.pods(1)) == (restart, restart + 1, restart + 1)
    world.exit(1, code)
    world.go(0.3)
    assert world.end == ("Failed", "ReachedMaxRestarts")
    assert (world.pods(0), world.pods(1)) == (3, 3)


def test_a_jobset_waits_for_all_pods_to_end_before_it_restarts():
    world = World(jobset=True)
    world.processes[0].obeys = None
    world.exit(1, 137)
    world.go(16.5)
    assert (len(world.controller.runs), world.controller.restarts) == (2, 0)
    world.go(1)
    assert (len(world.controller.runs), world.controller.restarts) == (4, 1)


def test_exit_2_and_the_time_limit_fail_a_jobset():
    world = World(jobset=True)
    world.exit(0, 2)
    world.go(0.3)
    assert (world.end, len(world.controller.runs)) == (("Failed", "FailJobSetFailurePolicyAction"), 2)
    world = World(jobset=True, time_limit=100)
    world.go(101)
    assert (world.end, len(world.controller.runs)) == (("Failed", "FailJobSetFailurePolicyAction"), 2)


def test_without_the_rule_for_exit_2_a_jobset_restarts():
    world = World(lambda objects: objects[0]["spec"]["failurePolicy"].pop("rules"), jobset=True)
    world.exit(0, 2)
    world.go(0.3)
    assert (world.end, world.controller.restarts) == (None, 1)


def test_a_jobset_is_completed_when_every_worker_has_exited_0():
    world = World(jobset=True)
    world.exit(0, 0)
    world.exit(1, 0)
    world.go(0.2)
    assert world.end == ("Completed", "AllJobsCompleted")
