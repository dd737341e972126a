"""What a caller gets: decisions, statuses and the like, as values that never change.

In: messages of `limiter.v1`. Out: dataclasses. Instants are datetimes in UTC, None where the
message has none. An enum has a member for every value that this version knows; a newer server's
value gets one that is named by its number, so that nothing fails that need not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

from google.protobuf.timestamp_pb2 import Timestamp

from limiter.client.attempts import Attempt, Recipient, attempt_of
from limiter.v1 import (
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    plan_pb2,
    restriction_pb2,
)

__all__ = [
    "BatchResult",
    "Commit",
    "Commitment",
    "CommitmentState",
    "Decision",
    "Enforcement",
    "LimitStatus",
    "Outcome",
    "Plan",
    "PlannedSend",
    "Reason",
    "RecipientResult",
    "Restriction",
    "Usage",
    "UsageChange",
]


class _OpenEnum(enum.IntEnum):
    """Members are numbered as in the API. What is not known is a member named by its number."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"VALUE_{value}"
        member._value_ = value
        return member

    def __str__(self) -> str:
        return self.name


class Outcome(_OpenEnum):
    """Whether the message may go. Only ALLOWED allows."""

    UNSPECIFIED = 0
    ALLOWED = 1
    DENIED = 2


class Reason(_OpenEnum):
    """Why. From 10 on reasons deny; see `limiter.v1.Reason`."""

    UNSPECIFIED = 0
    WITHIN_LIMITS = 1
    NO_POLICY = 2
    NOT_EVALUATED = 3
    MESSAGE_COUNT_OVER_MAX = 10
    OPTED_OUT = 11
    CONTACT_CAP = 20
    ADDRESS_CAP = 21
    MESSAGE_CAP = 22
    PAUSE = 23
    HOURS = 24
    BATCH_REJECTED = 40
    POLICY_REQUIRED = 41


class Enforcement(_OpenEnum):
    """What a limit does with an attempt that does not fit."""

    UNSPECIFIED = 0
    ENFORCED = 1
    GOAL = 2
    SHADOW = 3


class CommitmentState(_OpenEnum):
    """What became of a commit."""

    UNSPECIFIED = 0
    COUNTED = 1
    HELD = 2
    CANCELLED = 3
    LAPSED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """Where one limit stands for an attempt; see `limiter.v1.LimitStatus`."""

    policy: str
    limit_id: str
    reason: Reason
    max_count: int
    used_count: int
    remaining_count: int
    reset_time: datetime | None
    counted_since_time: datetime | None
    enforcement: Enforcement
    exceeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one attempt. A denial is an answer like any other: look at `allowed`.

    `retry_time` is the earliest instant at which the same attempt passes, if nothing else is sent;
    None if it is allowed, or if there is none within 400 days.
    """

    outcome: Outcome
    reason: Reason
    binding_limit: LimitStatus | None
    limit_statuses: tuple[LimitStatus, ...]
    retry_time: datetime | None
    decide_time: datetime

    @property
    def allowed(self) -> bool:
        """Whether the message may go. What says nothing denies."""
        return self.outcome is Outcome.ALLOWED

    @property
    def wait(self) -> timedelta | None:
        """How long from the decision to `retry_time`, by the server's clock."""
        return None if self.retry_time is None else self.retry_time - self.decide_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Decision):
    """The answer to a commit. `commit_id` is empty and `account_sequence` 0 unless it is allowed.

    `replayed`: it had been counted before under the same `request_id`, and only once.
    """

    commit_id: str
    account_sequence: int
    replayed: bool
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientResult:
    """What became of one recipient of a batch. Who was left out, as a duplicate or for having opted
    out, has no decision."""

    recipient: Recipient
    decision: Decision | None
    commit_id: str
    account_sequence: int
    duplicate: bool
    opted_out: bool
    replayed: bool

    @property
    def allowed(self) -> bool:
        """Whether the message to this recipient may go."""
        return self.decision is not None and self.decision.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """One result for each recipient, in their order. `request_id` is empty for a check."""

    results: tuple[RecipientResult, ...]
    accepted_count: int
    denied_count: int
    duplicate_count: int
    opted_out_count: int
    request_id: str

    def __iter__(self) -> Iterator[RecipientResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Every limit that would apply to a template, with its count."""

    limit_statuses: tuple[LimitStatus, ...]

    def __iter__(self) -> Iterator[LimitStatus]:
        return iter(self.limit_statuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChange(Usage):
    """The usage at `time`, and whether one message to somebody new would pass then."""

    allowed: bool
    retry_time: datetime | None
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A commit that was allowed, and where it stands."""

    commit_id: str
    state: CommitmentState
    event_time: datetime
    lapse_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSend:
    """When one recipient may be written to; `send_time` is None if `reason` keeps it from going."""

    recipient: Recipient
    send_time: datetime | None
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When each recipient may be written to, in their order, seen from `plan_time`."""

    sends: tuple[PlannedSend, ...]
    plan_time: datetime

    def __iter__(self) -> Iterator[PlannedSend]:
        return iter(self.sends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """Attempts that one limit denied on one day; see `limiter.v1.Restriction`."""

    attempt: Attempt
    reference: str
    reason: Reason
    binding_limit: LimitStatus | None
    policy_etag: str
    retry_time: datetime | None
    denial_count: int
    first_time: datetime
    last_time: datetime
    shadow: bool
    forgotten: bool


class _Answer(Protocol):
    """A message that may hold a decision: a CheckResponse, a CommitResponse or a BatchResult."""

    @property
    def decision(self) -> decision_pb2.Decision: ...


def _instant(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)


def _instant_in(message: Any, name: str) -> datetime | None:
    """The instant in a field of the message; None if it is not set."""
    return _instant(getattr(message, name)) if message.HasField(name) else None


def limit_status(message: decision_pb2.LimitStatus) -> LimitStatus:
    """Where one limit stands."""
    return LimitStatus(
        policy=message.policy,
        limit_id=message.limit_id,
        reason=Reason(message.reason),
        max_count=message.max_count,
        used_count=message.used_count,
        remaining_count=message.remaining_count,
        reset_time=_instant_in(message, "reset_time"),
        counted_since_time=_instant_in(message, "counted_since_time"),
        enforcement=Enforcement(message.enforcement),
        exceeded=message.exceeded,
    )


def _limit_statuses(messages: Any) -> tuple[LimitStatus, ...]:
    return tuple(limit_status(each) for each in messages)


def _binding_limit(message: Any) -> LimitStatus | None:
    return limit_status(message.binding_limit) if message.HasField("binding_limit") else None


def _decision_fields(message: decision_pb2.Decision) -> dict[str, Any]:
    return {
        "outcome": Outcome(message.outcome),
        "reason": Reason(message.reason),
        "binding_limit": _binding_limit(message),
        "limit_statuses": _limit_statuses(message.limit_statuses),
        "retry_time": _instant_in(message, "retry_time"),
        "decide_time": _instant(message.decide_time),
    }


def decision(message: _Answer) -> Decision:
    """The decision of an answer."""
    return Decision(**_decision_fields(message.decision))


def commit(message: decision_service_pb2.CommitResponse, request_id: str) -> Commit:
    """The answer to a commit under this id."""
    return Commit(
        **_decision_fields(message.decision),
        commit_id=message.commit_id,
        account_sequence=message.account_sequence,
        replayed=message.replayed,
        request_id=request_id,
    )


def recipient_result(
    recipient: Recipient, message: decision_service_pb2.BatchResult
) -> RecipientResult:
    """What became of one recipient."""
    return RecipientResult(
        recipient=recipient,
        decision=decision(message) if message.HasField("decision") else None,
        commit_id=message.commit_id,
        account_sequence=message.account_sequence,
        duplicate=message.duplicate,
        opted_out=message.opted_out,
        replayed=message.replayed,
    )


def usage(message: decision_service_pb2.GetUsageResponse) -> Usage:
    """The usage of a template."""
    return Usage(limit_statuses=_limit_statuses(message.limit_statuses))


def usage_change(message: decision_service_pb2.WatchUsageResponse) -> UsageChange:
    """The usage of a template at one instant."""
    return UsageChange(
        limit_statuses=_limit_statuses(message.limit_statuses),
        allowed=message.allowed,
        retry_time=_instant_in(message, "retry_time"),
        time=_instant(message.time),
    )


def commitment(
    message: commitment_pb2.ConfirmResponse | commitment_pb2.CancelResponse,
) -> Commitment:
    """Where a commit stands."""
    found = message.commitment
    return Commitment(
        commit_id=found.commit_id,
        state=CommitmentState(found.state),
        event_time=_instant(found.event_time),
        lapse_time=_instant_in(found, "lapse_time"),
    )


def plan(recipients: list[Recipient], message: plan_pb2.PlanResponse) -> Plan:
    """When each of the recipients may be written to."""
    return Plan(
        sends=tuple(
            PlannedSend(
                recipient=recipient,
                send_time=_instant_in(each, "send_time"),
                reason=Reason(each.reason),
            )
            for recipient, each in zip(recipients, message.results, strict=True)
        ),
        plan_time=_instant(message.plan_time),
    )


def restriction(message: restriction_pb2.Restriction) -> Restriction:
    """Attempts that were denied."""
    return Restriction(
        attempt=attempt_of(message.attempt),
        reference=message.reference,
        reason=Reason(message.reason),
        binding_limit=_binding_limit(message),
        policy_etag=message.policy_etag,
        retry_time=_instant_in(message, "retry_time"),
        denial_count=message.denial_count,
        first_time=_instant(message.first_time),
        last_time=_instant(message.last_time),
        shadow=message.shadow,
        forgotten=message.forgotten,
    )
