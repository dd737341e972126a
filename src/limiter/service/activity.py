"""DecisionService's GetActivity: what was decided of late, and which limits are nearly full.

In flow the counts that the decider notes; out flows one message for people who look on. The names
of attempts that met a limit which was nearly full are turned into where that limit stands now, by
asking for the usage of a template that names no more than it must.

What always holds: who asks about one account learns of no other; the event loop is let go of every
few questions.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

from limiter import bounds, errors, model
from limiter._activity import Activity
from limiter._core import Core
from limiter.v1 import (
    activity_pb2,
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
)

__all__ = ["ActivityServicer"]

_SECONDS: Final = 60
_ASKED_AT_ONCE: Final = 16

# What of a second or of all decisions a count belongs to.
_FIELDS: Final[dict[tuple[bool, int], str]] = {
    (True, decision_pb2.OUTCOME_ALLOWED): "allowed_commit_count",
    (True, decision_pb2.OUTCOME_DENIED): "denied_commit_count",
    (False, decision_pb2.OUTCOME_ALLOWED): "allowed_check_count",
    (False, decision_pb2.OUTCOME_DENIED): "denied_check_count",
}

_OUTCOMES: Final[dict[int, decision_pb2.Outcome.ValueType]] = {
    number: number for number in decision_pb2.Outcome.values()
}
_REASONS: Final[dict[int, decision_pb2.Reason.ValueType]] = {
    number: number for number in decision_pb2.Reason.values()
}

# The fields of an attempt that are given, the account's among them.
_Fields = dict[str, str]


class ActivityServicer:
    """Answers from the counts of one process, which the decisions of `core` are noted in. `usage`
    answers GetUsage at an instant."""

    def __init__(
        self,
        activity: Activity,
        core: Core,
        usage: Callable[[bytes, int], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        self._activity = activity
        self._core = core
        self._usage = usage
        self._now_ms = now_ms

    async def GetActivity(  # noqa: N802 - the method's name in the API
        self,
        request: activity_pb2.GetActivityRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> activity_pb2.GetActivityResponse:
        """What was decided of late."""
        if request.account:
            model.check_account(request.account, "account")
        account_count = _count(request.account_count, "account_count")
        limit_count = _count(request.limit_count, "limit_count")
        now_ms = self._now_ms()
        response = activity_pb2.GetActivityResponse()
        response.time.FromMilliseconds(now_ms)
        if not request.account:
            self._add_seconds(response, now_ms)
            self._add_counts(response)
        rows = [
            row
            for row in self._activity.busiest(self._core, now_ms)
            if request.account in {"", row[0]}
        ]
        rows.sort(key=lambda row: (-row[1] - row[2], row[0]))
        for account, allowed, denied, uncertain in rows[:account_count]:
            response.accounts.add(
                account=account,
                allowed_count=allowed,
                denied_count=denied,
                uncertain_count=uncertain,
            )
        response.nearly_full_limits.extend(
            await self._nearly_full(request.account, limit_count, now_ms)
        )
        return response

    def _add_seconds(self, response: activity_pb2.GetActivityResponse, now_ms: int) -> None:
        seconds: dict[int, Counter[str]] = {}
        for second, operation, outcome, count in self._activity.history(now_ms, _SECONDS):
            field = _FIELDS[operation.startswith("commit"), outcome]
            seconds.setdefault(second, Counter())[field] += count
        for second, counts in seconds.items():
            added = response.seconds.add(**counts)
            added.start_time.FromSeconds(second)

    def _add_counts(self, response: activity_pb2.GetActivityResponse) -> None:
        counts: Counter[tuple[bool, int, int]] = Counter()
        for operation, outcome, reason, count in self._activity.decisions():
            counts[operation.startswith("commit"), outcome, reason] += count
        for (is_commit, outcome, reason), count in sorted(counts.items()):
            response.decision_counts.add(
                commit=is_commit, outcome=_OUTCOMES[outcome], reason=_REASONS[reason], count=count
            )

    # --- limits that are nearly full --------------------------------------------------------------

    async def _nearly_full(
        self, account: str, count: int, now_ms: int
    ) -> list[activity_pb2.NearlyFullLimit]:
        """The fullest limits, each counter once."""
        found: list[tuple[_Fields, decision_pb2.LimitStatus]] = []
        for number, fields in enumerate(self._activity.nearly_full(self._core)):
            if account in {"", fields["account"]}:
                found += [
                    (fields, status)
                    for status in self._statuses(fields, now_ms)
                    if _is_nearly_full(status)
                ]
            if number % _ASKED_AT_ONCE == _ASKED_AT_ONCE - 1:
                await asyncio.sleep(0)
        found.sort(key=lambda each: -each[1].used_count / each[1].max_count)
        limits: dict[tuple[Any, ...], activity_pb2.NearlyFullLimit] = {}
        for fields, status in found:
            needed = self._needed(fields, status, now_ms)
            key = (*sorted(needed.items()), status.policy, status.limit_id)
            if key not in limits:
                limits[key] = activity_pb2.NearlyFullLimit(
                    attempt=_attempt(needed), limit_status=status
                )
            if len(limits) == count:
                break
            await asyncio.sleep(0)
        return [*limits.values()]

    def _needed(self, fields: _Fields, status: decision_pb2.LimitStatus, now_ms: int) -> _Fields:
        """The least of the fields under which the limit stands the same."""
        needed = dict(fields)
        for name in fields:
            if name == "account":
                continue
            fewer = {other: value for other, value in needed.items() if other != name}
            if status in self._statuses(fewer, now_ms):
                needed = fewer
        return needed

    def _statuses(self, fields: Mapping[str, str], now_ms: int) -> list[decision_pb2.LimitStatus]:
        request = decision_service_pb2.GetUsageRequest(attempt=_attempt(fields))
        reply = self._usage(request.SerializeToString(), now_ms)
        return [*decision_service_pb2.GetUsageResponse.FromString(reply).limit_statuses]


def _attempt(fields: Mapping[str, str]) -> attempt_pb2.Attempt:
    attempt = attempt_pb2.Attempt()
    for name, value in fields.items():
        setattr(attempt, name, value)
    return attempt


def _is_nearly_full(status: decision_pb2.LimitStatus) -> bool:
    """Whether it is an enforced limit that counts, and at least four fifths full."""
    return (
        status.enforcement == policy_pb2.ENFORCEMENT_ENFORCED
        and status.reason != decision_pb2.REASON_NOT_EVALUATED
        and status.max_count > 0
        and status.used_count * 5 >= status.max_count * 4
    )


def _count(given: int, field: str) -> int:
    if not 0 <= given <= bounds.ACTIVITY_ROWS_MAX:
        raise errors.InvalidArgument.for_field(
            field, f"must be from 1 to {bounds.ACTIVITY_ROWS_MAX}, or 0 for the usual number"
        )
    return given or bounds.ACTIVITY_ROWS_DEFAULT
