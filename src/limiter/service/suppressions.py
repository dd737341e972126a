"""The part of PolicyService about suppressions: who has opted out of an account's messages.

In flow decoded requests; out flow counts and pages. The core keeps digests; what was sent in the
clear goes into the journal beside them, sealed, and is opened only to be listed. Many people are
noted or listed a slice at a time, with decisions in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import grpc

from limiter import bounds, errors, model
from limiter._suppressions import Noted, Person, Suppressions
from limiter.journal_v1 import revision_pb2
from limiter.sealing import Sealer
from limiter.service import conversion
from limiter.service.pages import Page
from limiter.v1 import account_pb2, policy_service_pb2

__all__ = ["SuppressionServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

_CONTACT: Final = 1
_ADDRESS: Final = 2

# So many events are opened before others go on.
_EVENTS_AT_ONCE: Final = 16


class SuppressionServicer:
    """Serves the suppressions of one core. `commit` and `now_ms` are those of `PolicyServicer`."""

    def __init__(
        self,
        suppressions: Suppressions,
        sealer: Sealer,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._suppressions = suppressions
        self._sealer = sealer
        self._commit = commit
        self._now_ms = now_ms

    async def AddSuppressions(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.AddSuppressionsRequest, context: _Context
    ) -> policy_service_pb2.AddSuppressionsResponse:
        """Notes who has opted out."""
        account = model.named_account(request.parent, "parent")
        people = list(dict.fromkeys(_people(request.suppressions)))
        fresh_count = 0
        for some in _slices(people):
            fresh_count += len(self._suppressions.select(account, some, opted_out=False))
            await asyncio.sleep(0)
        self._require_room(account, fresh_count)
        added_count = 0
        for some in _slices(people):
            # Others may have been here in between.
            fresh = self._suppressions.select(account, some, opted_out=False)
            self._require_room(account, len(fresh))
            if fresh:
                sealed = self._sealer.seal(_clear(fresh), account.encode())
                self._suppressions.add(account, fresh, sealed, self._now_ms())
                added_count += len(fresh)
            await asyncio.sleep(0)
        await self._commit()
        return policy_service_pb2.AddSuppressionsResponse(added_count=added_count)

    async def RemoveSuppressions(  # noqa: N802
        self, request: policy_service_pb2.RemoveSuppressionsRequest, context: _Context
    ) -> policy_service_pb2.RemoveSuppressionsResponse:
        """Lets people be written to again."""
        account = model.named_account(request.parent, "parent")
        people = list(dict.fromkeys(_people(request.suppressions)))
        removed_count = 0
        for some in _slices(people):
            known = self._suppressions.select(account, some, opted_out=True)
            if known:
                self._suppressions.remove(account, known, self._now_ms())
                removed_count += len(known)
            await asyncio.sleep(0)
        await self._commit()
        return policy_service_pb2.RemoveSuppressionsResponse(removed_count=removed_count)

    async def ListSuppressions(  # noqa: N802
        self, request: policy_service_pb2.ListSuppressionsRequest, context: _Context
    ) -> policy_service_pb2.ListSuppressionsResponse:
        """Lists who has opted out, in the order in which it was noted."""
        account = model.named_account(request.parent, "parent")
        page = Page(request, f"suppressions {account}")
        position, _, place = page.after.partition(":")
        noted = self._suppressions.page(account, int(position or 0), int(place or 0), page.size + 1)
        # And then it is where it is read.
        await self._commit()
        shown = noted[: page.size]
        more = len(noted) > page.size
        return policy_service_pb2.ListSuppressionsResponse(
            suppressions=await self._opened(account, shown),
            next_page_token=page.next_token(f"{shown[-1].position}:{shown[-1].place}")
            if more
            else "",
        )

    def _require_room(self, account: str, fresh_count: int) -> None:
        count = self._suppressions.count(account) + fresh_count
        if count > bounds.SUPPRESSIONS_MAX:
            raise errors.ResourceExhausted(
                "TOO_MANY_SUPPRESSIONS",
                f"{count:,} would have opted out of the messages of account {account!r}, and at"
                f" most {bounds.SUPPRESSIONS_MAX:,} can; remove some who are no longer written to",
                metadata={"account": account},
            )

    async def _opened(self, account: str, noted: Sequence[Noted]) -> list[account_pb2.Suppression]:
        """Who was noted there, in the clear."""
        events: dict[int, Sequence[account_pb2.Suppression]] = {}
        found: list[account_pb2.Suppression] = []
        for each in noted:
            if each.position not in events:
                if len(events) % _EVENTS_AT_ONCE == _EVENTS_AT_ONCE - 1:
                    await asyncio.sleep(0)
                events[each.position] = self._event(account, each.position)
            found.append(events[each.position][each.place])
        return found

    def _event(self, account: str, position: int) -> Sequence[account_pb2.Suppression]:
        event = self._suppressions.noted_at(position)
        if event is None:
            raise errors.DataLoss(
                "JOURNAL_DAMAGED",
                "the journal does not hold what it says about who has opted out; `limiter verify`"
                " tells what is damaged",
            )
        time_ms, sealed = event
        clear = self._sealer.open(sealed, account.encode())
        suppressions = revision_pb2.SealedSuppressions.FromString(clear).suppressions
        for suppression in suppressions:
            suppression.create_time.CopyFrom(conversion.timestamp_from_ms(time_ms))
        return suppressions


def _people(suppressions: Sequence[account_pb2.Suppression]) -> Iterator[Person]:
    """Who is meant. Raises `InvalidArgument` about what cannot be a contact or an address."""
    if not suppressions:
        raise model.missing("suppressions", "name who has opted out, a contact or an address each")
    model.check_count(len(suppressions), bounds.SUPPRESSIONS_CHANGED_MAX, "suppressions")
    for index, suppression in enumerate(suppressions):
        field = f"suppressions[{index}]"
        who = suppression.WhichOneof("who")
        value = getattr(suppression, who) if who else ""
        if not value:
            raise model.missing(f"{field}.{who or 'contact'}", "name a contact or an address")
        model.check_bytes(value, f"{field}.{who}", bounds.LABEL_BYTES_MAX)
        yield _CONTACT if who == "contact" else _ADDRESS, value


def _slices(people: Sequence[Person]) -> Iterator[Sequence[Person]]:
    step = bounds.SUPPRESSIONS_NOTED_MAX
    return (people[start : start + step] for start in range(0, len(people), step))


def _clear(people: Sequence[Person]) -> bytes:
    return revision_pb2.SealedSuppressions(
        suppressions=[
            account_pb2.Suppression(contact=text)
            if who == _CONTACT
            else account_pb2.Suppression(address=text)
            for who, text in people
        ]
    ).SerializeToString()
