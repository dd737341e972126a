"""What the suites share: policies, accounts full of contacts, requests, timing.

Everything is derived from fixed seeds and numbers, so that every run does the same work; the digest
of the replies says that it did. Nothing here is timed but what `timed` runs.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final, TypeAlias, TypeVar

from limiter import bounds, kinds, model, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter.policy import PolicyStore
from limiter.v1 import attempt_pb2, decision_service_pb2

__all__ = [
    "DAILY_CONTACTS",
    "ROOMY_CONTACTS",
    "START_MS",
    "Engine",
    "Figure",
    "Group",
    "Population",
    "Timing",
    "account_name",
    "assign",
    "commit_request",
    "contact_name",
    "digest_of",
    "fill_request",
    "mixed_requests",
    "timed",
]

_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply")

# A group of events as the core gives it: number, packed events, how many.
Group: TypeAlias = tuple[int, bytes, int]

# 2027-01-15T08:00:00Z: when the accounts begin to fill.
START_MS: Final = 1_800_000_000_000

_SEED: Final = 20_270_115

# Parts of a run that are timed one by one: their median is not moved by a disturbance.
_PARTS: Final = 10

# The policy of the published figures: 200 contacts in 24 hours.
DAILY_CONTACTS: Final = model.Limit(
    "day", model.Cap(model.Measure.CONTACTS, 200, (), model.RollingWindow(bounds.DAY_MS))
)

# The same with room for everybody, so that whole batches pass.
ROOMY_CONTACTS: Final = model.Limit(
    "day", model.Cap(model.Measure.CONTACTS, 10**9, (), model.RollingWindow(bounds.DAY_MS))
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside what it should be; None where nothing is promised.

    `at_most` says on which side of the target is the good one. `digest` stands for the replies.
    Where the number could not be measured, `missing` says why.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = True
    digest: str = ""
    missing: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better than its target the figure is; below 1 it is missed."""
        if self.target is None:
            return None
        return self.target / self.value if self.at_most else self.value / self.target


@dataclass(frozen=True, slots=True)
class Timing:
    """What running a function over many items took."""

    ns_per_item: float
    digest: str


@dataclass(frozen=True, slots=True)
class Population:
    """How many accounts there are, and how many contacts each has inside its window."""

    account_count: int
    contact_count: int

    @property
    def pair_count(self) -> int:
        """Live (account, contact) pairs."""
        return self.account_count * self.contact_count


@dataclass(frozen=True, slots=True)
class Engine:
    """A core with its policies, without a journal: groups are the caller's to take."""

    core: Core
    store: PolicyStore
    decider: Decider

    @classmethod
    def make(cls, digest_key: bytes = bytes(32)) -> Engine:
        """An empty one."""
        store = PolicyStore()
        core = Core(digest_key, store.bind, kinds.define_kind)
        store.connect(core)
        return cls(core, store, Decider(core, kinds.compile_inline, zones.zone))

    def fill(
        self,
        population: Population,
        keep: Callable[[Group | None], None] = lambda group: None,
        start_ms: int = START_MS,
        span_ms: int = bounds.DAY_MS // 2,
        request_of: Callable[[int, int], bytes] | None = None,
    ) -> None:
        """Gives every account its contacts, account by account over `span_ms`; what that appends to
        the journal goes to `keep`, group by group. `request_of` makes an account's batch, unless it
        is `fill_request`."""
        request_of = request_of or fill_request
        for number in range(population.account_count):
            now_ms = start_ms + number * span_ms // population.account_count
            self.decider.commit_batch(request_of(number, population.contact_count), now_ms)
            if self.core.pending_bytes > bounds.PENDING_JOURNAL_BYTES_MAX // 2:
                keep(self.core.take_group())
        keep(self.core.take_group())


def assign(
    store: PolicyStore,
    limits: Sequence[model.Limit],
    now_ms: int,
    policy_id: str = "benchmark",
    accounts: Iterable[str] = ("",),
) -> None:
    """Puts one policy of these limits on everything, or on each of these accounts."""
    policy = model.Policy(model.child_name("", "policies", policy_id), "", tuple(limits))
    draft = store.draft()
    draft.put_policy(policy, "policy")
    for account in accounts:
        name = model.child_name(account, "assignments", "benchmark")
        draft.put_assignment(
            model.Assignment(name, policy.name, model.Scope(account)), "assignment"
        )
    store.commit(store.prepare(draft, now_ms))


def account_name(number: int) -> str:
    """Of the account with this number; all names are equally long."""
    return f"account-{number:07}"


def contact_name(account: int, number: int) -> str:
    """Of a contact; no two accounts share one. All names are equally long."""
    return f"{account:07}.{number:05}"


def commit_request(account: str, contact: str, view: int = 1) -> bytes:
    """A serialized CommitRequest (a CheckRequest too), in view BASIC unless told otherwise."""
    return decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account=account, contact=contact, channel="sms"),
        view=view,  # type: ignore[arg-type]
    ).SerializeToString()


# A recipient's contact with its account's number left open. Putting it in by bytes.replace takes a
# hundredth of what building ten million messages would.
_OPEN: Final = b"#######"


def _open_recipients(contact_count: int) -> bytes:
    request = decision_service_pb2.CommitBatchRequest()
    for number in range(contact_count):
        request.recipients.add(contact=contact_name(0, number).replace("0000000", _OPEN.decode()))
    return request.SerializeToString()


_open_batches: Final[dict[int, bytes]] = {}


def fill_request(account: int, contact_count: int) -> bytes:
    """A serialized CommitBatchRequest to the account's first contacts."""
    if contact_count not in _open_batches:
        _open_batches[contact_count] = _open_recipients(contact_count)
    head = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account=account_name(account), channel="sms")
    ).SerializeToString()
    return head + _open_batches[contact_count].replace(_OPEN, b"%07d" % account)


def mixed_requests(population: Population, count: int) -> list[bytes]:
    """Serialized CommitRequests to random accounts: half to contacts inside, half to new ones."""
    random = Random(_SEED)
    requests = []
    for _ in range(count):
        account = random.randrange(population.account_count)
        contact = random.randrange(2 * population.contact_count)
        requests.append(commit_request(account_name(account), contact_name(account, contact)))
    return requests


def digest_of(replies: Iterable[bytes]) -> str:
    """A short digest of replies in order."""
    digest = hashlib.sha256()
    for reply in replies:
        digest.update(len(reply).to_bytes(4, "little"))
        digest.update(reply)
    return digest.hexdigest()[:12]


def timed(
    function: Callable[[_Item], _Reply],
    items: Sequence[_Item],
    bytes_of: Callable[[_Reply], bytes],
) -> Timing:
    """Calls `function` with each item; the median over parts of the run of the time per call.

    The time is this thread's on the processor, so that other work on the machine counts less.
    """
    size = -(-len(items) // _PARTS)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    replies: list[_Reply] = []
    took_ns = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for part in parts:
            begun_ns = time.thread_time_ns()
            answered = [function(item) for item in part]
            took_ns.append((time.thread_time_ns() - begun_ns) / len(part))
            replies += answered
    finally:
        if was_enabled:
            gc.enable()
    return Timing(median(took_ns), digest_of(bytes_of(reply) for reply in replies))
