"""The restrictions log: who was denied, when and by what, for whoever asks whom he missed.

In flow denials, from the core through a buffer; out flow restrictions, in the order of their first
denials. One thread takes from the buffer once a second and writes to the store.

What always holds:

- No decision waits for the log, and none fails with it. What cannot be written is counted as
  dropped for its account, and said in the server's log.
- The thread takes a small share of a processor, whatever comes: under a flood the buffer fills, and
  what does not fit is counted. A list shows what was denied before it was asked for, unless a flood
  keeps the thread too busy.
- A crash takes what was in the buffer: the last moment, or what a flood had piled up. The journal
  records those denials too, but not in the clear; so they are counted as dropped at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from limiter import bounds, errors
from limiter._denials import DenialBatch, DenialBuffer
from limiter.logs import told
from limiter.restriction_records import Forgotten, Restriction, day_of, parts_of
from limiter.restriction_store import Found, Position, RestrictionStore, Wanted

__all__ = ["RestrictionKeeper", "RestrictionLog", "check_settings"]

_log: Final = logging.getLogger(__name__)

# How often the buffer is emptied when nobody asks.
_INTERVAL_S: Final = 1.0

# Rows of one transaction; and of one stretch of work, which is shorter than the time for which one
# thread may keep the interpreter.
_TRANSACTION_ROWS: Final = 4_096
_STRETCH_ROWS: Final = 16

# The thread rests until the others of the process have had so much more of a processor than it; or,
# while they hardly want one, so much longer than it has worked.
_BUSY_REST_RATIO: Final = 40
_IDLE_REST_RATIO: Final = 15
_IDLE_SHARE: Final = 0.1

# What is written without rests when somebody asks for a list: a full batch and more.
_HASTE_ROWS: Final = 16_384

# How long a list waits for what was denied before it, and how long who forgets somebody does.
_FLUSH_S: Final = 5.0
_FORGET_FLUSH_S: Final = 60.0

# Rows that are looked at, for somebody to be forgotten, before others have their turn.
_FORGET_ROWS: Final = 1_000

# How often the log is told the time.
_TICK_INTERVAL_S: Final = 60.0

# Keys that are let go in one transaction.
_TRIM_KEYS: Final = 1_000


class RestrictionLog:
    """Fills `store` from `buffer`, which the core is to be told of, between `start` and `close`.
    `retention_ms` is how long restrictions are kept at least: they leave by whole days."""

    def __init__(self, store: RestrictionStore, retention_ms: int) -> None:
        self.buffer = DenialBuffer(secrets.token_bytes(16))
        self.buffer.position = store.known_up_to
        self._store = store
        self._retention_ms = retention_ms
        self._changed = threading.Condition()
        # Flushes that were asked for, and those that are done.
        self._asked = 0
        self._done = 0
        self._is_stopping = False
        # Calls that forget somebody and wait for what was noted before them.
        self._forgetting_count = 0
        self._now_ms = 0
        self._trimmed_day = 0
        self._is_failing = False
        # Denials that could not be kept, since the start.
        self.dropped_count = 0
        # What could not be written, by account; to be counted once something can.
        self._unwritten: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="limiter-restrictions", daemon=True)

    @property
    def used_bytes(self) -> int:
        """The log on disk."""
        return self._store.used_bytes

    def start(self, position: int, now_ms: int) -> None:
        """Begins to write. The journal ends before `position`: a new log knows nothing of it."""
        self.tick(now_ms)
        if self.buffer.position > position:
            self.buffer.position = position
            self._store.write((), {}, 0, position)
        self._thread.start()

    def tick(self, now_ms: int) -> None:
        """Says what time it is, so that what has passed its retention goes."""
        self._now_ms = now_ms

    def find(
        self,
        wanted: Wanted,
        after: Position | None,
        count: int,
        now_ms: int,
        admits: Callable[[Restriction], bool] = lambda _found: True,
    ) -> tuple[Found, int]:
        """Up to `count` restrictions that are wanted and that `admits`, beyond a position, and how
        many of the account's denials could not be kept. Blocks. Raises DataLoss."""
        self.flush()
        wanted = replace(wanted, from_day=self._from_day(now_ms))
        found = self._store.find(wanted, after, count, admits=admits)
        dropped = self._store.dropped_count(wanted.account, wanted.from_day, day_of(now_ms))
        return found, dropped + self._unwritten.get(wanted.account, 0)

    def forget(self, who: Forgotten, *, look_only: bool) -> int:
        """Erases what could tell that restrictions of before are about somebody; how many were
        about them. With `look_only` says no more than that. Blocks. Raises Unavailable, DataLoss,
        and ResourceExhausted where denials come too fast for that."""
        with self._changed:
            self._forgetting_count += 1
        try:
            is_written = self.flush(_FORGET_FLUSH_S)
        finally:
            with self._changed:
                self._forgetting_count -= 1
        if not is_written:
            raise errors.ResourceExhausted(
                "RESTRICTIONS_BUSY",
                "denials come faster than they can be written, and some are in memory still: ask"
                " again when there are fewer",
                retry_after_ms=bounds.MINUTE_MS,
            )
        count = 0
        after: Position | None = None
        while True:
            keys, after = self._store.about(who, after, _FORGET_ROWS)
            count += len(keys) if look_only else self._store.forget(who, keys)
            if after is None:
                return count
            time.sleep(0)

    def flush(self, patience_s: float = _FLUSH_S) -> bool:
        """Waits until what was noted before is written, for so long at most; whether it is."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._done >= mine or not self._thread.is_alive(), patience_s
            )
            return self._done >= mine

    def close(self) -> None:
        """Writes what is left and lets go of the store. Nothing may be noted any more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._store.close()

    def work(self, in_haste: bool = True) -> None:
        """One round: writes what the buffer holds, and lets go of a slice of what has passed its
        retention. Only the thread does so, once it is started."""
        if self._is_failing:
            self._renew()
        self._drain(in_haste)
        self._trim()

    # --- The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_stopping or self._asked > self._done, _INTERVAL_S
                )
                asked, is_last = self._asked, self._is_stopping
            self.work(in_haste=is_last or asked > self._done)
            with self._changed:
                self._done = asked
                self._changed.notify_all()

    def _drain(self, in_haste: bool) -> None:
        """Writes all that the buffer holds."""
        taken = self.buffer.take()
        if taken is None and not self._unwritten:
            return
        batch, position = taken or (DenialBatch(), None)
        day = day_of(max(self.buffer.last_ms, self._now_ms))
        for account, count in batch.dropped:
            self._unwritten[account] = self._unwritten.get(account, 0) + count
            self.dropped_count += count
        self.dropped_count += batch.unattributed_count
        if batch.unattributed_count:
            _log.error("%d denials were dropped for lack of memory", batch.unattributed_count)
        in_haste = in_haste and len(batch) <= _HASTE_ROWS
        for first in range(0, len(batch) or 1, _TRANSACTION_ROWS):
            places = range(first, min(first + _TRANSACTION_ROWS, len(batch)))
            is_last = places.stop == len(batch)
            self._write(batch, places, day, position if is_last else None, in_haste)
        self.buffer.give_back(batch)

    def _write(
        self, batch: DenialBatch, places: range, day: int, position: int | None, in_haste: bool
    ) -> None:
        """Writes some rows, and what was dropped up to now; or counts the rows as dropped."""
        dropped = dict(self._unwritten)
        try:
            self._make_room(day)
            rows = map(batch.packed, places) if in_haste else self._paced(batch, places)
            self._store.write(rows, dropped, day, position)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log goes on
            self._note_failure(error)
            for place in places:
                parts = parts_of(batch.packed(place))
                account = parts.account.decode()
                self._unwritten[account] = self._unwritten.get(account, 0) + parts.denial_count
                self.dropped_count += parts.denial_count
            return
        # A list in another thread may look at what is left.
        self._unwritten = {}
        if self._is_failing:
            _log.warning("the restrictions log can be written again")
        self._is_failing = False

    def _make_room(self, today: int) -> None:
        while self._store.is_crowded:
            if self._store.make_room(today, _TRIM_KEYS) == 0:
                raise errors.Unavailable(
                    "RESTRICTIONS_FULL", "the restrictions log is full with those of one day"
                )

    def _renew(self) -> None:
        """After a write that failed the store may have to be opened again."""
        try:
            self._store.renew()
        except errors.LimiterError as error:
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if not self._is_failing:
            _log.error("what is denied is counted only, for now: %s", told(error))
        self._is_failing = True

    def _trim(self) -> None:
        """Lets go of a slice of what has passed its retention."""
        day = self._from_day(self._now_ms)
        try:
            if day > self._trimmed_day and self._store.trim(day, _TRIM_KEYS) < _TRIM_KEYS:
                self._trimmed_day = day
        except errors.LimiterError as error:
            self._note_failure(error)

    def _from_day(self, now_ms: int) -> int:
        return max(0, day_of(now_ms - self._retention_ms))

    def _paced(self, batch: DenialBatch, places: range) -> Iterator[bytes]:
        """The packed rows, with rests between them as long as there is time."""
        pace = _Pace()
        for place in places:
            yield batch.packed(place)
            is_waited_for = self._is_stopping or self._forgetting_count
            if place % _STRETCH_ROWS == _STRETCH_ROWS - 1 and not is_waited_for:
                time.sleep(pace.rest_s())


class _Pace:
    """How long one thread is to rest, so that the others of the process hardly notice it."""

    def __init__(self) -> None:
        self._begun = self._clocks()

    def rest_s(self) -> float:
        """How long to rest for what was done since the last rest."""
        wall_s, all_s, own_s = (
            now - before for now, before in zip(self._clocks(), self._begun, strict=True)
        )
        self._begun = self._clocks()
        share = (all_s - own_s) / wall_s if wall_s > 0 else 1.0
        if share < _IDLE_SHARE:
            return own_s * _IDLE_REST_RATIO
        # Where the machine is busy with others too, this process has less than a processor.
        return own_s * _BUSY_REST_RATIO / min(1.0, share)

    @staticmethod
    def _clocks() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.thread_time()


class RestrictionKeeper:
    """The log of a server, from its first start to its end: what a journal that fails leaves to be
    logged is logged. With a retention of 0 there is none. Belongs to an event loop."""

    def __init__(self, retention_ms: int, bytes_max: int) -> None:
        self._retention_ms = retention_ms
        self._bytes_max = bytes_max
        self._is_started = False
        self._timer: asyncio.TimerHandle | None = None
        self.log: RestrictionLog | None = None

    def open(self, path: Path, folder_key: bytes) -> None:
        """Opens the log, unless it is open. Raises FailedPrecondition and DataLoss."""
        if self.log is None and self._retention_ms:
            store = RestrictionStore(path, folder_key, self._bytes_max)
            self.log = RestrictionLog(store, self._retention_ms)

    def start(self, position: int, now_ms: Callable[[], int]) -> None:
        """Starts the log, unless it is; the journal ends before `position`."""
        if self.log is not None and not self._is_started:
            self._is_started = True
            self.log.start(position, now_ms())
            self._keep_time(self.log, now_ms)

    def _keep_time(self, log: RestrictionLog, now_ms: Callable[[], int]) -> None:
        log.tick(now_ms())
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_TICK_INTERVAL_S, self._keep_time, log, now_ms)

    async def close(self) -> None:
        """Has what is left written, and lets go. Nothing may be decided any more."""
        if self._timer is not None:
            self._timer.cancel()
        log, self.log = self.log, None
        if log is not None:
            await asyncio.to_thread(log.close)


def check_settings(retention_ms: int, bytes_max: int) -> None:
    """Raises InvalidArgument for what a log cannot be kept with."""
    shortest_ms, longest_ms = (
        bounds.RESTRICTIONS_RETENTION_MS_MIN,
        bounds.RESTRICTIONS_RETENTION_MS_MAX,
    )
    if retention_ms != 0 and not shortest_ms <= retention_ms <= longest_ms:
        raise errors.InvalidArgument.for_field(
            "restrictions_retention",
            f"must be {shortest_ms // bounds.DAY_MS} to {longest_ms // bounds.DAY_MS} days, or 0"
            " for no restrictions log",
        )
    if bytes_max < bounds.RESTRICTIONS_BYTES_MIN:
        raise errors.InvalidArgument.for_field(
            "restrictions_bytes_max", f"must be at least {bounds.RESTRICTIONS_BYTES_MIN}"
        )
