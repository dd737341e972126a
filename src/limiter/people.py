"""The people of one state who have opted out: what they are called, beside the core's digests.

In flow what becomes of them, from the calls; out flow their names. One thread writes, in the order
in which it is told to; nothing here holds the event loop.

What always holds: whoever changes an account's people has its turn, from the first row to the
moment at which the journal has decided which of them stay. Nothing is acknowledged before its rows
are on disk. What could not be settled (a crash, a failed journal) the next start settles, by what
the journal says then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol
from weakref import WeakValueDictionary

from limiter import bounds, errors
from limiter.journal_v1 import revision_pb2
from limiter.people_store import Change, Kept, PeopleStore
from limiter.sealing import Sealer

__all__ = ["Members", "People", "settle_at_start"]

# Rows that are taken over from the journal, or settled, at a time.
_AT_ONCE: Final = bounds.PAGE_SIZE_MAX


class Noted(Protocol):
    """Where somebody was noted; see `limiter._suppressions`."""

    @property
    def position(self) -> int:
        """Of the event."""

    @property
    def place(self) -> int:
        """In the event."""

    @property
    def key(self) -> bytes:
        """What kind of name it is, and its digest."""


class Members(Protocol):
    """Who has opted out, by what the journal says; see `limiter._suppressions`."""

    def accounts(self) -> list[str]:
        """The accounts that have anybody."""

    def holds(self, account: str, key: bytes) -> bool:
        """Whether somebody with that key has opted out."""

    def page(self, account: str, position: int, place: int, count: int) -> Sequence[Noted]:
        """Up to so many of them, behind a place."""

    def noted_at(self, position: int) -> tuple[int, bytes] | None:
        """When those of an event were noted, and what stays sealed beside them."""


class People:
    """What is known of people, in `store`. Belongs to an event loop."""

    def __init__(self, store: PeopleStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="limiter-people")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Rows that stay and only bear the mark still: written together with what comes next.
        self._staying: list[Change] = []

    def turn(self, account: str) -> asyncio.Lock:
        """Who changes the account's people holds this meanwhile."""
        return self._turns.setdefault(account, asyncio.Lock())

    async def put(self, account: str, names: Mapping[bytes, str], since_ms: int) -> None:
        """Notes what these are called, unsettled. Raises Unavailable."""
        rows = {key: Kept(since_ms, name) for key, name in names.items()}
        await self._write(Change(account, put=rows, unsettled=rows.keys()))

    async def unsettle(self, account: str, keys: Collection[bytes]) -> None:
        """Notes that rows may have to go. Raises Unavailable."""
        await self._write(Change(account, unsettled=keys))

    async def settle(self, account: str, stays: Mapping[bytes, bool]) -> None:
        """Keeps rows or lets go of them: the journal has decided, durably. Raises Unavailable."""
        change = Change(account, settled=stays)
        if all(stays.values()):
            self._staying.append(change)
        else:
            await self._write(change)

    async def find(self, account: str, keys: Sequence[bytes]) -> list[Kept | None]:
        """What is known of these, in their order; None where there is no row. Raises Unavailable
        and DataLoss."""
        return await asyncio.to_thread(self._store.find, account, keys)

    async def forget(self, account: str, key: bytes, *, look_only: bool) -> bool:
        """Erases what somebody is called; whether there was anything to erase. With `look_only`
        says no more than that. Raises Unavailable and DataLoss."""
        (kept,) = await self.find(account, [key])
        if kept is None or kept.name is None:
            return False
        if not look_only:
            await self._write(Change(account, put={key: kept._replace(name=None)}))
        return True

    async def close(self) -> None:
        """Writes what is left and lets go of the store. Idempotent."""
        if self._staying:
            # What cannot be written now the next start settles.
            await asyncio.gather(self._submit(), return_exceptions=True)
        await asyncio.to_thread(self._writer.shutdown)
        self._store.close()

    async def _write(self, change: Change) -> None:
        # Who has gone meanwhile does not interrupt it.
        await asyncio.shield(self._submit(change))

    def _submit(self, *changes: Change) -> asyncio.Future[None]:
        staying, self._staying = self._staying, []
        try:
            return asyncio.get_running_loop().run_in_executor(
                self._writer, self._store.write, [*staying, *changes]
            )
        except RuntimeError as error:
            raise errors.Unavailable(
                "DRAINING", "who has opted out cannot be noted: the server is stopping"
            ) from error


def settle_at_start(
    store: PeopleStore,
    members: Members,
    folder_key: bytes,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Makes the rows what the journal says, once it has been replayed: takes over the names that
    journals of older versions hold, and settles what a crash has left. Blocks; `check` is called
    now and then, and what it raises ends it. Raises DataLoss where names are missing, Unavailable
    where nothing can be written."""
    if not store.is_complete:
        sealer = Sealer(folder_key, "suppressions")
        for account in members.accounts():
            _take_over(store, members, sealer, account, check)
        store.complete()
    unsettled = store.unsettled()
    for start in range(0, len(unsettled), _AT_ONCE):
        check()
        store.write(
            Change(account, settled={key: members.holds(account, key)})
            for account, key in unsettled[start : start + _AT_ONCE]
        )


def _take_over(
    store: PeopleStore,
    members: Members,
    sealer: Sealer,
    account: str,
    check: Callable[[], None],
) -> None:
    """Makes rows of an account's people, whose names lie in the journal."""
    position = place = 0
    while noted := members.page(account, position, place, _AT_ONCE):
        check()
        position, place = noted[-1].position, noted[-1].place
        events: dict[int, tuple[int, list[str]]] = {}
        put: dict[bytes, Kept] = {}
        for each, kept in zip(
            noted, store.find(account, [each.key for each in noted]), strict=True
        ):
            if kept is not None:
                continue
            if each.position not in events:
                events[each.position] = _names_at(members, sealer, account, each.position)
            since_ms, names = events[each.position]
            if not names and not store.may_lack_names:
                raise errors.DataLoss(
                    "PEOPLE_MISSING",
                    f"who has opted out of the messages of account {account!r} is known, but not"
                    " what they are called: restore the folder people from the backup of the rest"
                    " (or make an empty one, to go on without these names)",
                )
            put[each.key] = Kept(since_ms, names[each.place] if names else None)
        store.write([Change(account, put=put)])


def _names_at(
    members: Members, sealer: Sealer, account: str, position: int
) -> tuple[int, list[str]]:
    """When the people of an event were noted, and their names in its order, if it has them."""
    event = members.noted_at(position)
    if event is None:
        return 0, []
    time_ms, sealed = event
    if not sealed:
        return time_ms, []
    clear = revision_pb2.SealedSuppressions.FromString(sealer.open(sealed, account.encode()))
    return time_ms, [each.contact or each.address for each in clear.suppressions]
