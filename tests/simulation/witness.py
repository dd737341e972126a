"""The oracle beside the server: told of each decision as it is made, and put back after a crash.

In flow every request with the instant at which it was decided and what came of it; out flow
failures. What is decided is compared field by field with the oracle, at once, whatever becomes of
the reply. Whenever a group is taken from the core, the witness keeps a copy of itself: that is what
a server has to be again that finds this group to be the newest one in its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from google.protobuf.message import Message

from limiter import errors
from limiter._suppressions import Person
from limiter.v1 import account_pb2, attempt_pb2, commitment_pb2, plan_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import accounts as oracle_accounts
from tests.model.book import PolicyBook
from tests.model.driver import Fault
from tests.model.oracle import Oracle
from tests.model.pair import Pair
from tests.simulation.calls import Account, Apply, Opt
from tests.simulation.disk import Disk

# After a recovery the usage under so many templates is looked at, those of the newest attempts.
TEMPLATES_MAX = 4


def fault_of(error: errors.LimiterError) -> Fault:
    """The service's own error as the oracle's pair knows it."""
    fields = [violation.field for violation in error.violations]
    return Fault(error.code, error.reason, error.message, fields)


class Told:
    """What the server has answered already, as a driver that answers it. What changes nothing can
    be asked of `live`, which answers serialized requests for usage."""

    def __init__(self) -> None:
        self.outcome: object = None
        self.opted_out_now: Callable[[str], list[Person]] = lambda _account: []
        self.live: Callable[[bytes, int], bytes] | None = None
        self.now_ms = 0

    def _answer(self, _request: object = None) -> Any:
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        if isinstance(outcome, Fault):
            raise outcome
        return outcome

    check = commit = check_batch = commit_batch = cancel = confirm = _answer

    def set_clock(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> bool:
        return cast(bool, self._answer())

    def set_account(self, account: account_pb2.Account) -> None:
        """It was done."""

    def opt(self, account: str, people: Sequence[Person], out: bool) -> int:
        return cast(int, self._answer())

    def opted_out(self, account: str) -> list[Person]:
        return self.opted_out_now(account)

    def get_usage(self, request: service_pb2.GetUsageRequest) -> service_pb2.GetUsageResponse:
        if self.outcome is not None:
            return cast(service_pb2.GetUsageResponse, self._answer())
        assert self.live is not None
        reply = self.live(request.SerializeToString(), self.now_ms)
        return service_pb2.GetUsageResponse.FromString(reply)

    def plan(self, request: plan_pb2.PlanRequest) -> plan_pb2.PlanResponse:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def copy_of(oracle: Oracle) -> Oracle:
    """An oracle with the same past, whose future is its own."""
    other = Oracle()
    book = oracle.book
    other.book = PolicyBook(
        dict(book.policies),
        dict(book.assignments),
        {place: replace(kept) for place, kept in book.kept.items()},
        dict(book.zones),
    )
    other.accounts = {
        name: oracle_accounts.Account(
            set(account.kinds),
            list(account.messages),
            dict(account.remembered),
            dict(account.inline),
            dict(account.inline_used_ms),
        )
        for name, account in oracle.accounts.items()
    }
    other.opted_out = {name: set(people) for name, people in oracle.opted_out.items()}
    other.allowed = {name: set(allowed) for name, allowed in oracle.allowed.items()}
    return other


@dataclass(frozen=True)
class Memory:
    """What the witness knew when a group was taken."""

    oracle: Oracle
    commit_ids: dict[tuple[str, int], str]
    policies: list[policy_pb2.Policy]
    assignments: list[policy_pb2.Assignment]
    accounts: dict[str, account_pb2.Account]
    edition: int


class Witness(Pair):
    """The oracle's side of one history."""

    def __init__(self, now_ms: int) -> None:
        self.told = Told()
        super().__init__(self.told, now_ms)
        # How many edits have changed policies, accounts and opt-outs.
        self.edition = 0
        # The server's state is about to be dropped, and not compared until it is recovered.
        self.is_blind = False
        self._memories: dict[int, Memory] = {0: self._memory()}

    # ---- what is told

    def at(self, now_ms: int, outcome: object) -> None:
        """The next comparison is of what came of a request at that instant."""
        assert now_ms >= self.now_ms, f"an instant {self.now_ms - now_ms} ms back"
        self.advance_to(now_ms)
        self.told.outcome = outcome

    def overlooks(self, error: errors.LimiterError, disk: Disk) -> bool:
        """Whether something has failed only because the disk cannot be read."""
        if not isinstance(error, errors.Unavailable) or not disk.is_unreadable:
            return False
        self.looks_away(disk)
        return True

    def looks_away(self, disk: Disk) -> bool:
        """Whether nothing is compared now. Once a write has failed the process is about to learn
        that its state is lost; until then it may leave things half done."""
        self.is_blind |= disk.has_panicked
        return self.is_blind

    def settle(
        self,
        request: commitment_pb2.CancelRequest | commitment_pb2.ConfirmRequest,
        outcome: Message | Fault,
        now_ms: int,
    ) -> None:
        """A commit was cancelled or confirmed."""
        if self.is_blind:
            return
        self.at(now_ms, outcome)
        act = self.cancel if isinstance(request, commitment_pb2.CancelRequest) else self.confirm
        act(request.account, commit_id=request.commit_id, request_id=request.request_id)

    def edit(self, request: Apply | Account | Opt, outcome: object, now_ms: int) -> None:
        """Policies, an account or who has opted out were changed."""
        if self.is_blind:
            return
        self.at(now_ms, outcome)
        if isinstance(request, Apply):
            self.apply(request.policies, request.assignments)
        elif isinstance(request, Account):
            self.set_account(request.account)
        else:
            self.opt(request.account, request.people, request.out)

    def _note(self, attempt: attempt_pb2.Attempt) -> None:
        super()._note(attempt)
        while len(self.templates) > TEMPLATES_MAX:
            del self.templates[next(iter(self.templates))]

    # ---- groups

    def _memory(self) -> Memory:
        return Memory(
            copy_of(self.oracle),
            dict(self.commit_ids),
            list(self.policies),
            list(self.assignments),
            dict(self.accounts),
            self.edition,
        )

    def taken(self, group: int) -> None:
        """Everything up to now is in that group and those before it."""
        self._memories[group] = self._memory()

    def put_back(self, tail: int, now_ms: int) -> None:
        """A server has recovered what is in the groups up to this one."""
        assert tail in self._memories, f"group {tail} was never taken"
        memory = self._memories[tail]
        self.oracle = copy_of(memory.oracle)
        self.commit_ids = dict(memory.commit_ids)
        self.policies, self.assignments = list(memory.policies), list(memory.assignments)
        self.accounts = dict(memory.accounts)
        self.edition = memory.edition
        self.is_blind = False
        self.now_ms = self.told.now_ms = now_ms
        self._memories = {group: each for group, each in self._memories.items() if group <= tail}

    def compare_all(self) -> None:
        """Whether the server stands where the oracle does: usage, and who has opted out."""
        self.all_usage()
        for account, people in self.oracle.opted_out.items():
            assert set(self.told.opted_out_now(account)) == people, f"opted out of {account}"
