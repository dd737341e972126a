"""What would these policies have denied? Attempts of the past, tried on policies of one's own.

In flow policies, and a trace of attempts or what a core remembers of an account; out flows a
`SimulatePolicyResponse`. The attempts are decided as a server decides them that starts empty, with
a clock that shows each attempt's own time. Nothing outside is changed.

What was recorded is lived through once more: what has gone out already counts at the instant at
which it went, whatever the draft says. What was held lapses, is confirmed or is cancelled when it
was, if the draft lets it go at all. What was denied and the draft lets go counts for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

from limiter import bounds, errors, kinds, model, zones
from limiter._core import Core
from limiter._recollection import Recollection
from limiter._simulation import OutOfOrder, Simulation
from limiter._trace import SortedTrace, TraceReader, TraceRows
from limiter.history import event_in, group_of, offset_of
from limiter.policy import PolicyStore
from limiter.service import conversion
from limiter.trace import Block, TraceFile
from limiter.v1 import access_pb2, policy_pb2, simulation_pb2

__all__ = ["DRAFT", "HistorySimulation", "PolicySet", "Progress", "Span", "simulate_trace"]

# The name of a policy that has none yet.
DRAFT: Final = "policies/draft"

# Rows that are read, then tried: few enough for the caches.
_ROWS_AT_ONCE: Final = 512

# What one step of a simulation of history does.
_EVENTS_WALKED_AT_ONCE: Final = 8
_EVENTS_TRIED_AT_ONCE: Final = 32
_COUNTERS_RELEASED_AT_ONCE: Final = 256

# Nobody else sees the digests of a simulation.
_DIGEST_KEY: Final = bytes(32)

_EPOCH: Final = date(1970, 1, 1)

# A row as a Simulation gives it.
_Row = tuple[str, str, int, str, int, int, int, int]

# How far a simulation of a trace is: bytes of the file that were read, and attempts tried; and
# whether the trace has to be sorted first.
Progress = Callable[[int, int, bool], None]


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Policies, assignments and groups, as a policy file has them. A single policy without
    assignments is for all accounts, and its groups do not matter. All accounts live in
    `account_zone`."""

    policies: Sequence[policy_pb2.Policy]
    assignments: Sequence[policy_pb2.Assignment] = ()
    groups: Sequence[access_pb2.Group] = ()
    account_zone: str = zones.UTC

    def core(self, digest_key: bytes = _DIGEST_KEY) -> tuple[Core, Sequence[model.Policy]]:
        """An empty core under these policies, and the policies in their order. Raises what applying
        them to a server would."""
        store = PolicyStore()
        core = Core(digest_key, store.bind, kinds.define_kind)
        store.connect(core)
        draft = store.draft()
        for index, message in enumerate(self.groups):
            group = conversion.group_from_message(message, f"groups[{index}]")
            group.check(f"groups[{index}]")
            draft.create_group(group)
        policies = [_policy(message, index) for index, message in enumerate(self.policies)]
        assignments = [_assignment(each, index) for index, each in enumerate(self.assignments)]
        if not assignments:
            policies, assignments = _for_everybody(policies)
        for index, policy in enumerate(policies):
            policy.check(f"policies[{index}]")
            limits = tuple(limit.in_zone(self.account_zone) for limit in policy.limits)
            draft.create_policy(replace(policy, limits=limits), f"policies[{index}]")
        for index, assignment in enumerate(assignments):
            assignment.check(f"assignments[{index}]")
            draft.create_assignment(assignment, f"assignments[{index}]")
        store.commit(store.prepare(draft, 0))
        return core, policies


def _policy(message: policy_pb2.Policy, index: int) -> model.Policy:
    return replace(conversion.policy_from_message(message, f"policies[{index}]"), etag="")


def _assignment(message: policy_pb2.Assignment, index: int) -> model.Assignment:
    return replace(conversion.assignment_from_message(message), etag="")


def _for_everybody(
    policies: Sequence[model.Policy],
) -> tuple[list[model.Policy], list[model.Assignment]]:
    """The only policy, assigned to everything."""
    if len(policies) != 1:
        raise errors.InvalidArgument.for_field(
            "assignments",
            f"there are none, and {len(policies)} policies; assign them, or leave one policy, which"
            " is then for all accounts",
            "MISSING_FIELD",
        )
    name = policies[0].name
    # One that is an account's own is tried for all accounts.
    name = f"policies/{name.rpartition('/')[2]}" if name.startswith("accounts/") else name
    policy = replace(policies[0], name=name or DRAFT, access_groups=())
    return [policy], [model.Assignment("assignments/draft", policy.name)]


@dataclass(frozen=True, slots=True)
class Span:
    """The instants, in milliseconds since 1970, of the attempts that are reported: from the first
    one to before the second. Earlier ones count too."""

    start_ms: int = bounds.INSTANT_MS_MIN
    end_ms: int = bounds.INSTANT_MS_MAX + 1


def simulate_trace(
    policies: PolicySet,
    trace: TraceFile,
    span: Span | None = None,
    on_progress: Progress = lambda read_bytes, attempt_count, is_sorted: None,
) -> simulation_pb2.SimulatePolicyResponse:
    """What the policies would have denied of the attempts of a trace.

    A trace in the order of time is tried as it is read. Any other is taken into memory whole and
    sorted there; attempts of one instant stay in their order. Raises `InvalidArgument` (the
    policies, or a line of the trace, whose number is `line` in the metadata), `ResourceExhausted`
    and `OSError`.
    """
    span = span or Span()
    core, checked = policies.core()
    simulation = Simulation(core, span.start_ms, span.end_ms)
    try:
        _try_as_it_comes(simulation, trace, on_progress)
    except OutOfOrder as error:
        if not trace.can_be_read_again:
            raise errors.InvalidArgument(
                "TRACE_ROW",
                f"line {error.line}: it is earlier than the one before it, and what comes in by a"
                " pipe cannot be read again; sort it by time, or name a file",
                metadata={"line": str(error.line)},
            ) from None
        core, checked = policies.core()
        simulation = Simulation(core, span.start_ms, span.end_ms)
        _try_sorted(simulation, trace, on_progress)
    return response_of(simulation, checked)


def _try_as_it_comes(simulation: Simulation, trace: TraceFile, on_progress: Progress) -> None:
    reader = TraceReader(zones.zone)
    rows = TraceRows(_ROWS_AT_ONCE)

    def take(text: bytes, start: int, is_last: bool) -> int:
        at = start
        while True:
            at = reader.read(text, at, is_last, rows)
            simulation.try_rows(rows)
            if len(rows) < _ROWS_AT_ONCE:
                return at

    for block in _read(reader, trace, take):
        on_progress(block.read_bytes, simulation.attempt_count, False)


def _try_sorted(simulation: Simulation, trace: TraceFile, on_progress: Progress) -> None:
    reader = TraceReader(zones.zone)
    kept = SortedTrace(reader)
    read_bytes = 0
    for block in _read(reader, trace, kept.add):
        read_bytes = block.read_bytes
        on_progress(read_bytes, 0, True)
    kept.sort()
    rows = TraceRows(_ROWS_AT_ONCE)
    at = 0
    while at < len(kept):
        at = kept.read(at, rows)
        simulation.try_rows(rows)
        on_progress(read_bytes, simulation.attempt_count, True)


def _read(
    reader: TraceReader, trace: TraceFile, take: Callable[[bytes, int, bool], int]
) -> Iterator[Block]:
    """Yields the blocks of a trace once their rows are taken. `take` is given text, where the rows
    in it start and whether nothing follows; it returns where the first row starts that is not
    whole, which then comes again with more text."""
    has_begun = False
    left = b""
    for block in trace.blocks():
        text = left + block.text
        at = 0
        if not has_begun:
            at = reader.begin(text, block.is_last)
            has_begun = at > 0
        if has_begun:
            at = take(text, at, block.is_last)
        left = text[at:]
        yield block


class HistorySimulation:
    """What a draft would have denied of what an account of a core has attempted, step by step.

    The draft's name and groups do not matter; `account_zone` is what it means by `ACCOUNT`. Raises
    `InvalidArgument`, about `policies[0]` where the draft breaks a rule.
    """

    def __init__(
        self,
        core: Core,
        draft: policy_pb2.Policy,
        account: str,
        account_zone: str = zones.UTC,
        span: Span | None = None,
    ) -> None:
        self._span = span or Span()
        nameless = policy_pb2.Policy()
        nameless.CopyFrom(draft)
        nameless.ClearField("name")
        private, self._policies = PolicySet([nameless], account_zone=account_zone).core()
        self._simulation = Simulation(
            private,
            self._span.start_ms,
            self._span.end_ms,
            bounds.SIMULATION_REPLY_ROWS_MAX,
        )
        kinds_read = [limit.kind for limit in self._policies[0].limits if limit.kind is not None]
        pauses = [kind.longest_ms for kind in kinds_read if isinstance(kind, model.RunKind)]
        reach_ms = max((kind.longest_ms for kind in kinds_read), default=0)
        self._recollection = Recollection(
            core,
            account,
            self._span.start_ms - reach_ms,
            max(pauses, default=0),
            self._span.end_ms,
        )
        self._steps = self._all_steps()

    def step(self) -> bool:
        """Goes on for some dozens of microseconds; whether that was all. Raises
        `ResourceExhausted` and `DataLoss`."""
        return next(self._steps, None) is None

    def _all_steps(self) -> Iterator[bool]:
        while not self._recollection.walk(_EVENTS_WALKED_AT_ONCE):
            yield False
        self._simulation.recall(self._recollection, _Groups(), zones.zone)
        while not self._simulation.try_events(self._recollection, _EVENTS_TRIED_AT_ONCE):
            yield False

    def response(self) -> simulation_pb2.SimulatePolicyResponse:
        """What was found, once all steps are done."""
        response = response_of(self._simulation, self._policies)
        since_ms = self._recollection.since_ms
        if since_ms is not None:
            response.counted_since_time.CopyFrom(conversion.timestamp_from_ms(since_ms))
        return response

    def release(self) -> bool:
        """Lets go of a part of what it holds; whether that was all. Nothing else works any more."""
        return self._simulation.release(_COUNTERS_RELEASED_AT_ONCE)


class _Groups:
    """A journal in memory."""

    def __init__(self) -> None:
        self._groups: dict[int, bytes] = {}

    def add(self, number: int, events: bytes) -> None:
        self._groups[number] = events

    def event(self, position: int) -> bytes | None:
        return event_in(self._groups[group_of(position)], position, offset_of(position))

    def group(self, number: int) -> bytes | None:
        return self._groups.get(number)

    def begins_ms(self) -> int | None:
        return None


def response_of(
    simulation: Simulation, policies: Iterable[model.Policy]
) -> simulation_pb2.SimulatePolicyResponse:
    """What a simulation has found, by limit in the order of these policies."""
    place_of = {
        (policy.name, limit.limit_id): place
        for place, (policy, limit) in enumerate(
            (policy, limit) for policy in policies for limit in policy.limits
        )
    }
    rows: list[_Row] = []
    while more := simulation.rows(len(rows), _ROWS_AT_ONCE):
        rows += more
    # Policy and limit id come first in a row, then the enforcement, the account and the day.
    found = sorted(rows, key=lambda row: (place_of[row[:2]], row[3], row[4]))
    return simulation_pb2.SimulatePolicyResponse(
        attempt_count=simulation.attempt_count,
        allowed_count=simulation.attempt_count - simulation.denied_count,
        denied_count=simulation.denied_count,
        recorded_count=simulation.recorded_count,
        not_evaluated_count=simulation.not_evaluated_count,
        rows=[
            simulation_pb2.SimulationRow(
                policy=policy,
                limit_id=limit_id,
                enforcement=policy_pb2.Enforcement.ValueType(enforcement),
                account=account,
                day=_day(day),
                denied_count=denied_count,
                binding_count=binding_count,
                denied_contact_count=contact_count,
            )
            for (
                policy,
                limit_id,
                enforcement,
                account,
                day,
                denied_count,
                binding_count,
                contact_count,
            ) in found
        ],
        days=[
            simulation_pb2.SimulationDay(
                day=_day(day), attempt_count=attempt_count, denied_count=denied_count
            )
            for day, attempt_count, denied_count in simulation.days()
        ],
    )


def _day(day: int) -> str:
    """A day since 1970-01-01 as `YYYY-MM-DD`."""
    return (_EPOCH + timedelta(days=day)).isoformat()
