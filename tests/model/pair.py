"""The service and the oracle side by side: whatever is done to one is done to both, and compared.

Every field of every reply must be the oracle's. Where a counter holds more entries than it keeps
exactly, and only there, a reply may lie between the oracle's two readings; the oracle then goes on
from what was observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from limiter.v1 import account_pb2, attempt_pb2, commitment_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.accounts import Refused
from tests.model.driver import Driver, Fault
from tests.model.oracle import Oracle
from tests.model.verdicts import ALLOWED, DENIED, OPTED_OUT, Verdict

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)
Committed: TypeAlias = service_pb2.CommitResponse | service_pb2.BatchResult
Statuses = Sequence[decision_pb2.LimitStatus]

# Replies by the serialized attempt that served as a template.
Usage: TypeAlias = dict[bytes, service_pb2.GetUsageResponse]

# How many attempts' usage is looked at around a restart.
TEMPLATES_MAX = 60


def shown(message: Message) -> str:
    return json_format.MessageToJson(message, indent=1, always_print_fields_with_no_presence=True)


def assert_same(actual: Message, expected: Message, about: object) -> None:
    """Equal messages; the difference is shown as JSON."""
    if actual != expected:
        text = f"{about}\nthe service says {shown(actual)}\nthe oracle says {shown(expected)}"
        raise AssertionError(text)


# --------------------------------------------------------------------------- the leeway


def time_of(message: Message, field: str) -> float:
    """An instant of a message in ms; one that is not set is later than all others."""
    if not message.HasField(field):
        return float("inf")
    return float(getattr(message, field).ToMilliseconds())


def without_counts(status: decision_pb2.LimitStatus) -> decision_pb2.LimitStatus:
    """What there is no leeway in."""
    rest = decision_pb2.LimitStatus()
    rest.CopyFrom(status)
    for field in ("reason", "exceeded", "used_count", "remaining_count", "reset_time"):
        rest.ClearField(field)
    return rest


def status_within(
    actual: decision_pb2.LimitStatus,
    exact: decision_pb2.LimitStatus,
    late: decision_pb2.LimitStatus,
    now_ms: int,
    *,
    in_usage: bool = False,
) -> bool:
    """Whether a status lies between the two readings of its counter."""
    rest, expected = without_counts(actual), without_counts(exact)
    judged = {(exact.reason, exact.exceeded), (late.reason, late.exceeded)}
    if in_usage and actual.used_count <= actual.max_count:
        # Usage is exceeded by what is there already, not by the attempt: between the readings
        # there may be no room for it and still nothing too much.
        judged.add((late.reason, False))
    return (
        rest == expected
        and (actual.reason, actual.exceeded) in judged
        and exact.used_count <= actual.used_count <= late.used_count
        and actual.remaining_count == max(0, actual.max_count - actual.used_count)
        # What has lingered may leave at any moment; nothing leaves later than the late reading.
        and now_ms < time_of(actual, "reset_time") <= time_of(late, "reset_time")
        if late.used_count or actual.used_count
        else actual == exact
    )


def statuses_within(
    actual: Statuses, exact: Statuses, late: Statuses, now_ms: int, *, in_usage: bool = False
) -> bool:
    return len(actual) == len(exact) and all(
        status_within(a, e, x, now_ms, in_usage=in_usage)
        for a, e, x in zip(actual, exact, late, strict=True)
    )


def decision_within(actual: decision_pb2.Decision, verdict: Verdict, now_ms: int) -> bool:
    """Whether a decision lies between the two readings of a verdict."""
    exact, late = verdict.exact, verdict.late
    statuses = readings_after(actual, verdict, now_ms)
    retry = time_of(actual, "retry_time")
    return (
        (actual.outcome, actual.reason)
        in {(exact.outcome, exact.reason), (late.outcome, late.reason)}
        and actual.decide_time == exact.decide_time
        and (
            actual.outcome != DENIED
            or exact.outcome != DENIED
            or time_of(exact, "retry_time") <= retry
        )
        and (actual.outcome != DENIED or retry <= time_of(late, "retry_time"))
        and (actual.outcome == DENIED)
        == (actual.HasField("binding_limit") or actual.reason == OPTED_OUT)
        and (
            not actual.HasField("binding_limit")
            or any(
                status_within(actual.binding_limit, e, x, now_ms)
                for e, x in zip(*statuses, strict=True)
            )
        )
        and (not actual.limit_statuses or statuses_within(actual.limit_statuses, *statuses, now_ms))
    )


def readings_after(
    actual: decision_pb2.Decision, verdict: Verdict, now_ms: int
) -> tuple[Statuses, Statuses]:
    """The two readings of the statuses, both after what was really decided: the readings of the
    verdict itself may differ in that."""
    exact, late = verdict.exact, verdict.late
    if exact.outcome == late.outcome:
        return exact.limit_statuses, late.limit_statuses
    allowed = actual.outcome == ALLOWED
    return (
        [standing.status(now_ms, allowed, False) for standing in verdict.standings],
        [standing.status(now_ms, allowed, True) for standing in verdict.standings],
    )


class Follower:
    """Chooses for the oracle between its readings: what was observed if it lies within the leeway,
    else the exact one, which will then differ from what was observed."""

    def __init__(self, observed: Sequence[decision_pb2.Decision], now_ms: int) -> None:
        self.observed = observed
        self.now_ms = now_ms
        self.had_leeway = False

    def __call__(self, verdict: Verdict, index: int) -> decision_pb2.Decision:
        if verdict.exact == verdict.late:
            return verdict.exact
        self.had_leeway = True
        observed = self.observed[index] if index < len(self.observed) else None
        if observed is not None and decision_within(observed, verdict, self.now_ms):
            return observed
        return verdict.exact


# --------------------------------------------------------------------------- both


class Pair:
    """A service and an oracle with the same past."""

    def __init__(self, driver: Driver, now_ms: int) -> None:
        self.driver = driver
        self.oracle = Oracle()
        self.now_ms = now_ms
        self.commit_ids: dict[tuple[str, int], str] = {}
        self.templates: dict[bytes, attempt_pb2.Attempt] = {}
        self.policies: list[policy_pb2.Policy] = []
        self.assignments: list[policy_pb2.Assignment] = []
        self.accounts: dict[str, account_pb2.Account] = {}
        self._request: Message | None = None
        self._fault: Fault | None = None

    # ---- time and policies

    def advance(self, by_ms: int) -> None:
        self.advance_to(self.now_ms + by_ms)

    def advance_to(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.driver.set_clock(now_ms)

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> None:
        policies = sorted(policies, key=lambda policy: policy.name)
        assignments = sorted(assignments, key=lambda assignment: assignment.name)
        differs = policies != self.policies or assignments != self.assignments
        assert self.driver.apply(policies, assignments) == differs
        if differs:
            self.oracle.revise(policies, assignments, self.now_ms)
        self.policies, self.assignments = list(policies), list(assignments)

    def set_account(self, account: account_pb2.Account) -> None:
        current = self.accounts.get(account.name, account_pb2.Account(name=account.name))
        self.driver.set_account(account)
        if account != current:
            self.oracle.set_account(account, self.now_ms)
        self.accounts[account.name] = account

    def opt(self, account: str, people: Sequence[tuple[int, str]], out: bool) -> None:
        """Lets people opt out of the account's messages, or in again."""
        assert self.driver.opt(account, people, out) == self.oracle.opt(account, people, out)
        assert set(self.driver.opted_out(account)) == self.oracle.opted_out[account]

    def restart(self) -> None:
        """Takes the service down and up again, and sees that nothing has changed."""
        before = self.all_usage()
        self.driver.restart()
        assert self.all_usage() == before
        for account, people in self.oracle.opted_out.items():
            assert set(self.driver.opted_out(account)) == people

    def preload(self, requests: Iterable[tuple[int, service_pb2.CommitRequest]]) -> None:
        """Commits, each at its instant, that no limit can possibly deny, without asking the oracle
        about each: it would go through everything before every time."""
        for at_ms, request in requests:
            self.advance_to(at_ms)
            response = self.driver.commit(request)
            assert response.decision.outcome == ALLOWED
            sequence = self.oracle.count(request, at_ms)
            assert response.account_sequence == sequence
            self.commit_ids[request.attempt.account, sequence] = response.commit_id

    # ---- requests

    def check(self, request: service_pb2.CheckRequest) -> service_pb2.CheckResponse | None:
        """The reply; None if the request is refused, as it should be."""
        self._note(request.attempt)
        asked = self._ask(self.driver.check, request)
        follower = Follower([asked.decision] if asked else [], self.now_ms)
        return self._compare(asked, lambda: self.oracle.check(request, self.now_ms, follower))

    def commit(self, request: service_pb2.CommitRequest) -> service_pb2.CommitResponse | None:
        """The same for a commit."""
        self._note(request.attempt)
        asked = self._ask(self.driver.commit, request)
        follower = Follower([asked.decision] if asked else [], self.now_ms)

        def answer() -> service_pb2.CommitResponse:
            expected = self.oracle.commit(request, self.now_ms, follower)
            if asked:
                self._expect_id(request.attempt.account, expected, asked.commit_id)
            return expected

        return self._compare(asked, answer)

    def check_batch(
        self, request: service_pb2.CheckBatchRequest
    ) -> service_pb2.CheckBatchResponse | None:
        """The same for a batch."""
        asked = self._ask(self.driver.check_batch, request)
        follower = Follower([each.decision for each in asked.results] if asked else [], self.now_ms)

        def answer() -> service_pb2.CheckBatchResponse:
            expected = self.oracle.check_batch(request, self.now_ms, follower)
            if asked and follower.had_leeway:
                overlook_retry_times(asked, expected, self.now_ms)
            return expected

        return self._compare(asked, answer)

    def commit_batch(
        self, request: service_pb2.CommitBatchRequest
    ) -> service_pb2.CommitBatchResponse | None:
        """The same for a batch that counts."""
        for recipient in request.recipients[:3]:
            self._note(whole_attempt(request.attempt, recipient))
        asked = self._ask(self.driver.commit_batch, request)
        follower = Follower([each.decision for each in asked.results] if asked else [], self.now_ms)

        def answer() -> service_pb2.CommitBatchResponse:
            expected = self.oracle.commit_batch(request, self.now_ms, follower)
            if asked:
                assert len(asked.results) == len(expected.results), f"{asked}\n{expected}"
                for result, observed in zip(expected.results, asked.results, strict=True):
                    self._expect_id(request.attempt.account, result, observed.commit_id)
                if follower.had_leeway:
                    overlook_retry_times(asked, expected, self.now_ms)
            return expected

        return self._compare(asked, answer)

    def cancel(
        self, account: str, *, commit_id: str = "", request_id: str = ""
    ) -> commitment_pb2.Commitment | None:
        """The same for a cancel, of the commit with that id, or under that request id."""
        request = commitment_pb2.CancelRequest(account=account)
        self._name_commit(request, commit_id, request_id)
        asked = self._ask(self.driver.cancel, request)
        return self._compare(
            asked and asked.commitment,
            lambda: self._expect_commitment(self.oracle.cancel, account, commit_id, request_id),
        )

    def confirm(
        self, account: str, *, commit_id: str = "", request_id: str = ""
    ) -> commitment_pb2.Commitment | None:
        """The same for a confirmation."""
        request = commitment_pb2.ConfirmRequest(account=account)
        self._name_commit(request, commit_id, request_id)
        asked = self._ask(self.driver.confirm, request)
        return self._compare(
            asked and asked.commitment,
            lambda: self._expect_commitment(self.oracle.confirm, account, commit_id, request_id),
        )

    def _name_commit(
        self,
        request: commitment_pb2.CancelRequest | commitment_pb2.ConfirmRequest,
        commit_id: str,
        request_id: str,
    ) -> None:
        if commit_id:
            request.commit_id = commit_id
        else:
            request.request_id = request_id

    def _expect_commitment(
        self,
        act: Callable[[str, int, int], commitment_pb2.Commitment],
        account: str,
        commit_id: str,
        request_id: str,
    ) -> commitment_pb2.Commitment:
        """How the oracle says that the commit stands, with the id that it has had ever since."""
        sequence = self.oracle.sequence_of(account, request_id, self.now_ms)
        if commit_id:
            found = [key for key, known in self.commit_ids.items() if known == commit_id]
            sequence = found[0][1] if found and found[0][0] == account else 0
        commitment = act(account, sequence, self.now_ms)
        commitment.commit_id = self.commit_ids[account, sequence]
        return commitment

    def get_usage(self, attempt: attempt_pb2.Attempt) -> service_pb2.GetUsageResponse:
        """The usage that both see."""
        request = service_pb2.GetUsageRequest(attempt=attempt)
        actual = self.driver.get_usage(request)
        exact = self.oracle.get_usage(request, self.now_ms)
        if actual == exact:
            return actual
        late = self.oracle.get_usage(request, self.now_ms, late=True)
        within = exact != late and statuses_within(
            actual.limit_statuses,
            exact.limit_statuses,
            late.limit_statuses,
            self.now_ms,
            in_usage=True,
        )
        if not within:
            assert_same(actual, exact, request)
        return actual

    def all_usage(self) -> Usage:
        """The usage under every template of the attempts made so far."""
        return {key: self.get_usage(template) for key, template in self.templates.items()}

    def changes_ahead(self) -> list[int]:
        """Some instants ahead at which a message leaves a window of a kind that is kept: the next
        ones and the last ones."""
        changes: set[int] = set()
        for account in self.oracle.accounts.values():
            for kind in account.kinds:
                exits = {kind.window.exit_ms(message.at_ms) for message in account.messages}
                exits |= {each.lapse_ms for each in account.messages if each.lapse_ms is not None}
                ahead = sorted(exit_ms for exit_ms in exits if exit_ms > self.now_ms)
                changes.update(ahead[:10] + ahead[-5:])
        return sorted(changes)

    # ---- how

    def _note(self, attempt: attempt_pb2.Attempt) -> None:
        if len(self.templates) < TEMPLATES_MAX:
            # A copy: tests go on to change what they have sent.
            template = attempt_pb2.Attempt()
            template.CopyFrom(attempt)
            self.templates.setdefault(template.SerializeToString(deterministic=True), template)

    def _ask(self, method: Callable[[Request], Reply], request: Request) -> Reply | None:
        """The service's reply; None if it refuses. Remembers the fault for `_compare`."""
        self._request, self._fault = request, None
        try:
            return method(request)
        except Fault as fault:
            self._fault = fault
            return None

    def _compare(self, asked: Reply | None, answer: Callable[[], Reply]) -> Reply | None:
        expected, refused = answered(answer)
        fault = self._fault
        if refused is not None:
            assert fault is not None, f"{self._request}\nshould be refused: {refused}\n{asked}"
            assert (fault.code, fault.reason) == (refused.code, refused.reason), fault
            named = {field.rpartition(".")[2] for field in fault.fields}
            assert not refused.fields or named & refused.fields, (
                f"{fault}\nshould name one of {refused.fields}"
            )
            return None
        assert fault is None, f"{self._request}\nis refused: {fault}"
        assert asked is not None
        assert expected is not None
        assert_same(asked, expected, f"at {self.now_ms}: {self._request}")
        return asked

    def _expect_id(self, account: str, expected: Committed, commit_id: str) -> None:
        """Puts the commit_id into an expected result: the one that the commit has had ever since,
        or one that nobody else has."""
        sequence = expected.account_sequence
        if sequence == 0:
            return
        if not expected.replayed:
            assert commit_id, "a commit without an id"
            assert commit_id not in self.commit_ids.values(), f"{commit_id} is given twice"
            self.commit_ids[account, sequence] = commit_id
        expected.commit_id = self.commit_ids[account, sequence]


def same_usage(first: Usage, second: Usage) -> bool:
    """Whether two looks at the usage agree about the templates that they share."""
    shared = first.keys() & second.keys()
    return all(first[key] == second[key] for key in shared)


def answered(answer: Callable[[], Reply]) -> tuple[Reply | None, Refused | None]:
    """What the oracle answers, or why it refuses to."""
    try:
        return answer(), None
    except Refused as refused:
        return None, refused


def whole_attempt(
    attempt: attempt_pb2.Attempt, recipient: service_pb2.Recipient
) -> attempt_pb2.Attempt:
    """What a batch asks for one of its recipients."""
    whole = attempt_pb2.Attempt()
    whole.CopyFrom(attempt)
    whole.contact, whole.address = recipient.contact, recipient.address
    whole.contact_time_zone = recipient.contact_time_zone
    return whole


def overlook_retry_times(
    asked: service_pb2.CheckBatchResponse | service_pb2.CommitBatchResponse,
    expected: service_pb2.CheckBatchResponse | service_pb2.CommitBatchResponse,
    now_ms: int,
) -> None:
    """A rejected batch passes when all of it does; with leeway that may be a little later, and its
    statuses lie within the leeway as well."""
    for observed, result in zip(asked.results, expected.results, strict=True):
        if result.decision.outcome == DENIED and observed.decision.outcome == DENIED:
            retry = time_of(observed.decision, "retry_time")
            assert time_of(result.decision, "retry_time") <= retry
            result.decision.retry_time.CopyFrom(observed.decision.retry_time)
