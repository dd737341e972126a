"""The simulated disk: a journal in memory that is slow, fails and loses what was not synced.

In flow groups; out flow the same groups, or faults. A group is there whole or not at all, as the
store promises (tests/disk holds the store to that). What a fault leaves open is whether it is
there: an append may fail before or after its group has become durable, and a process that dies in
the middle of one leaves it there or not.

What always holds, or the committer is at fault: one append at a time, each group after the one
before it, and none after one that failed.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from limiter import errors
from limiter.journal import FIRST_SEQUENCE, Seen, SequenceConflict
from tests.simulation.schedule import Event, ProcessLoop, Schedule


class Fails(enum.Enum):
    """How an append fails."""

    BEFORE = "before anything is written"
    AFTER = "after its group has become durable"


class Disk:
    """One machine's disk. Satisfies `limiter.journal.Journal` for shard 0."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.records: dict[int, bytes] = {}
        self.first = FIRST_SEQUENCE
        # What comes of the next appends, the first one first.
        self.failing: list[Fails] = []
        # Nothing can be read or written meanwhile.
        self.is_out = False
        # Nothing can be read any more until the journal is opened again: as in LMDB, once a write
        # has failed.
        self.has_panicked = False
        # How long an append takes at most.
        self.latency_us = 2_000

    @property
    def is_unreadable(self) -> bool:
        return self.is_out or self.has_panicked

    def mend(self) -> None:
        """All goes well from now on."""
        self.failing.clear()
        self.is_out = False
        self.latency_us = 2_000

    # ---- the journal

    def open(self) -> None:
        """Somebody opens the journal anew."""
        self.has_panicked = False

    def append(self, shard: int, expected_sequence: int, record: bytes) -> None:
        assert shard == 0
        try:
            self._append(shard, expected_sequence, record)
        except OSError:
            self.has_panicked = True
            raise

    def _append(self, shard: int, expected_sequence: int, record: bytes) -> None:
        if self.is_out:
            self._write_or_not(expected_sequence, record)
            raise OSError(5, "simulated: input/output error")
        tail = self.tail(shard)
        if expected_sequence != tail + 1:
            raise SequenceConflict(shard, expected_sequence, tail)
        fails = self.failing.pop(0) if self.failing else None
        if fails is not Fails.BEFORE:
            self.records[expected_sequence] = record
        if fails is not None:
            raise OSError(28, f"simulated: no space left, {fails.value}")

    def _write_or_not(self, sequence: int, record: bytes) -> None:
        if self._dice.random() < 0.5 and sequence == self.newest + 1:
            self.records[sequence] = record

    @property
    def newest(self) -> int:
        """The newest group that is durable, whether or not it can be read now."""
        return max(self.records, default=self.first - 1)

    def check_writable(self) -> None:
        """Raises Unavailable unless it can be written to; writes nothing."""
        self._require()
        if self.failing:
            self.failing.pop(0)
            raise errors.Unavailable("JOURNAL_UNAVAILABLE", "simulated: no space left")

    def _require(self) -> None:
        if self.is_out:
            raise errors.Unavailable("JOURNAL_UNAVAILABLE", "simulated: input/output error")

    def head(self, shard: int) -> int:
        # As a store does that remembers it.
        return self.first

    def tail(self, shard: int) -> int:
        self._require()
        return self.newest

    def read(self, shard: int, first: int, last: int) -> list[tuple[int, bytes]]:
        self._require()
        return [item for item in sorted(self.records.items()) if first <= item[0] <= last]

    def peek(self, shard: int, sequence: int, look: Callable[[memoryview], Seen]) -> Seen | None:
        if self.has_panicked:
            raise errors.Unavailable("JOURNAL_UNAVAILABLE", "simulated: a write has failed")
        record = self.records.get(sequence)
        return None if record is None else look(memoryview(record))

    @contextmanager
    def reading(self, shard: int) -> Iterator[Callable[[int], memoryview | None]]:
        yield lambda number: self.peek(shard, number, lambda record: record)

    def replay(self, shard: int, first: int = FIRST_SEQUENCE) -> Iterator[tuple[int, bytes]]:
        yield from self.read(shard, first, self.tail(shard))

    def trim(self, shard: int, before: int) -> None:
        assert before <= self.newest + 1
        self.records = {key: value for key, value in self.records.items() if key >= before}
        self.first = max(self.first, before)


class DiskWriter:
    """Writes the groups of one process; satisfies `limiter.journal.Writer`."""

    def __init__(self, schedule: Schedule, disk: Disk, loop: ProcessLoop, dice: random.Random):
        self._schedule = schedule
        self._disk = disk
        self._loop = loop
        self._dice = dice
        self._under_way: tuple[Event, Callable[[], None]] | None = None
        self._has_failed = False
        self.is_closed = False

    def write(
        self, append: Callable[[], None], settle: Callable[[BaseException | None], None]
    ) -> None:
        assert self._under_way is None, "two groups are written at once"
        assert not self._has_failed, "a group is written after one that failed"
        assert not self.is_closed, "a group is written after the end"

        def run() -> None:
            self._under_way = None
            fault: BaseException | None = None
            try:
                append()
            except (OSError, errors.LimiterError) as error:
                fault = error
                self._has_failed = True
            # Somebody else may come first.
            delay_us = self._dice.randrange(self._dice.choice((1, 100, 5_000)))
            self._schedule.after(delay_us, partial(self._tell, settle, fault))

        delay_us = self._dice.randrange(1, self._disk.latency_us)
        self._under_way = self._schedule.after(delay_us, run), append

    def _tell(
        self, settle: Callable[[BaseException | None], None], fault: BaseException | None
    ) -> None:
        self._loop.call_soon_threadsafe(settle, fault)

    def close(self) -> None:
        assert self._under_way is None
        self.is_closed = True

    def kill(self) -> None:
        """The process dies: what is being written is there or not."""
        if self._under_way is None:
            return
        event, append = self._under_way
        self._under_way = None
        event.cancel()
        if self._dice.random() < 0.5:
            try:
                append()
            except (OSError, errors.LimiterError):
                # It failed as well. Nobody is left to be told.
                return
