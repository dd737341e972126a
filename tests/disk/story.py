"""A life of the store in 200 steps, for disks that fail: appends, trims, reopenings.

What it appends follows from the seed alone, so that whoever looks at the disk afterwards knows what
has to be there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from limiter import errors
from limiter.journal import FIRST_SEQUENCE, encode_group, read_groups
from limiter.store import DataFolder, LmdbJournal

__all__ = ["STEPS", "Story", "check", "events_of"]

STEPS: Final = 200
_SHARD: Final = 0

# No fault of a disk lasts for longer here.
_TRIES_MAX: Final = 10

# What the store may raise while its disk fails.
_FAULTS: Final = (errors.LimiterError, OSError)


def events_of(seed: int, sequence: int) -> bytes:
    """The events of a group: small ones, and some that take pages of their own."""
    rng = random.Random(seed << 32 | sequence)
    size = rng.choice((1, 48, 48, 500, 3_000, 4_100, 20_000))
    return rng.randbytes(size)


@dataclass
class Story:
    """Plays against the data folder `path`. `on_durable(sequence)` is told of each group once its
    append has returned, `on_fault(count)` of each fault."""

    path: Path
    seed: int
    on_durable: Callable[[int], None] = lambda _: None
    on_fault: Callable[[int], None] = lambda _: None
    # How often the store had to be opened again because something failed.
    fault_count: int = 0
    _folder: DataFolder | None = None
    _journal: LmdbJournal | None = None
    _checksums: dict[int, int] = field(default_factory=lambda: {FIRST_SEQUENCE - 1: 0})

    def play(self) -> None:
        """All steps, each as often as it takes."""
        rng = random.Random(self.seed)
        sequence = FIRST_SEQUENCE
        for _ in range(STEPS):
            choice = rng.random()
            if choice < 0.02:
                self.close()
            elif choice < 0.04:
                self._until_done(lambda: self._opened().check_writable())
            elif choice < 0.07 and sequence > FIRST_SEQUENCE:
                before = rng.randint(FIRST_SEQUENCE, sequence - 1)
                self._until_done(partial(self._trim, before))
            else:
                self._until_done(partial(self._append, sequence))
                self.on_durable(sequence)
                sequence += 1
        self.close()

    def _trim(self, before: int) -> None:
        self._opened().trim(_SHARD, before)

    def _append(self, sequence: int) -> None:
        """Appends a group unless it turns out to be there."""
        journal = self._opened()
        if journal.tail(_SHARD) >= sequence:
            return
        events = events_of(self.seed, sequence)
        record, checksum = encode_group(_SHARD, sequence, 1, events, self._checksums[sequence - 1])
        self._checksums[sequence] = checksum
        journal.append(_SHARD, sequence, record)

    def _until_done(self, step: Callable[[], None]) -> None:
        """After a fault nothing in memory counts: the store is opened again, as a server does."""
        faults: list[Exception] = []
        while len(faults) < _TRIES_MAX:
            try:
                step()
            except _FAULTS as fault:
                faults.append(fault)
                self.fault_count += 1
                self.close()
                self.on_fault(self.fault_count)
            else:
                return
        raise AssertionError(f"the store does not come back: {faults}") from faults[-1]

    def _opened(self) -> LmdbJournal:
        if self._journal is None:
            self._folder = self._folder or DataFolder(self.path)
            self._journal, _ = self._folder.open(shard=_SHARD, quota_bytes=1 << 30)
        return self._journal

    def close(self) -> None:
        """Lets go of everything; a fault on the way is none, for the lock falls all the same."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._folder is not None:
            folder, self._folder = self._folder, None
            try:
                folder.close()
            except OSError:
                self.fault_count += 1


def check(path: Path, seed: int, durable: int, begun: int) -> None:
    """Opens a data folder and asserts what has to be there: every group up to `durable` that is
    not trimmed, at most those up to `begun`, whole and in order."""
    folder = DataFolder(path)
    try:
        journal, _ = folder.open(shard=_SHARD, quota_bytes=1 << 30)
        try:
            head, tail = journal.head(_SHARD), journal.tail(_SHARD)
            assert durable <= tail <= begun, f"ends at {tail}, durable {durable}, begun {begun}"
            groups = list(read_groups(journal, _SHARD))
            assert [group.sequence for group in groups] == list(range(head, tail + 1))
            for group in groups:
                assert group.events == events_of(seed, group.sequence)
            journal.check_writable()
        finally:
            journal.close()
    finally:
        folder.close()
