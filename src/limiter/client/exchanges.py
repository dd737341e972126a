"""Every call as one value: the method, the request, and how to read its reply.

In: what a caller says. Out: exchanges, which the blocking and the asynchronous client carry out in
their own ways; what is asked and how it is read is said here, once.

What always holds: every commit has a request id, unless the caller gave an empty one; without it
the exchange cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Literal, TypeVar

from google.protobuf.message import Message

from limiter import bounds, errors
from limiter.client import results
from limiter.client.attempts import (
    Attempt,
    AttemptFields,
    LimitLike,
    RecipientLike,
    attempt_message,
    duration,
    limit_messages,
    new_request_id,
    plan_recipient,
    recipient_of,
    timestamp,
)
from limiter.client.batches import Batch
from limiter.v1 import (
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    plan_pb2,
    restriction_pb2,
)

__all__ = [
    "BatchExchange",
    "Exchange",
    "View",
    "cancel",
    "check",
    "check_batch",
    "commit",
    "commit_batch",
    "confirm",
    "list_restrictions",
    "plan",
    "record",
    "stream_request",
    "usage",
    "watch_usage",
]

Result = TypeVar("Result")

View = Literal["basic", "full"]
"""How much of a decision is wanted: `full` has the status of every limit."""

_VIEWS: Final[dict[str | None, decision_pb2.View.ValueType]] = {
    None: decision_pb2.VIEW_UNSPECIFIED,
    "basic": decision_pb2.VIEW_BASIC,
    "full": decision_pb2.VIEW_FULL,
}

# Longer than the number that tells the parts of a batch from each other.
_PART_SUFFIX_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Result]):
    """One call of the method of that name of the DecisionService. `read` makes the result of its
    reply. `can_repeat`: asking twice does no harm."""

    method: str
    request: Message
    read: Callable[[Any], Result]
    can_repeat: bool = True
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class BatchExchange:
    """The calls of one batch, in order, and how their replies become one result."""

    calls: tuple[Exchange[Any], ...]
    together: Callable[[list[Any]], results.BatchResult]


def check(
    account: str, known: AttemptFields, inline_limits: Iterable[LimitLike], view: View | None
) -> Exchange[results.Decision]:
    """What would a commit say now?"""
    request = decision_service_pb2.CheckRequest(
        attempt=attempt_message(account, known),
        inline_limits=limit_messages(inline_limits),
        view=_view(view),
    )
    return Exchange("Check", request, results.decision)


def commit(
    account: str,
    known: AttemptFields,
    *,
    inline_limits: Iterable[LimitLike],
    view: View | None,
    request_id: str | None,
    hold_duration: timedelta | None,
) -> Exchange[results.Commit]:
    """One attempt, counted if it is allowed."""
    request = _commit_request(attempt_message(account, known), inline_limits, view, request_id)
    if hold_duration is not None:
        request.hold_duration.CopyFrom(duration(hold_duration))
    return _commit_exchange(request)


def record(
    account: str, known: AttemptFields, request_id: str | None, event_time: datetime | None
) -> Exchange[results.Commit]:
    """A message that has gone out already."""
    request = _commit_request(attempt_message(account, known), (), None, request_id)
    request.mode = decision_service_pb2.COMMIT_MODE_RECORD
    if event_time is not None:
        request.event_time.CopyFrom(timestamp("event_time", event_time))
    return _commit_exchange(request)


def stream_request(
    attempt: Attempt, inline_limits: Iterable[LimitLike], view: View | None
) -> decision_service_pb2.CommitRequest:
    """One request of a stream, which always has an id: a stream repeats what has no reply."""
    request_id = attempt.request_id or None
    message = attempt_message(attempt.account, attempt)
    return _commit_request(message, inline_limits, view, request_id)


def check_batch(
    account: str,
    recipients: Iterable[RecipientLike],
    shared: AttemptFields,
    *,
    inline_limits: Iterable[LimitLike],
    view: View | None,
    all_or_nothing: bool,
    exclude_duplicates: bool,
    exclude_opt_outs: bool,
) -> BatchExchange:
    """What would a batch say now? In one call: a second one would not know of the first."""
    request = decision_service_pb2.CheckBatchRequest(
        attempt=attempt_message(account, shared),
        inline_limits=limit_messages(inline_limits),
        view=_view(view),
        atomicity=_atomicity(all_or_nothing),
        exclude_duplicates=exclude_duplicates,
        exclude_opt_outs=exclude_opt_outs,
    )
    batch = Batch(recipients, shared_bytes=request.ByteSize())
    _refuse_parts(batch, "a check")
    request.recipients.extend(batch.parts[0].recipients)
    return BatchExchange(
        (Exchange("CheckBatch", request, _itself),), lambda replies: batch.together(replies, "")
    )


def commit_batch(
    account: str,
    recipients: Iterable[RecipientLike],
    shared: AttemptFields,
    *,
    inline_limits: Iterable[LimitLike],
    view: View | None,
    request_id: str | None,
    all_or_nothing: bool,
    exclude_duplicates: bool,
    exclude_opt_outs: bool,
) -> BatchExchange:
    """Attempts to many recipients, in as many calls as they take; each has an id of its own."""
    request_id = new_request_id() if request_id is None else request_id
    request = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_message(account, shared),
        inline_limits=limit_messages(inline_limits),
        view=_view(view),
        request_id=request_id,
        atomicity=_atomicity(all_or_nothing),
        exclude_duplicates=exclude_duplicates,
        exclude_opt_outs=exclude_opt_outs,
    )
    batch = Batch(
        recipients,
        shared_bytes=request.ByteSize() + _PART_SUFFIX_BYTES,
        exclude_duplicates=exclude_duplicates,
    )
    if all_or_nothing:
        _refuse_parts(batch, "a batch that goes whole or not at all")
    calls = []
    for number, part in enumerate(batch.parts):
        of_part = decision_service_pb2.CommitBatchRequest()
        of_part.CopyFrom(request)
        of_part.recipients.extend(part.recipients)
        if request_id and len(batch.parts) > 1:
            of_part.request_id = f"{request_id}/{number}"
        calls.append(Exchange("CommitBatch", of_part, _itself, bool(request_id), request_id))
    return BatchExchange(tuple(calls), lambda replies: batch.together(replies, request_id))


def usage(account: str, template: AttemptFields) -> Exchange[results.Usage]:
    """Every limit that would apply, with its count."""
    request = decision_service_pb2.GetUsageRequest(attempt=attempt_message(account, template))
    return Exchange("GetUsage", request, results.usage)


def watch_usage(account: str, template: AttemptFields) -> Exchange[results.UsageChange]:
    """The same as it changes: a call with many replies."""
    request = decision_service_pb2.WatchUsageRequest(attempt=attempt_message(account, template))
    return Exchange("WatchUsage", request, results.usage_change)


def confirm(account: str, commit_id: str, request_id: str) -> Exchange[results.Commitment]:
    """Makes a held commit count for good."""
    request = commitment_pb2.ConfirmRequest(account=account)
    return Exchange("Confirm", _named(request, commit_id, request_id), results.commitment)


def cancel(account: str, commit_id: str, request_id: str) -> Exchange[results.Commitment]:
    """Takes back what a commit counted."""
    request = commitment_pb2.CancelRequest(account=account)
    return Exchange("Cancel", _named(request, commit_id, request_id), results.commitment)


def plan(
    account: str,
    recipients: Iterable[RecipientLike],
    shared: AttemptFields,
    inline_limits: Iterable[LimitLike],
    spread_duration: timedelta | None,
) -> Exchange[results.Plan]:
    """When may each recipient be written to?"""
    found = [recipient_of(each) for each in recipients]
    request = plan_pb2.PlanRequest(
        attempt=attempt_message(account, shared),
        inline_limits=limit_messages(inline_limits),
        recipients=map(plan_recipient, found),
    )
    if spread_duration is not None:
        request.spread_duration.CopyFrom(duration(spread_duration))
    return Exchange("Plan", request, lambda reply: results.plan(found, reply))


def list_restrictions(
    account: str,
    *,
    campaign: str,
    contact: str,
    limit_id: str,
    start_time: datetime | None,
    end_time: datetime | None,
    page_token: str,
) -> Exchange[tuple[list[results.Restriction], str]]:
    """One page of the denied attempts, and the token of the next one."""
    request = restriction_pb2.ListRestrictionsRequest(
        account=account,
        campaign=campaign,
        contact=contact,
        limit_id=limit_id,
        page_size=bounds.PAGE_SIZE_MAX,
        page_token=page_token,
    )
    if start_time is not None:
        request.start_time.CopyFrom(timestamp("start_time", start_time))
    if end_time is not None:
        request.end_time.CopyFrom(timestamp("end_time", end_time))
    return Exchange(
        "ListRestrictions",
        request,
        lambda reply: ([*map(results.restriction, reply.restrictions)], reply.next_page_token),
    )


def _commit_request(
    attempt: Any,
    inline_limits: Iterable[LimitLike],
    view: View | None,
    request_id: str | None,
) -> decision_service_pb2.CommitRequest:
    return decision_service_pb2.CommitRequest(
        attempt=attempt,
        inline_limits=limit_messages(inline_limits),
        view=_view(view),
        request_id=new_request_id() if request_id is None else request_id,
    )


def _commit_exchange(request: decision_service_pb2.CommitRequest) -> Exchange[results.Commit]:
    request_id = request.request_id
    return Exchange(
        "Commit",
        request,
        lambda reply: results.commit(reply, request_id),
        can_repeat=bool(request_id),
        request_id=request_id,
    )


def _named(request: Any, commit_id: str, request_id: str) -> Any:
    """The request, which says which commit is meant. Raises InvalidArgument unless one id does."""
    if bool(commit_id) == bool(request_id):
        raise errors.InvalidArgument.for_field("commit", "give either commit_id or request_id")
    if commit_id:
        request.commit_id = commit_id
    else:
        request.request_id = request_id
    return request


def _refuse_parts(batch: Batch, what: str) -> None:
    if len(batch.parts) > 1:
        raise errors.InvalidArgument.for_field(
            "recipients",
            f"{what} is one call, of {bounds.BATCH_RECIPIENTS_MAX} recipients and "
            f"{bounds.MESSAGE_BYTES_MAX} bytes at most; make it smaller",
        )


def _view(view: View | None) -> decision_pb2.View.ValueType:
    if view not in _VIEWS:
        raise errors.InvalidArgument.for_field("view", "must be 'basic' or 'full'")
    return _VIEWS[view]


def _atomicity(all_or_nothing: bool) -> decision_service_pb2.Atomicity.ValueType:
    if all_or_nothing:
        return decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
    return decision_service_pb2.ATOMICITY_PARTIAL


def _itself(reply: Any) -> Any:
    return reply
