"""The simulated store of images, and the thread that loads accounts, stepped in simulated time.

The real parts around them are those of a server: what writes images and baselines and trims the
journal (`limiter.imaging`), and what brings accounts back (`limiter.residence`). An image or a
piece of a baseline is written whole or not at all, later than it was asked for, or the write fails;
a process that is killed leaves what it was writing there or not.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

from limiter import errors, imaging, residence
from limiter.image_store import Record
from tests.model.strategies import Dice
from tests.model.windows import DAY_MS
from tests.simulation.schedule import SECOND_US, Schedule
from tests.unit.memory_images import MemoryImages

# The oracle knows no journal that is trimmed: what is kept outlasts any history.
HISTORY_MS = 20_000 * DAY_MS


@dataclass(frozen=True)
class Keeping:
    """What is kept where, as in `limiter.state`."""

    memory_bytes: int
    lag_events_max: int
    sweep_interval_s: float


def make_keeping(choose: Dice) -> Keeping:
    """Mostly little memory and frequent baselines."""
    return Keeping(
        choose.pick((1, 1, 2_000, 0)), choose.pick((1, 5, 20, 1_000)), choose.pick((0.05, 0.5, 2))
    )


class SimulatedImages(MemoryImages):
    """One machine's images."""

    quota_bytes = 1 << 40

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.write_count = 0
        # How many of a hundred writes fail.
        self.failing_percent = 0

    @property
    def used_bytes(self) -> int:
        return 0

    def write(self, records: Sequence[Record]) -> None:
        if self._dice.randrange(100) < self.failing_percent:
            raise errors.Unavailable("IMAGES_UNAVAILABLE", "simulated: no space left for images")
        self.write_count += 1
        super().write(records)

    def close(self) -> None:
        """They stay."""


class Loading:
    """Stands in for the threads and queues of `limiter.residence`: a thread that would wait for its
    queue runs when something is in it, and ends when nothing is."""

    def __init__(self, schedule: Schedule, dice: random.Random) -> None:
        self._schedule = schedule
        self._dice = dice
        self._newest: LoaderQueue | None = None

    def make_queue(self) -> LoaderQueue:
        self._newest = LoaderQueue(self._schedule, self._dice)
        return self._newest

    def make_thread(self, *, target: Callable[[], None], **_options: Any) -> SimpleNamespace:
        assert self._newest is not None
        self._newest.run = target
        return SimpleNamespace(start=lambda: None, join=lambda: None)


class LoaderQueue:
    """The queue of one loader."""

    def __init__(self, schedule: Schedule, dice: random.Random) -> None:
        self._schedule = schedule
        self._dice = dice
        self._items: deque[object] = deque()
        self.run: Callable[[], None] = lambda: None

    def put(self, item: object) -> None:
        self._items.append(item)
        self._schedule.after(self._dice.randrange(1, 3_000), self._run)

    def _run(self) -> None:
        self.run()

    def get(self) -> object:
        return self._items.popleft() if self._items else None


@contextmanager
def simulated(schedule: Schedule, dice: random.Random, keeping: Keeping | None) -> Iterator[None]:
    """Within this the parts that write and load images run in simulated time."""
    loading = Loading(schedule, dice)
    time = SimpleNamespace(perf_counter=lambda: schedule.now_us / SECOND_US)
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(imaging, "time", time))
        patches.enter_context(mock.patch.object(residence, "time", time))
        patches.enter_context(mock.patch.object(residence, "SimpleQueue", loading.make_queue))
        threads = SimpleNamespace(Thread=loading.make_thread)
        patches.enter_context(mock.patch.object(residence, "threading", threads))
        if keeping is not None:
            interval_s = keeping.sweep_interval_s
            patches.enter_context(mock.patch.object(imaging, "_INTERVAL_S", interval_s))
        yield
