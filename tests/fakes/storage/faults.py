"""What can go wrong with a request to Cloud Storage, and with which requests it does: the same ones for the same seed."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable

# Answers that are sent without asking the storage: status, reason and message.
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
    "lost_answer",  # The storage does what is asked, and the connection is reset in place of its answer.
    "truncated",  # Half of the answer's body comes, then the connection is closed. Not for bodies of less than two bytes.
    "slow",  # The storage does what is asked, and its answer comes late.
    "swallowed",  # An upload is said to have succeeded, but nothing is stored.
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which requests are struck, by what.

    Each of the kinds is drawn equally often. One that does not fit the request, as `swallowed` does not fit a download, is not
    delivered, and no other in its place.

    Attributes:
      kinds: of `KINDS`; `token_503` fits only requests for a token, all others only requests to the storage.
      rate: the share of the matching requests that is struck.
      seed: of the choice.
      match: a regular expression, searched for in `METHOD host /path?query` as the client sent them, followed by a space and, for
        an upload, by the object's name as it is in paths.
      first: how many matching requests pass before the first that may be struck.
      count: how many faults there are at most; None for no limit.
      slow_seconds: how late `slow` is.
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
            raise ValueError(f"no kinds of faults: {sorted(unknown)}")
        re.compile(self.match)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault for one request.

    Attributes:
      kind: of `KINDS`.
      plan: the number of the plan that it is of.
      seconds: how late the answer of a `slow` one comes.
    """

    kind: str
    plan: int
    seconds: float


class Faults:
    """Draws faults by plans, and counts them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.replace(())

    def replace(self, plans: Iterable[Plan]) -> None:
        """Follows other plans from now on, each from its beginning."""
        self._plans = tuple(plans)
        self._matched = [0] * len(self._plans)
        self._drawn = [0] * len(self._plans)

    def draw(self, request: str, fitting: Collection[str]) -> Fault | None:
        """Decides on a request, and counts the fault as delivered.

        Args:
          request: what plans match.
          fitting: the kinds that can happen to it.
        """
        chosen = None
        for number, plan in enumerate(self._plans):
            if not re.search(plan.match, request):
                continue
            self._matched[number] += 1
            # Every plan counts every request, so that one plan's faults do not move those of another.
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
        """Takes back what `draw` decided, since it cannot be delivered after all."""
        if fault.plan < len(self._drawn):
            self._drawn[fault.plan] -= 1
        self.counts[fault.kind] -= 1


def _kind(plan: Plan, request: int) -> str | None:
    """Which kind, if any, strikes a plan's request of this number."""
    digest = hashlib.sha256(f"{plan.seed} {request}".encode()).digest()
    drawn = int.from_bytes(digest[:8]) / 2**64
    if drawn >= plan.rate:
        return None
    return plan.kinds[int(drawn / plan.rate * len(plan.kinds))]
