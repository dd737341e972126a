"""What is decided about one attempt once it is known where each limit stands, naively."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2
from tests.model.limits import (
    ENFORCED,
    FIELD_NAMES,
    Fields,
    Standing,
    first_passing,
    set_time,
)

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED
OPTED_OUT = decision_pb2.REASON_OPTED_OUT


@dataclass(frozen=True, slots=True)
class Attempt:
    """One send about to be made, as the limits see it."""

    account: str
    fields: Fields
    message_count: int
    zone: str = ""  # that the contact lives in


def attempt_of(
    attempt: attempt_pb2.Attempt, recipient: decision_service_pb2.Recipient | None = None
) -> Attempt:
    """What a request asks for; the recipients of a batch bring their own contact and address. An
    empty value is a missing one, and no message count means one message."""
    whole = attempt_pb2.Attempt()
    whole.CopyFrom(attempt)
    if recipient is not None:
        whole.contact, whole.address = recipient.contact, recipient.address
        whole.contact_time_zone = recipient.contact_time_zone
    values = {number: str(getattr(whole, name)) for number, name in FIELD_NAMES.items()}
    fields = {number: value for number, value in values.items() if value}
    return Attempt(whole.account, fields, whole.message_count or 1, zone=whole.contact_time_zone)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided about one attempt, and where its limits stand.

    In the two readings of the counters that the design allows, `exact` and `late`. They differ only
    where a counter has more entries than it keeps exactly.
    """

    exact: decision_pb2.Decision
    late: decision_pb2.Decision
    standings: Sequence[Standing]


# Which reading of a verdict holds: the exact one, unless a test follows what it has observed. The
# number says which of a batch's recipients it is.
Choice = Callable[[Verdict, int], decision_pb2.Decision]


def take_exact(verdict: Verdict, index: int) -> decision_pb2.Decision:
    return verdict.exact


def record(
    standings: Sequence[Standing],
    at_ms: int,
    now_ms: int,
    no_policy: bool,
    late: bool,
) -> decision_pb2.Decision:
    """What has gone out already: allowed, and told what it exceeds."""
    statuses = [standing.record(at_ms, now_ms, late) for standing in standings]
    decision = decision_pb2.Decision(outcome=ALLOWED, limit_statuses=statuses)
    set_time(decision.decide_time, now_ms)
    exceeded = [
        status.reason for status in statuses if status.exceeded and status.enforcement == ENFORCED
    ]
    within = decision_pb2.REASON_NO_POLICY if no_policy else decision_pb2.REASON_WITHIN_LIMITS
    decision.reason = min(exceeded, default=within)
    return decision


def bar(standings: Sequence[Standing], now_ms: int, late: bool) -> decision_pb2.Decision:
    """Who has opted out is not written to, whatever the limits say, and for good."""
    decision = decision_pb2.Decision(outcome=DENIED, reason=OPTED_OUT)
    set_time(decision.decide_time, now_ms)
    decision.limit_statuses.extend(standing.status(now_ms, False, late) for standing in standings)
    return decision


def decide(
    standings: Sequence[Standing],
    now_ms: int,
    no_policy: bool,
    late: bool,
    lapse_ms: int | None = None,
) -> decision_pb2.Decision:
    """All limits at one instant: allowed iff every enforced one lets the attempt pass."""
    enforced = [standing for standing in standings if standing.limit.enforcement == ENFORCED]
    denying = [standing for standing in enforced if not standing.fits(now_ms, late)]
    decision = decision_pb2.Decision(outcome=DENIED if denying else ALLOWED)
    set_time(decision.decide_time, now_ms)
    if denying:
        binding = binding_of(denying, now_ms, late)
        decision.reason = binding.reason
        decision.binding_limit.CopyFrom(binding.status(now_ms, False, late))
        set_time(decision.retry_time, first_passing(enforced, now_ms, late))
    elif no_policy:
        decision.reason = decision_pb2.REASON_NO_POLICY
    else:
        decision.reason = decision_pb2.REASON_WITHIN_LIMITS
    decision.limit_statuses.extend(
        standing.status(now_ms, not denying, late, lapse_ms) for standing in standings
    )
    return decision


def binding_of(denying: Sequence[Standing], now_ms: int, late: bool) -> Standing:
    """Of the limits that deny, the one that passes last (one that never does is the last of all);
    on a tie the one with the lower reason, then the one that comes first."""

    def rank(standing: Standing) -> tuple[float, int]:
        passing_ms = first_passing([standing], now_ms, late)
        return (float("inf") if passing_ms is None else passing_ms, -standing.reason)

    return max(denying, key=rank)  # of equals, max takes the first
