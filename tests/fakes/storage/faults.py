"""Faults of requests to Cloud Storage, and which requests they strike: the same ones for the same seed."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable

# Error answers that are sent without asking the storage: status, reason and message.
REFUSALS = {
    "401": (401, "authError", "Invalid Credentials"),
    "403": (403, "forbidden", "The caller does not have storage.objects access to the object."),
    "404": (404, "notFound", "No such object."),
    "429": (429, "rateLimitExceeded", "The object exceeded the rate limit for object mutation operations."),
    "500": (500, "backendError", "Internal error encountered."),
    "503": (503, "backendError", "We encountered an internal error. Please try again."),
    "token_503": (503, "backendError", "The service is currently unavailable."),
}
KINDS = (
    *REFUSALS,
    "reset",  # The connection is reset before the storage sees the request.
    "lost_answer",  # The storage acts on the request, but the connection is reset instead of its answer.
    "truncated",  # Half of the answer's body is sent, then the connection is closed. Needs a body of at least two bytes.
    "slow",  # The storage acts on the request, and its answer is delayed.
    "swallowed",  # An upload is reported as successful, but nothing is stored.
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which requests are struck, and by which faults.

    Each kind is drawn equally often. A kind that does not fit the request, such as `swallowed` for a download, is dropped without a
    replacement.

    Attributes:
      kinds: values of `KINDS`. `token_503` fits only requests for a token, all others only requests to the storage.
      rate: share of the matching requests that are struck.
      seed: seed of the draw.
      match: regular expression, searched for in `METHOD host /path?query` as the client sent it, followed by a space and, for an
        upload, by the URL-encoded name of the object.
      first: number of matching requests that pass before faults may begin.
      count: largest number of faults; None for no limit.
      slow_seconds: delay of a `slow` answer, in seconds.
    """

    kinds: tuple[str, ...]
    rate: float = 1.0
    seed: int = 0
    match: str = ""
    first: int = 0
    count: int | None = None
    slow_seconds: float = 4.0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ValueError(f"kinds must be one or more of KINDS, got {self.kinds}")
        re.compile(self.match)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault for one request.

    Attributes:
      kind: value of `KINDS`.
      plan: index of the plan that caused it.
      seconds: delay of a `slow` answer, in seconds.
    """

    kind: str
    plan: int
    seconds: float


class Faults:
    """Draws faults from plans, and counts them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.replace(())

    def replace(self, plans: Iterable[Plan]) -> None:
        """Replaces the plans; each new one starts from its beginning."""
        self._plans = tuple(plans)
        self._matched = [0] * len(self._plans)
        self._drawn = [0] * len(self._plans)

    def draw(self, request: str, fitting: Collection[str]) -> Fault | None:
        """Decides whether a fault strikes a request, and counts it as delivered.

        Args:
          request: text that the plans' expressions are searched in.
          fitting: kinds of faults that can happen to this request.

        Returns:
          The fault, or None.
        """
        chosen = None
        for number, plan in enumerate(self._plans):
            if not re.search(plan.match, request):
                continue
            self._matched[number] += 1
            # Every plan counts every request, so that one plan's faults do not shift another's.
            if chosen or self._matched[number] <= plan.first or self._drawn[number] == plan.count:
                continue
            kind = _kind(plan, self._matched[number])
            if kind is not None and kind in fitting:
                chosen = Fault(kind, number, plan.slow_seconds)
        if chosen:
            self._drawn[chosen.plan] += 1
            self.counts[chosen.kind] += 1
        return chosen

    def withdraw(self, fault: Fault) -> None:
        """Takes back a fault from `draw` that cannot be delivered after all."""
        if fault.plan < len(self._drawn):
            self._drawn[fault.plan] -= 1
        self.counts[fault.kind] -= 1


def _kind(plan: Plan, request: int) -> str | None:
    """Returns the kind of fault, if any, for the matching request with this number."""
    digest = hashlib.sha256(f"{plan.seed} {request}".encode()).digest()
    drawn = int.from_bytes(digest[:8]) / 2**64
    if drawn >= plan.rate:
        return None
    return plan.kinds[int(drawn / plan.rate * len(plan.kinds))]
