"""The controllers of Jobs and JobSets: which pods are created, when they are replaced, and how a job ends.

Their only inputs are the specs of `tests/fakes/kubernetes/expander.py` and the exit codes of pods. As in Kubernetes, each call of
`sync` may start pods, end pods, and set conditions. Sources: the documentation of Jobs and of JobSet v1alpha2 and, where it leaves
details open, the behaviour of Kubernetes 1.31.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from tests.fakes.kubernetes import expander

_FIRST_DELAY, _LONGEST_DELAY = 10.0, 600.0  # Seconds, as in the job controller.
_NO_LIMIT = 2**31 - 1

KILLED = 137  # 128 + SIGKILL.


class Process(Protocol):
    """A pod on a node."""

    def poll(self) -> int | None:
        """Returns the container's exit code, None while it runs."""

    def terminate(self) -> None:
        """Asks the container to end, with SIGTERM."""

    def kill(self) -> None:
        """Ends the container with SIGKILL."""


Start = Callable[[expander.Pod], Process]


@dataclasses.dataclass
class Run:
    """A pod that was created.

    Attributes:
      pod: description of the pod.
      process: its process on the node.
      failures: number of earlier counted failures of its index.
      ignored: number of earlier ignored failures of its index.
      began: creation time.
      code: exit code of its container, None while it runs.
      ended: time at which the exit was seen.
      deleted: time at which it was asked to end, if it was.
      disrupted: whether its node asked for that, as the condition DisruptionTarget says.
    """

    pod: expander.Pod
    process: Process
    failures: int
    ignored: int
    began: float
    code: int | None = None
    ended: float = 0.0
    deleted: float | None = None
    disrupted: bool = False
    _killed: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it runs and was not asked to end."""
        return self.code is None and self.deleted is None

    @property
    def has_failed(self) -> bool:
        """Whether its phase is Failed."""
        return self.code not in (None, 0)

    def delete(self, now: float, *, disrupted: bool = False) -> None:
        """Asks the pod to end; it is killed when its grace period is over."""
        if self.is_active:
            self.deleted, self.disrupted = now, disrupted
            self.process.terminate()

    def look(self, now: float) -> None:
        """Records the end of its container, or kills it when its grace period is over."""
        if self.code is None:
            self.code, self.ended = self.process.poll(), now
        if self.code is None and self.deleted is not None and now - self.deleted >= self.pod.grace and not self._killed:
            self._killed = True
            self.process.kill()


class Job:
    """An Indexed Job.

    Attributes:
      runs: its pods, in order of creation.
      conditions: types and reasons, in the order in which they became true.
    """

    def __init__(self, spec: Mapping[str, Any], pod: Callable[[int], expander.Pod], start: Start, now: float, pace: float) -> None:
        """Args:
        spec: spec of the Job.
        pod: returns the pod of an index.
        start: starts a pod on a node.
        now: current time, in seconds.
        pace: factor by which back-offs are shorter than the job controller's.
        """
        self._spec, self._pod, self._start, self._began, self._pace = spec, pod, start, now, pace
        self._completions: int = spec["completions"]
        policy = spec.get("podFailurePolicy")
        self._rules: list[dict[str, Any]] = policy["rules"] if policy else []
        self._replaces_early = spec.get("podReplacementPolicy", "Failed" if policy else "TerminatingOrFailed") != "Failed"
        self._limit: int | None = spec.get("backoffLimitPerIndex")
        self._whole_limit: int = spec.get("backoffLimit", 6 if self._limit is None else _NO_LIMIT)
        self.runs: list[Run] = []
        self.conditions: list[tuple[str, str]] = []

    @property
    def end(self) -> tuple[str, str] | None:
        """Complete or Failed with its reason, once no pod runs."""
        return next((each for each in self.conditions if each[0] in ("Complete", "Failed")), None)

    def of(self, index: int) -> list[Run]:
        """Returns the pods of an index."""
        return [run for run in self.runs if run.pod.index == index]

    def action(self, run: Run) -> str:
        """Returns the action for a failed pod, from the first rule that matches."""
        for rule in self._rules:
            codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions", [])
            if codes and codes.get("containerName", run.pod.container) == run.pod.container:
                matches = (run.code in codes["values"]) == (codes["operator"] == "In")
            else:
                held = ("DisruptionTarget", str(run.disrupted))
                matches = any((each["type"], each.get("status", "True")) == held for each in conditions)
            if matches:
                return str(rule["action"])
        return "Count"

    def sync(self, now: float) -> None:
        """Updates the state of the pods, and takes the actions that are due."""
        for run in self.runs:
            run.look(now)
        if self.end:
            return
        reason = self._failure(now)
        if reason and not self.conditions:
            self.conditions.append(("FailureTarget", reason))
        if self.conditions:
            self.delete(now)
            if all(run.code is not None for run in self.runs):
                self.conditions.append(("Failed", self.conditions[0][1]))
        elif len(self._done()) == self._completions:
            self.conditions.append(("Complete", "CompletionsReached"))
        else:
            self._make(now)

    def delete(self, now: float) -> None:
        """Asks all pods to end."""
        for run in self.runs:
            run.delete(now)

    def _failure(self, now: float) -> str | None:
        """Returns why the job fails, None if it does not."""
        failed = [run for run in self.runs if run.has_failed]
        if any(self.action(run) == "FailJob" for run in failed):
            return "PodFailurePolicy"
        counted = [run for run in failed if self.action(run) != "Ignore"]
        if len(counted) > self._whole_limit:
            return "BackoffLimitExceeded"
        if now - self._began >= self._spec.get("activeDeadlineSeconds", float("inf")):
            return "DeadlineExceeded"
        if self._limit is not None:
            lost = self._lost()
            if len(lost) > self._spec.get("maxFailedIndexes", self._completions):
                return "MaxFailedIndexesExceeded"
            if lost and len(lost | self._done()) == self._completions:
                return "FailedIndexes"
        return None

    def _done(self) -> set[int]:
        return {run.pod.index for run in self.runs if run.code == 0}

    def _lost(self) -> set[int]:
        """Returns the indexes that failed for good."""
        found = set()
        for run in self.runs:
            action = self.action(run) if run.has_failed and self._limit is not None else "Ignore"
            if action == "FailIndex" or (action == "Count" and run.failures >= (self._limit or 0)):
                found.add(run.pod.index)
        return found

    def _make(self, now: float) -> None:
        """Creates the missing pods, lowest index first."""
        settled = self._done() | self._lost()
        blocking = [run for run in self.runs if (run.is_active if self._replaces_early else run.code is None)]
        taken = {run.pod.index for run in blocking}
        room = self._spec["parallelism"] - len(blocking)
        for index in sorted(set(range(self._completions)) - settled - taken):
            if room <= 0:
                return
            if now < self._not_before(index):
                continue
            failed = [run for run in self.of(index) if run.has_failed]
            ignored = sum(self.action(run) == "Ignore" for run in failed)
            pod = self._pod(index)
            self.runs.append(Run(pod, self._start(pod), len(failed) - ignored, ignored, now))
            room -= 1

    def _not_before(self, index: int) -> float:
        """Returns the end of the back-off, which ignored failures extend too. With limits per index, each index has its own."""
        runs = [run for run in (self.runs if self._limit is None else self.of(index)) if run.code is not None]
        runs.sort(key=lambda run: run.ended)
        in_a_row = 0
        for run in runs:
            in_a_row = in_a_row + 1 if run.has_failed else 0
        if not in_a_row:
            return float("-inf")
        return runs[-1].ended + min(_FIRST_DELAY * 2 ** (in_a_row - 1), _LONGEST_DELAY) / self._pace


class Controller:
    """The controllers of all objects in a manifest.

    Attributes:
      jobs: the Job, or the Jobs of a JobSet since its last restart.
      past: Jobs of a JobSet before its last restart.
      restarts: number of restarts of the JobSet.
    """

    def __init__(self, manifest: expander.Manifest, start: Start, now: float, *, pace: float = 1.0) -> None:
        """Args:
        manifest: objects of the job.
        start: starts a pod on a node.
        now: current time, in seconds.
        pace: factor by which back-offs are shorter than the job controller's.
        """
        self._manifest, self._start, self._pace = manifest, start, pace
        self._is_set = manifest.workload["kind"] == "JobSet"
        self.past: list[Job] = []
        self.restarts = 0
        self._ends: str | None = None  # What the JobSet does once its pods have ended: Restart, or the reason of its failure.
        self._end: tuple[str, str] | None = None
        self.jobs = self._create(now)

    @property
    def end(self) -> tuple[str, str] | None:
        """Complete (for a JobSet, Completed) or Failed with its reason, once no pod runs."""
        return self._end if self._is_set else self.jobs[0].end

    @property
    def runs(self) -> list[Run]:
        """All pods that were created."""
        return [run for job in (*self.past, *self.jobs) for run in job.runs]

    def active(self, index: int) -> Run | None:
        """Returns the pod of an index that runs and was not asked to end."""
        return next((run for run in reversed(self.runs) if run.pod.index == index and run.is_active), None)

    def sync(self, now: float) -> None:
        """Updates the state of all pods, and takes the actions that are due."""
        for job in self.jobs:
            job.sync(now)
        if self._is_set and not self._end:
            self._sync_set(now)

    def _create(self, now: float) -> list[Job]:
        return [
            Job(spec, functools.partial(self._manifest.pod, name), self._start, now, self._pace)
            for name, spec in self._manifest.jobs().items()
        ]

    def _sync_set(self, now: float) -> None:
        if self._ends is None:
            # Like the JobSet controller, it acts on the first Job that has failed.
            failed = next((job for job in self.jobs if job.end and job.end[0] == "Failed"), None)
            if failed:
                self._ends = self._decision(failed.conditions[-1][1])
            elif all(job.end for job in self.jobs):
                self._end = ("Completed", "AllJobsCompleted")
        if self._ends is not None:
            for job in self.jobs:
                job.delete(now)
            if any(run.code is None for run in self.runs):
                return
            if self._ends == "Restart":
                self.past += self.jobs
                self.restarts += 1
                self._ends, self.jobs = None, self._create(now)
            else:
                self._end = ("Failed", self._ends)

    def _decision(self, reason: str) -> str:
        policy = self._manifest.workload["spec"].get("failurePolicy", {})
        action = next(self._actions(policy.get("rules", []), reason), "RestartJobSet")
        if action == "FailJobSet":
            return "FailJobSetFailurePolicyAction"
        if action == "RestartJobSet" and self.restarts >= policy.get("maxRestarts", 0):
            return "ReachedMaxRestarts" if "maxRestarts" in policy else "FailedJobs"
        return "Restart"

    @staticmethod
    def _actions(rules: list[dict[str, Any]], reason: str) -> Iterator[str]:
        """Yields the actions of the rules that match the reason of a Job's failure; every rule must target all Jobs."""
        for rule in rules:
            if rule.get("targetReplicatedJobs"):
                raise NotImplementedError("targetReplicatedJobs: only rules for all Jobs are emulated")
            if reason in rule.get("onJobFailureReasons", [reason]):
                yield rule["action"]
