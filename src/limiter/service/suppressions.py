"""The part of PolicyService about suppressions: who has opted out of an account's messages.

In flow decoded requests; out flow counts and pages. The core and the journal keep digests; what was
sent in the clear is kept by `limiter.people`, and opened only to be listed. Many people are noted a
slice at a time, with decisions in between.

What always holds: somebody's name is on disk before the event that says that they have opted out,
and goes after the event that says that they have not any more is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import grpc

from limiter import bounds, errors, model
from limiter._suppressions import Noted, Person, Suppressions
from limiter.people import People
from limiter.people_store import Kept
from limiter.service import conversion
from limiter.service.pages import Page
from limiter.v1 import account_pb2, policy_service_pb2

__all__ = ["SuppressionServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

_CONTACT: Final = 1
_ADDRESS: Final = 2


class SuppressionServicer:
    """Serves the suppressions of one core, whose names are in `people`. `commit` and `now_ms` are
    those of `PolicyServicer`."""

    def __init__(
        self,
        suppressions: Suppressions,
        people: People,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._suppressions = suppressions
        self._people = people
        self._commit = commit
        self._now_ms = now_ms

    async def AddSuppressions(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.AddSuppressionsRequest, context: _Context
    ) -> policy_service_pb2.AddSuppressionsResponse:
        """Notes who has opted out."""
        account = model.named_account(request.parent, "parent")
        people = list(dict.fromkeys(_people(request.suppressions)))
        async with self._people.turn(account):
            fresh: list[Person] = []
            for some in _slices(people):
                fresh += self._suppressions.select(account, some, opted_out=False)
                await asyncio.sleep(0)
            self._require_room(account, len(fresh))
            try:
                for some in _slices(fresh):
                    now_ms = self._now_ms()
                    names = {self._suppressions.key_of(*person): person[1] for person in some}
                    await self._people.put(account, names, now_ms)
                    self._suppressions.add(account, some, now_ms)
            finally:
                await self._settle(account, fresh)
        return policy_service_pb2.AddSuppressionsResponse(added_count=len(fresh))

    async def RemoveSuppressions(  # noqa: N802
        self, request: policy_service_pb2.RemoveSuppressionsRequest, context: _Context
    ) -> policy_service_pb2.RemoveSuppressionsResponse:
        """Lets people be written to again."""
        account = model.named_account(request.parent, "parent")
        people = list(dict.fromkeys(_people(request.suppressions)))
        removed_count = 0
        async with self._people.turn(account):
            try:
                for some in _slices(people):
                    known = self._suppressions.select(account, some, opted_out=True)
                    if known:
                        keys = [self._suppressions.key_of(*person) for person in known]
                        await self._people.unsettle(account, keys)
                        self._suppressions.remove(account, known, self._now_ms())
                        removed_count += len(known)
                    await asyncio.sleep(0)
            finally:
                # Whom a call that failed let in again may have a name here still.
                await self._settle(account, people)
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
            suppressions=await self._named(account, shown),
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

    async def _settle(self, account: str, people: Iterable[Person]) -> None:
        """Once it is durable who has opted out, lets go of the names of those who have not."""
        await self._commit()
        stays: dict[bytes, bool] = {}
        for person in people:
            key = self._suppressions.key_of(*person)
            stays[key] = self._suppressions.holds(account, key)
        if stays:
            await self._people.settle(account, stays)

    async def _named(self, account: str, noted: Sequence[Noted]) -> list[account_pb2.Suppression]:
        """Who was noted there, in the clear."""
        found: list[account_pb2.Suppression] = []
        rows = await self._people.find(account, [each.key for each in noted])
        for each, kept in zip(noted, rows, strict=True):
            if kept is not None:
                found.append(_suppression(each.key[0], kept))
            elif self._suppressions.holds(account, each.key):
                raise errors.DataLoss(
                    "PEOPLE_CORRUPT",
                    "somebody has opted out, and what they are called is not there: `limiter"
                    " verify` tells what is damaged",
                )
            # Else they have been let in again meanwhile.
        return found


def _suppression(who: int, kept: Kept) -> account_pb2.Suppression:
    """Somebody as the API has them: nameless once they are forgotten."""
    suppression = account_pb2.Suppression(create_time=conversion.timestamp_from_ms(kept.since_ms))
    if kept.name is not None and who == _CONTACT:
        suppression.contact = kept.name
    elif kept.name is not None:
        suppression.address = kept.name
    return suppression


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
