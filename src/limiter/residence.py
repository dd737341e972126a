"""Accounts on their way back into memory, behind the calls of others.

What flows in: ids of accounts that calls need. What flows out: word to those calls once the account
is in memory. A thread reads what the disk holds of it, many accounts in one go; the event loop then
puts them together, in short steps.

What always holds: an account is read once, however many wait for it, and they wait for no other;
one that cannot be brought back fails their calls, and the next call tries again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from limiter import errors
from limiter._residence import Parcel, Residence
from limiter.history import History
from limiter.image_store import ImageStore

__all__ = ["Arrivals", "Waiter"]

_log: Final = logging.getLogger(__name__)

# How long the event loop is held at most, and the events of one step towards that.
_SLICE_S: Final = 0.000_5
_STEP_EVENTS: Final = 200

# Told that an account is in memory, or why it cannot be.
Waiter = Callable[[Exception | None], None]


class Arrivals:
    """Brings accounts of one core back, as `residence` knows them. Belongs to the event loop that
    it is made on. `relieve(count)` is told how many have come together, to make room for them."""

    def __init__(self, residence: Residence, store: ImageStore, history: History) -> None:
        self.residence = residence
        self.relieve: Callable[[int], None] = lambda count: None
        self.count = 0
        self._store = store
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, list[Waiter]] = {}
        # Parcels on their way to the thread, in the thread, and from there.
        self._asked: list[Parcel] = []
        self._wanted: SimpleQueue[list[Parcel] | None] = SimpleQueue()
        self._read: deque[tuple[Parcel, Exception | None]] = deque()
        self._is_coming = False
        self._thread = threading.Thread(target=self._fetch, name="limiter-loader", daemon=True)
        self._thread.start()
        residence.put_off(True)

    def when_here(self, account: int, waiter: Waiter) -> None:
        """Calls `waiter(None)` once the account is in memory, or is known not to exist, and
        `waiter(error)` if it cannot be brought there."""
        waiting = self._waiting.get(account)
        if waiting is not None:
            waiting.append(waiter)
            return
        self._waiting[account] = [waiter]
        parcel = self.residence.request(account)
        if parcel is not None:
            # Who asks in this turn of the loop is served together.
            if not self._asked:
                self._loop.call_soon(self._hand_over)
            self._asked.append(parcel)
        elif not self.residence.is_still(account):
            # Somebody who could not wait has brought it.
            self._loop.call_soon(self.here, account)

    def bring(self, account: int) -> asyncio.Future[None]:
        """A future that resolves once the account is in memory, or is known not to exist."""
        future: asyncio.Future[None] = self._loop.create_future()

        def settle(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.when_here(account, settle)
        return future

    def here(self, account: int) -> None:
        """The account is in memory."""
        self._tell(account, None)

    async def close(self) -> None:
        """Stops the thread; who still waits is told that the server stops."""
        self.residence.put_off(False)
        self._wanted.put(None)
        await asyncio.to_thread(self._thread.join)
        for account in list(self._waiting):
            self._tell(account, errors.Unavailable("DRAINING", "the server is stopping"))

    def _hand_over(self) -> None:
        self._wanted.put(self._asked)
        self._asked = []

    def _fetch(self) -> None:
        """The thread: reads parcels and hands them back, as many at once as were asked for."""
        while (parcels := self._wanted.get()) is not None:
            batch: list[tuple[Parcel, Exception | None]] = []
            try:
                with self._store.reading() as image_of, self._history.reading() as events_of:
                    batch.extend(
                        (parcel, _fault_of(parcel, image_of, events_of)) for parcel in parcels
                    )
            except Exception as error:  # noqa: BLE001 - told to those who wait, whatever it is
                batch += [(parcel, error) for parcel in parcels[len(batch) :]]
            try:
                self._loop.call_soon_threadsafe(self._arrived, batch)
            except RuntimeError:
                # The loop was closed: nobody is left to tell.
                return

    def _arrived(self, batch: list[tuple[Parcel, Exception | None]]) -> None:
        self._read.extend(batch)
        if not self._is_coming:
            self._take_in()

    def _take_in(self) -> None:
        """Puts accounts together for a short while, and comes back for the rest."""
        self._is_coming = False
        come = 0
        end_s = time.perf_counter() + _SLICE_S
        while self._read:
            parcel, fault = self._read.popleft()
            try:
                if fault is not None:
                    self.residence.drop(parcel)
                    raise fault
                if self.residence.take_in(parcel, _STEP_EVENTS):
                    come += 1
                    self._tell(parcel.account, None)
                else:
                    # A long way: the others first.
                    self._read.append((parcel, None))
            except Exception as error:  # noqa: BLE001 - told to those who wait, whatever it is
                _log.error("an account cannot be brought back: %s", error)
                self._tell(parcel.account, error)
            if self._read and time.perf_counter() >= end_s:
                self._is_coming = True
                self._loop.call_soon(self._take_in)
                break
        self.count += come
        self.relieve(come)

    def _tell(self, account: int, error: Exception | None) -> None:
        for waiter in self._waiting.pop(account, ()):
            waiter(error)


def _fault_of(
    parcel: Parcel,
    image_of: Callable[[int], bytes | None],
    events_of: Callable[[int], memoryview | None],
) -> Exception | None:
    """Reads a parcel; what stands against it, if anything does."""
    try:
        parcel.read(image_of, events_of)
    except Exception as error:  # noqa: BLE001 - told to those who wait, whatever it is
        return error
    return None
