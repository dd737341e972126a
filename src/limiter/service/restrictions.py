"""DecisionService's ListRestrictions: whom an account missed, and why.

In flow an account, what to look for, and a page; out flow restrictions in the order of their first
denials. What always holds: who may see only some resources or campaigns is shown theirs alone. What
a page costs has a ceiling: where little matches, a page may have few restrictions, or none, and a
token all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import grpc

from limiter import bounds, errors, model
from limiter.restriction_records import Restriction
from limiter.restriction_store import Position, Wanted
from limiter.restrictions import RestrictionLog
from limiter.service import authorization
from limiter.service.conversion import ms_from_timestamp, timestamp_from_ms
from limiter.service.pages import Page
from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2, restriction_pb2

__all__ = ["RestrictionServicer", "restriction_to_message"]

_Context = grpc.aio.ServicerContext[Any, Any]

# Lists that are made at once; others wait for their turn.
_LISTS_MAX: Final = 2


class RestrictionServicer:
    """Serves one log; None where none is kept. `now_ms` is the clock."""

    def __init__(self, log: RestrictionLog | None, now_ms: Callable[[], int]) -> None:
        self._log = log
        self._now_ms = now_ms
        self._turns = asyncio.Semaphore(_LISTS_MAX)

    async def ListRestrictions(  # noqa: N802 - the method's name in the API
        self, request: restriction_pb2.ListRestrictionsRequest, context: _Context
    ) -> restriction_pb2.ListRestrictionsResponse:
        """Lists what was denied, the oldest first."""
        wanted = _wanted(request)
        page = Page(request, f"restrictions {wanted}")
        after = _position(page.after)
        if self._log is None:
            raise errors.FailedPrecondition(
                "RESTRICTIONS_OFF",
                "this server keeps no restrictions: it was started with a retention of 0",
            )
        who = authorization.caller()

        def admits(found: Restriction) -> bool:
            return (not who.resources or found.resource in who.resources) and (
                not who.campaigns or found.campaign in who.campaigns
            )

        async with self._turns:
            found, dropped_count = await asyncio.to_thread(
                self._log.find, wanted, after, page.size, self._now_ms(), admits
            )
        return restriction_pb2.ListRestrictionsResponse(
            restrictions=map(restriction_to_message, found.rows),
            next_page_token=(
                page.next_token(f"{found.next.first_ms}:{found.next.number}") if found.next else ""
            ),
            # What was dropped has no campaign any more.
            dropped_count=0 if who.is_narrowed else dropped_count,
        )


def restriction_to_message(found: Restriction) -> restriction_pb2.Restriction:
    """A restriction as the API has it."""
    message = restriction_pb2.Restriction(
        attempt=attempt_pb2.Attempt(
            account=found.account,
            contact=found.contact,
            address=found.address,
            channel=found.channel,
            resource=found.resource,
            campaign=found.campaign,
            agent=found.agent,
            team=found.team,
            source=found.source,
            category=found.category,
            message_count=found.message_count,
            contact_time_zone=found.contact_time_zone,
        ),
        reference=found.reference,
        reason=decision_pb2.Reason.ValueType(found.reason),
        policy_etag=found.etag,
        denial_count=found.count,
        first_time=timestamp_from_ms(found.first_ms),
        last_time=timestamp_from_ms(found.last_ms),
        shadow=found.shadow,
        forgotten=found.forgotten,
    )
    if found.retry_ms is not None:
        message.retry_time.CopyFrom(timestamp_from_ms(found.retry_ms))
    if found.has_limit:
        limit = message.binding_limit
        limit.policy = found.policy
        limit.limit_id = found.limit_id
        limit.reason = message.reason
        limit.max_count = found.max_count
        limit.used_count = found.used_count
        limit.remaining_count = found.remaining_count
        limit.enforcement = policy_pb2.Enforcement.ValueType(found.enforcement)
        limit.exceeded = True
        if found.reset_ms is not None:
            limit.reset_time.CopyFrom(timestamp_from_ms(found.reset_ms))
        if found.counted_since_ms is not None:
            limit.counted_since_time.CopyFrom(timestamp_from_ms(found.counted_since_ms))
    return message


def _wanted(request: restriction_pb2.ListRestrictionsRequest) -> Wanted:
    model.check_account(request.account, "account")
    for name in ("campaign", "contact"):
        model.check_bytes(getattr(request, name), name, bounds.LABEL_BYTES_MAX)
    if request.limit_id:
        model.check_id(request.limit_id, "limit_id")
    wanted = Wanted(
        account=request.account,
        campaign=request.campaign,
        contact=request.contact,
        limit_id=request.limit_id,
    )
    if request.HasField("start_time"):
        start_ms = ms_from_timestamp(request.start_time)
        start_ms = min(max(start_ms, bounds.INSTANT_MS_MIN), bounds.INSTANT_MS_MAX)
        wanted = replace(wanted, start_ms=start_ms)
    if request.HasField("end_time"):
        wanted = replace(wanted, end_ms=ms_from_timestamp(request.end_time))
    return wanted


def _position(after: str) -> Position | None:
    """The position that a token of ours names; its mark has been checked."""
    if not after:
        return None
    first_ms, _, number = after.partition(":")
    return Position(int(first_ms), int(number))
