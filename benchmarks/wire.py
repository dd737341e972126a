"""The wire format alone: nanoseconds a message, with nothing but C around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from benchmarks.workload import START_MS, Figure, digest_of, fill_request
from limiter._wire_inspect import compose, decode_repeatedly, encode_repeatedly
from limiter.v1 import attempt_pb2, decision_service_pb2

__all__ = ["Decode", "Encode", "figures"]

NO_TIME: Final = -1
BASIC, FULL = 1, 2

STATUS: Final[dict[str, Any]] = {
    "policy": "accounts/account-0000001/policies/daily",
    "limit_id": "day",
    "reason": 20,
    "enforcement": 1,
    "exceeded": True,
    "max_count": 200,
    "used_count": 200,
    "remaining_count": 0,
    "reset_ms": START_MS + 123_456,
    "counted_since_ms": NO_TIME,
}


def commit(outcome: int, view: int, statuses: int) -> dict[str, Any]:
    """A CommitResponse in the terms of `limiter._wire_inspect.compose`."""
    denied = outcome == 2
    return {
        "decision": {
            "outcome": outcome,
            "reason": 20 if denied else 1,
            "binding": 0 if denied else -1,
            "results": [STATUS] * statuses,
            "retry_ms": START_MS + 123_456 if denied else NO_TIME,
            "decide_ms": START_MS,
        },
        "view": view,
        "position": 0 if denied else 1 << 24,
        "sequence": 0 if denied else 150,
        "replayed": False,
    }


REPLIES: Final = {
    "allowed, BASIC": commit(1, BASIC, 1),
    "denied, BASIC": commit(2, BASIC, 1),
    "allowed, FULL, 5 limits": commit(1, FULL, 5),
}

ATTEMPT: Final = attempt_pb2.Attempt(
    account="account-0000001",
    contact="contact-0000456789",
    address="+4915112345678",
    channel="sms",
    resource="shop.example",
    campaign="spring-2027",
    agent="agent-17",
    category="marketing",
)

REQUESTS: Final = {
    "CommitRequest": decision_service_pb2.CommitRequest(
        attempt=ATTEMPT, request_id="01HZX3J5K6M7N8P9Q0R1S2T3V4"
    ).SerializeToString(),
    "GetUsageRequest": decision_service_pb2.GetUsageRequest(attempt=ATTEMPT).SerializeToString(),
    "CommitBatchRequest": fill_request(1, 1_000),
}


class Decode:
    """Requests to structs, validated. The batch has 1,000 recipients."""

    params: ClassVar = [list(REQUESTS)]
    param_names: ClassVar = ["message"]
    unit = "ns"
    byte_count = 20_000_000

    def track_decode(self, message: str) -> float:
        data = REQUESTS[message]
        rounds = max(1, self.byte_count // len(data))
        begun_ns = time.thread_time_ns()
        decode_repeatedly(message, data, rounds)
        return (time.thread_time_ns() - begun_ns) / rounds


class Encode:
    """Decisions to the bytes of a CommitResponse."""

    params: ClassVar = [list(REPLIES)]
    param_names: ClassVar = ["reply"]
    unit = "ns"
    rounds = 200_000

    def track_encode(self, reply: str) -> float:
        begun_ns = time.thread_time_ns()
        encode_repeatedly(REPLIES[reply], self.rounds)
        return (time.thread_time_ns() - begun_ns) / self.rounds


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shortens the runs."""
    decode = Decode()
    decode.byte_count = int(decode.byte_count * scale)
    for message, target_ns in (("CommitRequest", 150.0), ("CommitBatchRequest", None)):
        size = len(REQUESTS[message])
        name = f"decode {message} of {size:,} bytes"
        yield Figure(name, decode.track_decode(message), "ns", target_ns)
    encode = Encode()
    encode.rounds = max(1, int(encode.rounds * scale))
    for reply, values in REPLIES.items():
        target_ns = 150.0 if reply == "allowed, BASIC" else None
        digest = digest_of([compose("CommitResponse", values)])
        name = f"encode CommitResponse, {reply}"
        yield Figure(name, encode.track_encode(reply), "ns", target_ns, digest=digest)
