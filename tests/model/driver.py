"""The service under test, behind one small interface: inside this process, or a running server.

A driver takes requests as protobuf messages and gives the replies; what the service refuses comes
as a `Fault`. Time stands still until `set_clock` moves it on. `restart` takes the service down and
brings it back from what is journalled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from google.protobuf.message import Message

from limiter import errors, kinds, zones
from limiter._commitments import Commitments
from limiter._core import Core
from limiter._hot import Decider
from limiter._planner import Planner
from limiter._suppressions import Person, Suppressions
from limiter.policy import PolicyStore
from limiter.service import commitment, conversion
from limiter.v1 import account_pb2, commitment_pb2, plan_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2

Reply = TypeVar("Reply")

DIGEST_KEY = bytes(range(32))


class Fault(Exception):
    """A request that was refused: the status code's name, the ErrorInfo's reason, the fields that
    the BadRequest names."""

    def __init__(self, code: str, reason: str, message: str, fields: Sequence[str]) -> None:
        super().__init__(f"{code} {reason}: {message} {list(fields)}")
        self.code = code
        self.reason = reason
        self.fields = tuple(fields)


class Driver(Protocol):
    """One service, with a clock of its own."""

    def set_clock(self, now_ms: int) -> None:
        """Moves the clock; it never goes back."""

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> bool:
        """Makes these all the policies and assignments there are, in one revision; whether that
        changes anything."""

    def set_account(self, account: account_pb2.Account) -> None:
        """Makes the account so."""

    def opt(self, account: str, people: Sequence[Person], out: bool) -> int:
        """Lets people opt out, or in again; how many that changes."""

    def opted_out(self, account: str) -> list[Person]:
        """Everybody who has opted out."""

    def check(self, request: service_pb2.CheckRequest) -> service_pb2.CheckResponse: ...

    def commit(self, request: service_pb2.CommitRequest) -> service_pb2.CommitResponse: ...

    def check_batch(
        self, request: service_pb2.CheckBatchRequest
    ) -> service_pb2.CheckBatchResponse: ...

    def commit_batch(
        self, request: service_pb2.CommitBatchRequest
    ) -> service_pb2.CommitBatchResponse: ...

    def get_usage(self, request: service_pb2.GetUsageRequest) -> service_pb2.GetUsageResponse: ...

    def plan(self, request: plan_pb2.PlanRequest) -> plan_pb2.PlanResponse: ...

    def cancel(self, request: commitment_pb2.CancelRequest) -> commitment_pb2.CancelResponse: ...

    def confirm(self, request: commitment_pb2.ConfirmRequest) -> commitment_pb2.ConfirmResponse: ...

    def restart(self) -> None:
        """Ends the service and starts it again from its journal, at the same instant."""

    def close(self) -> None:
        """Ends the service for good."""


class CoreDriver:
    """The state machine and the policies, without transport and disk: the journal is a list."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._groups: list[tuple[int, bytes]] = []
        self._start()

    def _start(self) -> None:
        self._store = PolicyStore()
        self._core = Core(DIGEST_KEY, self._store.bind, kinds.define_kind)
        self._store.connect(self._core)
        self._core.recall_from(self)
        for number, events in self._groups:
            self._core.replay(number, events, self._store.restore)
        self._core.rebuild.finish()
        self._decider = Decider(self._core, kinds.compile_inline, zones.zone)
        self._commitments = Commitments(self._core)
        self._suppressions = Suppressions(self._core)

    @property
    def core(self) -> Core:
        """The state machine as it is now."""
        return self._core

    def _journal(self) -> None:
        taken = self._core.take_group()
        if taken is not None:
            number, events, _ = taken
            self._groups.append((number, events))

    def _rebuild(self) -> None:
        """Fills the counters of new kinds, as a server does behind the calls."""
        while self._core.rebuild.some(100):
            pass

    def _decide(self, ask: Callable[[bytes, int], Reply], request: Message) -> Reply:
        """The answer; whoever is told to come back when a counter is filled does."""
        try:
            return refusing(lambda: ask(request.SerializeToString(), self.now_ms))
        except Fault as fault:
            if fault.reason != "KIND_REBUILDING":
                raise
        self._rebuild()
        return refusing(lambda: ask(request.SerializeToString(), self.now_ms))

    def set_clock(self, now_ms: int) -> None:
        assert now_ms >= self.now_ms
        self.now_ms = now_ms

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> bool:
        def edit() -> bool:
            differs = apply_to(self._store, policies, assignments, self.now_ms)
            self._journal()
            self._rebuild()
            return differs

        return refusing(edit)

    def set_account(self, account: account_pb2.Account) -> None:
        set_account_in(self._store, account, self.now_ms)
        self._journal()

    def opt(self, account: str, people: Sequence[Person], out: bool) -> int:
        changed_count = opt_in(self._suppressions, account, people, out, self.now_ms)
        self._journal()
        return changed_count

    def opted_out(self, account: str) -> list[Person]:
        return opted_out_of(self._suppressions, account)

    def check(self, request: service_pb2.CheckRequest) -> service_pb2.CheckResponse:
        reply = self._decide(self._decider.check, request)
        return service_pb2.CheckResponse.FromString(reply)

    def commit(self, request: service_pb2.CommitRequest) -> service_pb2.CommitResponse:
        reply, waits = self._decide(self._decider.commit, request)
        self._journal()
        response = service_pb2.CommitResponse.FromString(reply)
        assert waits == bool(response.commit_id)
        return response

    def check_batch(self, request: service_pb2.CheckBatchRequest) -> service_pb2.CheckBatchResponse:
        reply = self._decide(self._decider.check_batch, request)
        return service_pb2.CheckBatchResponse.FromString(reply)

    def commit_batch(
        self, request: service_pb2.CommitBatchRequest
    ) -> service_pb2.CommitBatchResponse:
        reply, waits = self._decide(self._decider.commit_batch, request)
        self._journal()
        response = service_pb2.CommitBatchResponse.FromString(reply)
        assert waits == (response.accepted_count > 0)
        return response

    def get_usage(self, request: service_pb2.GetUsageRequest) -> service_pb2.GetUsageResponse:
        reply = self._decide(self._decider.get_usage, request)
        return service_pb2.GetUsageResponse.FromString(reply)

    def plan(self, request: plan_pb2.PlanRequest) -> plan_pb2.PlanResponse:
        planner = Planner(
            self._core, kinds.compile_inline, zones.zone, False, request.SerializeToString()
        )

        def make() -> bytes:
            planner.decode()
            while not planner.run(7, self.now_ms):
                pass
            return planner.take()

        pending_bytes = self._core.pending_bytes
        reply = refusing(make)
        assert self._core.pending_bytes == pending_bytes
        while not planner.clear(3):
            pass
        planner.release()
        return plan_pb2.PlanResponse.FromString(reply)

    def cancel(self, request: commitment_pb2.CancelRequest) -> commitment_pb2.CancelResponse:
        response = refusing(lambda: commitment.cancel(self._commitments, 0, request, self.now_ms))
        self._journal()
        return response

    def confirm(self, request: commitment_pb2.ConfirmRequest) -> commitment_pb2.ConfirmResponse:
        response = refusing(lambda: commitment.confirm(self._commitments, 0, request, self.now_ms))
        self._journal()
        return response

    # What the core reads of its journal.

    def event(self, position: int) -> bytes:
        events, offset = self.group(position >> 24), position & 0xFFFFFF
        size = 4 + int.from_bytes(events[offset + 1 : offset + 4], "little")
        return events[offset : offset + size]

    def group(self, number: int) -> bytes:
        found, events = self._groups[number - 1]
        assert found == number
        return events

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes]]:
        yield self.group

    def begins_ms(self) -> int | None:
        """Nothing was dropped from the journal."""
        return None

    def restart(self) -> None:
        self._start()

    def fork(self) -> CoreDriver:
        """Another service with the same past, whose future is its own."""
        other = CoreDriver(self.now_ms)
        other._groups = list(self._groups)
        other._start()
        return other

    def close(self) -> None:
        self._groups.clear()


def apply_to(
    store: PolicyStore,
    policies: Sequence[policy_pb2.Policy],
    assignments: Sequence[policy_pb2.Assignment],
    now_ms: int,
) -> bool:
    """Makes these all the policies and assignments there are; whether that changes anything."""
    draft = store.draft()
    for policy in policies:
        checked = conversion.policy_from_message(policy, "policy")
        checked.check("policy")
        draft.put_policy(checked, "policy")
    for assignment in assignments:
        placed = conversion.assignment_from_message(assignment)
        placed.check("assignment")
        draft.put_assignment(placed, "assignment")
    draft.prune()
    prepared = store.prepare(draft, now_ms)
    store.commit(prepared)
    return prepared.revision is not None


def set_account_in(store: PolicyStore, account: account_pb2.Account, now_ms: int) -> None:
    """Makes the account so."""
    draft = store.draft()
    draft.put_account(conversion.account_from_message(account, "account"))
    store.commit(store.prepare(draft, now_ms))


# Whoever has ever opted out, by the digest: every core here has the same key.
_names: Final[dict[bytes, Person]] = {}


def opt_in(
    suppressions: Suppressions, account: str, people: Sequence[Person], out: bool, now_ms: int
) -> int:
    """Lets people opt out, or in again; how many that changes."""
    changed = suppressions.select(account, people, not out)
    if changed and out:
        _names.update((suppressions.key_of(*person), person) for person in changed)
        suppressions.add(account, changed, now_ms)
    elif changed:
        suppressions.remove(account, changed, now_ms)
    return len(changed)


def opted_out_of(suppressions: Suppressions, account: str) -> list[Person]:
    """Everybody who has opted out, read a page at a time."""
    found: list[Person] = []
    position = place = 0
    while noted := suppressions.page(account, position, place, 2):
        position, place = noted[-1].position, noted[-1].place
        found += [_names[each.key] for each in noted]
    return found


def refusing(call: Callable[[], Reply]) -> Reply:
    """The call's reply; the service's own errors as faults."""
    try:
        return call()
    except errors.LimiterError as error:
        raise Fault(
            error.code,
            error.reason,
            error.message,
            [violation.field for violation in error.violations],
        ) from error
