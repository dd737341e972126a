"""Images, written behind the calls, and what they allow: a short start, less memory, less journal.

What flows in: a core's accounts as they change. What flows out: images and baselines on disk,
accounts that leave memory, and how far the journal may be trimmed.

Three things go on side by side, each in steps below a millisecond, and one thread writes:

- *sweeps* look at account after account: those whose images are far behind get new ones, those that
  nobody uses leave memory when it is short, or when they were not used for long;
- *baselines* are taken as the journal grows, so that a start has little to scan;
- *rounds* write an image of every account that has changed, so that what lies before the round is
  needed by no account; then the journal is trimmed to its horizon.

What always holds: what is written is durable in the journal before; a fault of the images holds up
nobody, and is tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from limiter import bounds, errors
from limiter._core import Core
from limiter._residence import Image, Still
from limiter.baseline import Baselines
from limiter.clock import Clock
from limiter.history import first_position
from limiter.image_store import ImageStore, Record
from limiter.journal import GroupCommitter
from limiter.residence import Arrivals
from limiter.trimming import Trimming

__all__ = ["Imaging", "Standing"]

_log: Final = logging.getLogger(__name__)

# How long the event loop is held at most by one step.
_SLICE_S: Final = 0.000_4

# How often memory is looked at, and how many ids one look takes.
_INTERVAL_S: Final = 0.02
_SWEEP_STEPS: Final = 500

# Accounts that are looked at for one that has come: it takes two looks until one may leave.
_LOOKS_FOR_ONE: Final = 4

# One transaction: so much, or what has come together until then.
_SLICE_BYTES: Final = 1024 * 1024

# The writer rests for so many times what writing took, so that the journal has the disk.
_REST: Final = 2.0

# Between two steps of trimming.
_TRIM_REST_S: Final = 0.01

# After a fault it is tried again.
_RETRY_S: Final = 5.0

# Accounts that are asked for at once to be written.
_BRING_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """How the images stand, for metrics: events that a start would scan, bytes on disk, accounts in
    memory by the bytes that they take, accounts brought back so far."""

    lag_event_count: int
    used_bytes: int
    account_bytes: int
    arrival_count: int


class Imaging:
    """The images of one core; a task of the event loop that it is made on.

    `memory_bytes` is what accounts in memory may take, about; 0 for as much as there is.
    """

    def __init__(
        self,
        core: Core,
        arrivals: Arrivals,
        store: ImageStore,
        baselines: Baselines,
        *,
        committer: GroupCommitter,
        clock: Clock,
        trimming: Trimming,
        memory_bytes: int,
        lag_events_max: int = bounds.BASELINE_LAG_EVENTS_MAX,
    ) -> None:
        self._core = core
        self._arrivals = arrivals
        self._residence = arrivals.residence
        self._store = store
        self._baselines = baselines
        self._committer = committer
        self._clock = clock
        self._trimming = trimming
        self._memory_bytes = memory_bytes or (1 << 62)
        self._lag_events_max = lag_events_max
        self._covered_events = core.appended if baselines.core.name_count else 0
        self._unwritten: deque[int] = deque()
        # The clock's instant at which the last sweep for idle accounts began.
        self._idle_since_ms = clock.now_ms()
        self._is_idle_sweep = False
        arrivals.relieve = self._relieve
        self._writer = ThreadPoolExecutor(1, "limiter-images")
        self._tasks = [
            asyncio.get_running_loop().create_task(run())
            for run in (self._run_sweeps, self._run_baselines)
        ]

    def standing(self) -> Standing:
        """How the images stand."""
        return Standing(
            self._core.appended - self._covered_events,
            self._store.used_bytes,
            self._residence.counted_bytes,
            self._arrivals.count,
        )

    async def close(self) -> None:
        """Ends what is under way; an image that is being written is finished."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._writer.shutdown)

    # --- sweeps -----------------------------------------------------------------------------------

    async def _run_sweeps(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                self._sweep()
                if self._unwritten:
                    await self._write_some(self._unwritten)
            except errors.LimiterError as error:
                _log.error("images cannot be written: %s", error)
                await asyncio.sleep(_RETRY_S)

    def _sweep(self) -> None:
        """Looks at some accounts; at more of them while they take too much memory."""
        end_s = time.perf_counter() + _SLICE_S
        now_ms = self._clock.now_ms()
        if now_ms - self._idle_since_ms >= bounds.IDLE_SWEEP_MS and not self._is_idle_sweep:
            self._idle_since_ms = now_ms
            self._is_idle_sweep = True
        while True:
            is_over = self._look_at(_SWEEP_STEPS)
            if is_over or not self._is_tight() or time.perf_counter() >= end_s:
                return

    def _relieve(self, count: int) -> None:
        """Makes room for as many accounts as have just come, if there is none."""
        if self._is_tight():
            self._look_at(_LOOKS_FOR_ONE * count)

    def _is_tight(self) -> bool:
        return self._residence.counted_bytes > self._memory_bytes

    def _look_at(self, steps: int) -> bool:
        """Looks at so many accounts; whether that was the last of a round."""
        is_over, unwritten = self._residence.sweep(
            steps,
            self._memory_bytes,
            self._committer.tail,
            self._is_idle_sweep,
            bounds.IMAGE_CHAIN_EVENTS_TIGHT if self._is_tight() else bounds.IMAGE_CHAIN_EVENTS_MAX,
        )
        self._unwritten.extend(unwritten)
        if is_over:
            self._is_idle_sweep = False
        return is_over

    # --- writing ----------------------------------------------------------------------------------

    async def _write_some(self, accounts: deque[int]) -> None:
        """Writes images of accounts that are in memory, a slice of them."""
        images: list[Image] = []
        size = 0
        end_s = time.perf_counter() + _SLICE_S
        while accounts and size < _SLICE_BYTES:
            image = self._residence.write(accounts.popleft(), self._clock.now_ms())
            if isinstance(image, Still):
                await self._finish(image)
            if image is not None:
                images.append(image)
                size += len(image)
            if time.perf_counter() >= end_s:
                await asyncio.sleep(0)
                end_s = time.perf_counter() + _SLICE_S
        if images:
            await self._save(images)

    async def _finish(self, image: Still) -> None:
        """Has a large account written, whose calls wait meanwhile."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, image.write)
        finally:
            self._residence.go_on(image)
            self._arrivals.here(image.account)

    async def _save(self, images: list[Image]) -> None:
        """Puts images on the disk, once the journal is durable as far as they know it."""
        is_saved = False
        try:
            await self._committer.wait()
            small: list[Record] = []
            for image in images:
                if len(image) <= _SLICE_BYTES:
                    small.append(self._store.whole_record(image.account, image.part(0, len(image))))
                else:
                    await self._save_parts(image)
            if small:
                await self._put([*small, self._clock_record()])
            is_saved = True
        finally:
            for image in images:
                self._residence.written(image, is_saved)

    async def _save_parts(self, image: Image) -> None:
        generation = self._store.next_generation(image.account)
        part_count = -(-len(image) // _SLICE_BYTES)
        for number in range(part_count):
            part = image.part(number * _SLICE_BYTES, _SLICE_BYTES)
            record = self._store.part_record(image.account, generation, number, part)
            await self._put([record])
        whole = self._store.parted_record(image.account, generation, part_count, len(image))
        await self._put([whole, self._clock_record()])
        while old := self._store.other_parts(image.account, generation, 256):
            await self._put(old)

    def _clock_record(self) -> Record:
        """Goes with images and baselines, which leave out what has left its window by now, or is
        forgotten: a start whose clock is behind begins there."""
        return self._store.clock_record(max(self._core.last_event_ms, self._clock.now_ms()))

    async def _put(self, records: list[Record]) -> None:
        """One transaction, and a rest."""
        begun_s = time.perf_counter()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._store.write, records)
        await asyncio.sleep(_REST * (time.perf_counter() - begun_s))

    # --- baselines and rounds ---------------------------------------------------------------------

    async def _run_baselines(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                if self._core.appended - self._covered_events >= self._lag_events_max:
                    await self._take_baseline()
                if self._trimming.is_due(self._clock.now_ms()):
                    await self._round()
            except errors.LimiterError as error:
                _log.error("images cannot be written: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _take_baseline(self) -> None:
        covered = self._core.appended
        steps = self._baselines.take()
        # The first step fixes what the baseline is of.
        next(steps)
        await self._committer.wait()
        await self._put_all(steps)
        # Accounts have gone on meanwhile, and where they stand is in it.
        await self._committer.wait()
        await self._put([*self._baselines.head(), self._clock_record()])
        self._baselines.is_written()
        self._covered_events = covered
        await self._put_all(self._baselines.obsolete())
        _log.info("baseline taken", extra={"group": self._baselines.core.group})

    async def _put_all(self, steps: Iterable[list[Record]]) -> None:
        """Writes what steps yield, in slices."""
        pending: list[Record] = []
        size = 0
        end_s = time.perf_counter() + _SLICE_S
        for records in steps:
            pending.extend(records)
            size += sum(len(content) for _, content in records if content is not None)
            if size >= _SLICE_BYTES:
                await self._put(pending)
                pending, size = [], 0
            elif time.perf_counter() >= end_s:
                await asyncio.sleep(0)
                end_s = time.perf_counter() + _SLICE_S
        if pending:
            await self._put(pending)

    async def _round(self) -> None:
        """Writes an image of every account that has changed, and trims the journal."""
        through = self._committer.tail
        start = 0
        while True:
            here, away, start = self._residence.unwritten(start, _SWEEP_STEPS)
            await self._write_all(deque(here))
            await self._bring_and_write(away)
            if not start:
                break
            await asyncio.sleep(0)
        await self._take_baseline()
        await self._trim(min(through, self._baselines.core.group - 1))
        await self._shrink()

    async def _shrink(self) -> None:
        """Writes the images anew of accounts that have long been quiet: what has left its window
        leaves the disk."""
        loop = asyncio.get_running_loop()
        before = first_position(self._trimming.head)
        start = 0
        while True:
            quiet, start = await loop.run_in_executor(
                self._writer, self._store.quiet, before, start
            )
            await self._bring_and_write(quiet)
            if not start:
                return

    async def _bring_and_write(self, accounts: list[int]) -> None:
        """Writes images of accounts that are away."""
        for first in range(0, len(accounts), _BRING_AT_ONCE):
            some = accounts[first : first + _BRING_AT_ONCE]
            await asyncio.gather(*(self._arrivals.bring(account) for account in some))
            await self._write_all(deque(some))

    async def _write_all(self, accounts: deque[int]) -> None:
        while accounts:
            await self._write_some(accounts)

    async def _trim(self, through: int) -> None:
        """Lets go of the journal's groups that nobody needs, up to and with `through`."""
        loop = asyncio.get_running_loop()
        now_ms = self._clock.now_ms()
        before = await loop.run_in_executor(self._writer, self._trimming.target, now_ms, through)
        # Whoever is written from now on does not count on it.
        self._residence.keep_from(first_position(before))
        is_more = True
        while is_more:
            is_more = await loop.run_in_executor(self._writer, self._trimming.step, before)
            # The next group of the journal first.
            await asyncio.sleep(_TRIM_REST_S)
