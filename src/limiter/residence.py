"""Accounts on their way back into memory, behind the calls of others.

What flows in: ids of accounts that calls need. What flows out: a future for each, which resolves
once the account is in memory. A thread reads what the disk holds of it, many accounts in one go;
the event loop then puts them together, in short steps.

What always holds: those who wait for one account share one future and wait for nobody else's; an
account that cannot be brought back fails their calls, and the next call tries again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Final

from limiter import errors
from limiter._residence import Parcel, Residence
from limiter.history import History
from limiter.image_store import ImageStore

__all__ = ["Arrivals"]

_log: Final = logging.getLogger(__name__)

# How long the event loop is held at most, and the events of one step towards that.
_SLICE_S: Final = 0.000_5
_STEP_EVENTS: Final = 200

# Parcels that are handed over together: more would make the first of them wait.
_BATCH_MAX: Final = 64


class Arrivals:
    """Brings accounts of one core back, as `residence` knows them. Belongs to the event loop that
    it is made on."""

    def __init__(self, residence: Residence, store: ImageStore, history: History) -> None:
        self.residence = residence
        self._store = store
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._wanted: SimpleQueue[Parcel | None] = SimpleQueue()
        self._read: deque[tuple[Parcel, Exception | None]] = deque()
        self._is_coming = False
        self._is_closed = False
        self.count = 0
        self._thread = threading.Thread(target=self._fetch, name="limiter-loader", daemon=True)
        self._thread.start()
        residence.put_off(True)

    def bring(self, account: int) -> asyncio.Future[None]:
        """A future, shared with others, that resolves once the account is in memory, or is known
        not to exist."""
        future = self._awaited.get(account)
        if future is None:
            future = self._awaited[account] = self._loop.create_future()
            parcel = self.residence.request(account)
            if parcel is not None:
                self._wanted.put(parcel)
            elif not self.residence.is_still(account):
                # Somebody who could not wait has brought it.
                self.here(account)
        return future

    def here(self, account: int) -> None:
        """The account is in memory."""
        future = self._awaited.pop(account, None)
        if future is not None and not future.done():
            future.set_result(None)

    async def close(self) -> None:
        """Stops the thread; who still waits is told that the server stops."""
        self._is_closed = True
        self.residence.put_off(False)
        self._wanted.put(None)
        await asyncio.to_thread(self._thread.join)
        for account in list(self._awaited):
            self._fail(account, errors.Unavailable("DRAINING", "the server is stopping"))

    def _fetch(self) -> None:
        """The thread: reads parcels, as many as wait, and hands them over."""
        while (parcel := self._wanted.get()) is not None:
            batch: list[tuple[Parcel, Exception | None]] = []
            while parcel is not None:
                fault: Exception | None = None
                try:
                    parcel.read(self._store, self._history)
                except Exception as error:  # noqa: BLE001 - told to those who wait, whatever it is
                    fault = error
                batch.append((parcel, fault))
                if len(batch) >= _BATCH_MAX:
                    break
                try:
                    parcel = self._wanted.get_nowait()
                except Empty:
                    break
            try:
                self._loop.call_soon_threadsafe(self._arrived, batch)
            except RuntimeError:
                # The loop was closed: nobody is left to tell.
                return
            if parcel is None:
                return

    def _arrived(self, batch: list[tuple[Parcel, Exception | None]]) -> None:
        self._read.extend(batch)
        if not self._is_coming:
            self._take_in()

    def _take_in(self) -> None:
        """Puts accounts together for a short while, and comes back for the rest."""
        self._is_coming = False
        end_s = time.perf_counter() + _SLICE_S
        while self._read:
            parcel, fault = self._read[0]
            try:
                if fault is not None:
                    self.residence.drop(parcel)
                    raise fault
                is_here = self.residence.take_in(parcel, _STEP_EVENTS)
            except Exception as error:  # noqa: BLE001 - told to those who wait, whatever it is
                _log.error("an account cannot be brought back: %s", error)
                self._read.popleft()
                self._fail(parcel.account, error)
                continue
            if is_here:
                self._read.popleft()
                self.count += 1
                self.here(parcel.account)
            if self._read and time.perf_counter() >= end_s:
                if not is_here:
                    # A long way: the others first.
                    self._read.rotate(-1)
                self._is_coming = True
                self._loop.call_soon(self._take_in)
                return

    def _fail(self, account: int, error: Exception) -> None:
        future = self._awaited.pop(account, None)
        if future is not None and not future.done():
            future.set_exception(error)
            # Who waited may be gone: that is no reason for a warning.
            future.exception()
