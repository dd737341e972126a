"""The journal: durable events by group commit on LMDB, in a folder that is removed afterwards.

Set LIMITER_BENCH_DIR to put it on the disk that is meant; the default is the system's folder for
temporary files, which may lie in memory.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import uvloop

from benchmarks.workload import Figure
from limiter import errors
from limiter.journal import GroupCommitter, encode_group
from limiter.store import DataFolder, LmdbJournal

__all__ = ["Append", "Commit", "bench_folder", "figures"]

EVENT: Final = bytes(range(48))


def bench_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for one benchmark, removed when it is left."""
    return tempfile.TemporaryDirectory(
        prefix="limiter-bench-", dir=os.environ.get("LIMITER_BENCH_DIR")
    )


class Events:
    """A source of groups: as many events as were added since the last group."""

    def __init__(self) -> None:
        self._count = 0
        self._number = 0

    def add(self) -> None:
        self._count += 1

    def take_group(self) -> tuple[int, bytes, int] | None:
        if self._count == 0:
            return None
        count, self._count = self._count, 0
        self._number += 1
        return self._number, EVENT * count, count


async def commit_from_many(journal: LmdbJournal, callers: int, event_count: int) -> float:
    """Durable events a second, with this many callers who each wait for their event before the
    next one."""
    failures: list[errors.Unavailable] = []
    source = Events()
    committer = GroupCommitter(
        journal, source, shard=0, tail=0, tail_checksum=0, on_failure=failures.append
    )

    async def call(count: int) -> None:
        for _ in range(count):
            source.add()
            await committer.wait()

    begun_s = time.perf_counter()
    rounds = max(1, event_count // callers)
    await asyncio.gather(*(call(rounds) for _ in range(callers)))
    took_s = time.perf_counter() - begun_s
    await committer.close()
    if failures or committer.event_count != rounds * callers:
        raise RuntimeError(f"{committer.event_count} events were written, {failures}")
    return committer.event_count / took_s


class OnDisk:
    """A journal in a folder of its own."""

    unit = "events/s"
    timeout = 600

    def setup(self, parameter: int) -> None:
        self.folder = bench_folder()
        self.data = DataFolder(Path(self.folder.name) / "data")
        self.journal, _ = self.data.open()

    def teardown(self, parameter: int) -> None:
        self.journal.close()
        self.data.close()
        self.folder.cleanup()


class Commit(OnDisk):
    """Group commit, by the number of concurrent callers."""

    params: ClassVar = [[1, 100, 1_000]]
    param_names: ClassVar = ["callers"]
    events_per_caller = 200

    def track_commit(self, callers: int) -> float:
        event_count = callers * self.events_per_caller
        return uvloop.run(commit_from_many(self.journal, callers, event_count))


class Append(OnDisk):
    """The disk alone: groups of this many events, one after the other."""

    params: ClassVar = [[1, 1_000, 20_000]]
    param_names: ClassVar = ["events"]
    group_count = 100

    def track_append(self, events: int) -> float:
        checksum = 0
        begun_s = time.perf_counter()
        for number in range(1, self.group_count + 1):
            record, checksum = encode_group(0, number, events, EVENT * events, checksum)
            self.journal.append(0, number, record)
        return self.group_count * events / (time.perf_counter() - begun_s)


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shortens the runs."""
    for events in Append.params[0]:
        suite = Append()
        suite.group_count = max(2, int(suite.group_count * scale))
        suite.setup(events)
        rate = suite.track_append(events)
        suite.teardown(events)
        yield Figure(f"groups of {events:,} events, one by one", rate, suite.unit)
    for callers in Commit.params[0]:
        commit = Commit()
        commit.events_per_caller = max(2, int(commit.events_per_caller * scale))
        commit.setup(callers)
        rate = commit.track_commit(callers)
        commit.teardown(callers)
        yield Figure(f"group commit, {callers:,} callers", rate, commit.unit)
