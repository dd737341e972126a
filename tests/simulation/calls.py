"""What clients ask of a server, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from limiter._suppressions import Person
from limiter.v1 import account_pb2, commitment_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2


@dataclass(frozen=True)
class Apply:
    """A whole set of policies and assignments."""

    policies: Sequence[policy_pb2.Policy]
    assignments: Sequence[policy_pb2.Assignment]


@dataclass(frozen=True)
class Account:
    """An account as it is to be."""

    account: account_pb2.Account


@dataclass(frozen=True)
class Opt:
    """People opt out, or in again."""

    account: str
    people: Sequence[Person]
    out: bool


@dataclass(frozen=True)
class Refused:
    """A call that ended with a status."""

    code: str
    reason: str
    message: str


Request = (
    service_pb2.CommitRequest
    | service_pb2.CommitBatchRequest
    | service_pb2.CheckRequest
    | service_pb2.CheckBatchRequest
    | service_pb2.GetUsageRequest
    | commitment_pb2.CancelRequest
    | commitment_pb2.ConfirmRequest
    | Apply
    | Account
    | Opt
)
# A reply, the number of an edit, or why there is none.
Outcome = Message | int | Refused


def shown(what: Request | Outcome) -> str:
    """In one line."""
    if isinstance(what, Message):
        text = str(what).replace("\n", " ").strip()
        return f"{type(what).__name__} {text}"
    if isinstance(what, Apply):
        policies = "; ".join(shown(policy) for policy in what.policies)
        placed = "; ".join(shown(assignment) for assignment in what.assignments)
        return f"Apply {policies} {placed}"
    return repr(what)
