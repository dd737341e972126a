"""How commits of the oracle ask to be counted, and what becomes of them afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from limiter.v1 import commitment_pb2, decision_service_pb2
from tests.model.limits import Message, set_time

RECORD = decision_service_pb2.COMMIT_MODE_RECORD


@dataclass(frozen=True, slots=True)
class Terms:
    """How a commit counts: recorded whatever the limits say, at an instant of its own, or until a
    hold ends."""

    recorded: bool = False
    event_ms: int | None = None
    lapse_ms: int | None = None


NOW_AND_FOR_GOOD = Terms()


def terms_of(request: decision_service_pb2.CommitRequest, now_ms: int) -> Terms:
    """How a commit asks to be counted."""
    return Terms(
        request.mode == RECORD,
        request.event_time.ToMilliseconds() if request.HasField("event_time") else None,
        now_ms + request.hold_duration.ToMilliseconds()
        if request.HasField("hold_duration")
        else None,
    )


UNDONE = (
    commitment_pb2.COMMITMENT_STATE_CANCELLED,
    commitment_pb2.COMMITMENT_STATE_LAPSED,
)


def fate_of(message: Message, now_ms: int) -> commitment_pb2.CommitmentState.ValueType:
    """What has become of a commit."""
    if message.cancelled:
        return commitment_pb2.COMMITMENT_STATE_CANCELLED
    if message.lapse_ms is None:
        return commitment_pb2.COMMITMENT_STATE_COUNTED
    if message.lapse_ms <= now_ms:
        return commitment_pb2.COMMITMENT_STATE_LAPSED
    return commitment_pb2.COMMITMENT_STATE_HELD


def commitment_of(message: Message, now_ms: int) -> commitment_pb2.Commitment:
    commitment = commitment_pb2.Commitment(state=fate_of(message, now_ms))
    set_time(commitment.event_time, message.at_ms)
    if commitment.state == commitment_pb2.COMMITMENT_STATE_HELD:
        set_time(commitment.lapse_time, message.lapse_ms)
    return commitment
