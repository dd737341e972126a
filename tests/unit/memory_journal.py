"""A journal in memory whose syncs a test can hold back or make fail, and a source to feed it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from limiter._core import Core
from limiter.journal import FIRST_SEQUENCE, Seen, SequenceConflict


class MemoryJournal:
    """Satisfies `limiter.journal.Journal` for shard 0.

    With `gated`, each append waits for one `let_through`. `fault`, once set, is what every append
    raises after the bytes have been written (`written_anyway`) or instead.
    """

    def __init__(self, *, gated: bool = False) -> None:
        self.records: dict[int, bytes] = {}
        self.first = FIRST_SEQUENCE
        self.fault: Exception | None = None
        self.written_anyway = False
        self.append_count = 0
        self._gate = threading.Semaphore(0) if gated else None
        self._begun = threading.Semaphore(0)

    def let_through(self, count: int = 1) -> None:
        """Lets so many appends return."""
        assert self._gate is not None
        self._gate.release(count)

    def wait_for_append(self) -> None:
        """Blocks until one more append has begun."""
        assert self._begun.acquire(timeout=10)

    def append(self, shard: int, expected_sequence: int, record: bytes) -> None:
        assert shard == 0
        self.append_count += 1
        self._begun.release()
        if self._gate is not None:
            assert self._gate.acquire(timeout=10)
        if self.fault is not None and not self.written_anyway:
            raise self.fault
        tail = self.tail(shard)
        if expected_sequence != tail + 1:
            raise SequenceConflict(shard, expected_sequence, tail)
        self.records[expected_sequence] = record
        if self.fault is not None:
            raise self.fault

    def head(self, shard: int) -> int:
        assert shard == 0
        return self.first

    def tail(self, shard: int) -> int:
        assert shard == 0
        return max(self.records, default=self.first - 1)

    def read(self, shard: int, first: int, last: int) -> list[tuple[int, bytes]]:
        assert shard == 0
        return [item for item in sorted(self.records.items()) if first <= item[0] <= last]

    def peek(self, shard: int, sequence: int, look: Callable[[memoryview], Seen]) -> Seen | None:
        assert shard == 0
        record = self.records.get(sequence)
        return None if record is None else look(memoryview(record))

    @contextmanager
    def reading(self, shard: int) -> Iterator[Callable[[int], memoryview | None]]:
        yield lambda number: self.peek(shard, number, lambda record: record)

    def replay(self, shard: int, first: int = FIRST_SEQUENCE) -> Iterator[tuple[int, bytes]]:
        yield from self.read(shard, first, self.tail(shard))

    def trim(self, shard: int, before: int) -> None:
        assert before <= self.tail(shard) + 1
        self.records = {key: value for key, value in self.records.items() if key >= before}
        self.first = max(self.first, before)


class MemoryHistory:
    """What a core reads of its own past: every group that was taken from it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._groups: dict[int, bytes] = {}

    def take(self) -> None:
        """Takes what is pending."""
        taken = self._core.take_group()
        if taken is not None:
            self._groups[taken[0]] = taken[1]

    def group(self, number: int) -> bytes | None:
        return self._groups.get(number)

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes | None]]:
        yield self.group

    def begins_ms(self) -> int | None:
        return None

    def event(self, position: int) -> bytes:
        events, offset = self._groups[position >> 24], position & 0xFFFFFF
        size = 4 + int.from_bytes(events[offset + 1 : offset + 4], "little")
        return events[offset : offset + size]


class ListSource:
    """Satisfies `limiter.journal.GroupSource`: what is appended is one group until it is taken."""

    def __init__(self, next_group: int = FIRST_SEQUENCE) -> None:
        self.next_group = next_group
        self.pending: list[bytes] = []
        self.taken: list[list[bytes]] = []

    def append(self, event: bytes) -> None:
        self.pending.append(event)

    def take_group(self) -> tuple[int, bytes, int] | None:
        if not self.pending:
            return None
        events, self.pending = self.pending, []
        self.taken.append(events)
        number, self.next_group = self.next_group, self.next_group + 1
        return number, b"".join(events), len(events)
