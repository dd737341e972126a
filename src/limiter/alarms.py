"""Alarms: something is done once the service's clock has reached an instant.

In flow instants and what to do then; out flow the calls, on the event loop. Under the system clock
a timer wakes the alarms up, a little early where the clock is being slewed, and they wait again;
under a driven clock the hand that moves it does, within its own call, so that a test sees what came
of it.

What always holds: nothing is done before its instant; alarms that are due at once go in the order
of their instants; one that is cancelled does nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from typing import Final

from limiter import bounds
from limiter.clock import Clock, DrivenClock

__all__ = ["Alarm", "Alarms"]

_log: Final = logging.getLogger(__name__)

# A slewed second lasts 0.95 real ones at least.
_HASTE: Final = 0.95

# The longest sleep, in ms: a timer of the event loop does not tell of a machine that was asleep.
_SLEEP_MS_MAX: Final = bounds.MINUTE_MS

# Cancelled alarms are swept out once they outnumber the others by so many.
_SWEEP_SLACK: Final = 64


class Alarm:
    """One alarm that was set."""

    __slots__ = ("ring",)

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring: Callable[[], None] | None = ring


class Alarms:
    """The alarms of one clock; belongs to the event loop that it is made on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._order = itertools.count()
        self._heap: list[tuple[int, int, Alarm]] = []
        self._cancelled_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        if isinstance(clock, DrivenClock):
            clock.on_move = self._ring

    def set(self, instant_ms: int, ring: Callable[[], None]) -> Alarm:
        """Calls `ring` once the clock has reached the instant, never from within this call."""
        alarm = Alarm(ring)
        heapq.heappush(self._heap, (instant_ms, next(self._order), alarm))
        self._wind()
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """The alarm rings no more. Idempotent."""
        if alarm.ring is None:
            return
        alarm.ring = None
        self._cancelled_count += 1
        if self._cancelled_count > len(self._heap) // 2 + _SWEEP_SLACK:
            self._heap = [each for each in self._heap if each[2].ring is not None]
            heapq.heapify(self._heap)
            self._cancelled_count = 0

    def close(self) -> None:
        """Nothing rings any more."""
        if isinstance(self._clock, DrivenClock):
            self._clock.on_move = None
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _wind(self) -> None:
        """Has the timer wake us up for the first alarm."""
        if not self._heap:
            return
        first_ms = self._heap[0][0]
        wait_ms = first_ms - self._clock.now_ms()
        if isinstance(self._clock, DrivenClock) and wait_ms > 0:
            return
        if self._timer is not None:
            if self._timer_ms <= first_ms:
                return
            self._timer.cancel()
        # The last millisecond is waited for whole.
        wait_ms = max(0, min(int(wait_ms * _HASTE) + 1, _SLEEP_MS_MAX)) if wait_ms > 0 else 0
        self._timer_ms = first_ms
        self._timer = self._loop.call_later(wait_ms / 1000, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._ring()

    def _ring(self) -> None:
        """Rings what is due, and winds the timer for what is not."""
        now_ms = self._clock.now_ms()
        due = []
        while self._heap and self._heap[0][0] <= now_ms:
            due.append(heapq.heappop(self._heap)[2])
        for alarm in due:
            ring, alarm.ring = alarm.ring, None
            if ring is None:
                self._cancelled_count -= 1
                continue
            try:
                ring()
            except Exception:  # noqa: BLE001 - one that fails must not keep the others from ringing
                _log.exception("an alarm failed")
        self._wind()
