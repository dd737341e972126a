"""What a caller hands in: attempts, recipients, limits, and how they become messages.

In: dataclasses, keywords and mappings. Out: messages of `limiter.v1`, or InvalidArgument for what
no message can say. Whether a value obeys the service's rules is for the server to say, in one
place.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter import errors
from limiter.v1 import attempt_pb2, decision_service_pb2, plan_pb2, policy_pb2

__all__ = [
    "Attempt",
    "AttemptFields",
    "LimitLike",
    "Recipient",
    "RecipientLike",
    "attempt_message",
    "attempt_of",
    "duration",
    "limit_messages",
    "new_request_id",
    "plan_recipient",
    "recipient_message",
    "recipient_of",
    "timestamp",
]


class AttemptFields(TypedDict, total=False):
    """What else is known about an attempt beside its account; see `limiter.v1.Attempt`."""

    contact: str
    address: str
    channel: str
    resource: str
    campaign: str
    agent: str
    team: str
    source: str
    category: str
    message_count: int
    contact_time_zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One send that is about to be made, for a stream. The fields are those of
    `limiter.v1.Attempt`.

    `request_id` makes it safe to repeat, by another process too. Without one the client makes one.
    """

    account: str
    contact: str = ""
    address: str = ""
    channel: str = ""
    resource: str = ""
    campaign: str = ""
    agent: str = ""
    team: str = ""
    source: str = ""
    category: str = ""
    message_count: int = 1
    contact_time_zone: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One recipient of a batch or a plan. A plan has no use for `request_id`."""

    contact: str = ""
    address: str = ""
    reference: str = ""
    contact_time_zone: str = ""
    request_id: str = ""


RecipientLike = Recipient | str
"""A recipient; a bare string is one with that contact."""

LimitLike = policy_pb2.Limit | Mapping[str, Any]
"""An inline limit: the message, or its canonical JSON mapping as in a policy file."""

_ATTEMPT_NAMES: Final = tuple(
    field.name for field in fields(Attempt) if field.name not in {"account", "request_id"}
)


def attempt_message(account: str, known: AttemptFields | Attempt) -> attempt_pb2.Attempt:
    """The message of an attempt of the account."""
    if isinstance(known, Attempt):
        values = {name: getattr(known, name) for name in _ATTEMPT_NAMES}
    else:
        values = dict(known)
    return attempt_pb2.Attempt(account=account, **values)


def attempt_of(message: attempt_pb2.Attempt) -> Attempt:
    """The attempt that a message tells of."""
    values = {name: getattr(message, name) for name in _ATTEMPT_NAMES}
    return Attempt(account=message.account, **values)


def recipient_of(recipient: RecipientLike) -> Recipient:
    """The recipient, in full."""
    return Recipient(contact=recipient) if isinstance(recipient, str) else recipient


def recipient_message(recipient: Recipient) -> decision_service_pb2.Recipient:
    """The message of a batch's recipient."""
    return decision_service_pb2.Recipient(
        contact=recipient.contact,
        address=recipient.address,
        reference=recipient.reference,
        contact_time_zone=recipient.contact_time_zone,
        request_id=recipient.request_id,
    )


def plan_recipient(recipient: Recipient) -> plan_pb2.PlanRecipient:
    """The message of a plan's recipient."""
    return plan_pb2.PlanRecipient(
        contact=recipient.contact,
        address=recipient.address,
        reference=recipient.reference,
        contact_time_zone=recipient.contact_time_zone,
    )


def limit_messages(limits: Iterable[LimitLike]) -> list[policy_pb2.Limit]:
    """Inline limits as messages. Raises InvalidArgument for a mapping that is no limit."""
    found = []
    for index, limit in enumerate(limits):
        if isinstance(limit, policy_pb2.Limit):
            found.append(limit)
            continue
        try:
            found.append(json_format.ParseDict(dict(limit), policy_pb2.Limit()))
        except json_format.ParseError as error:
            raise errors.InvalidArgument.for_field(
                f"inline_limits[{index}]", f"{error}; write it as in a policy file"
            ) from error
    return found


def new_request_id() -> str:
    """An id that nobody else has: 128 random bits in 32 characters."""
    return secrets.token_hex(16)


def timestamp(name: str, instant: datetime) -> Timestamp:
    """An instant as a message. Raises InvalidArgument for one that does not say its zone."""
    if instant.tzinfo is None:
        raise errors.InvalidArgument.for_field(
            name, "a datetime without a time zone could be any of many instants; give it one"
        )
    message = Timestamp()
    message.FromDatetime(instant.astimezone(UTC))
    return message


def duration(span: timedelta) -> Duration:
    """A span of time as a message."""
    message = Duration()
    message.FromTimedelta(span)
    return message
