"""The simulated machine's clocks, and the service's clock under watch.

The wall clock can be set back and forth and can stand still; the boot-time clock cannot, and starts
anew with the machine. Whatever they do, the service's instants never go back, never stand for long
and never leap: each reading is held against the time that has really passed.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter import bounds
from limiter.clock import SystemClock
from tests.simulation.schedule import Schedule

US_NS = 1_000
MS_US = 1_000


class Machine:
    """One machine. `start_ms` is the right time at the beginning."""

    def __init__(self, schedule: Schedule, start_ms: int) -> None:
        self._schedule = schedule
        self._start_us = start_ms * MS_US
        self._booted_us = 0
        # By how much the wall clock is wrong, and where it stands if it does.
        self.error_us = 0
        self._stands_at_us: int | None = None

    @property
    def right_us(self) -> int:
        return self._start_us + self._schedule.now_us

    @property
    def wall_us(self) -> int:
        if self._stands_at_us is not None:
            return self._stands_at_us
        return max(0, self.right_us + self.error_us)

    def wall_ns(self) -> int:
        return self.wall_us * US_NS

    def boot_ns(self) -> int:
        return (self._schedule.now_us - self._booted_us) * US_NS

    def set_wall(self, error_us: int) -> None:
        """The wall clock is set so wrong, and runs."""
        self.error_us = error_us
        self._stands_at_us = None

    def stop_wall(self) -> None:
        """The wall clock stands still until it is set."""
        self._stands_at_us = self.wall_us

    def boot(self) -> None:
        """The machine starts anew."""
        self._booted_us = self._schedule.now_us


class WatchedClock:
    """The service's real clock on a machine; each reading is checked, and `broken` told of one
    that cannot be."""

    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        last_event_ms: int,
        broken: Callable[[BaseException], None],
    ) -> None:
        self._schedule = schedule
        self._broken = broken
        self._clock = SystemClock(
            not_before_ms=last_event_ms, wall_ns=machine.wall_ns, boot_ns=machine.boot_ns
        )
        self._first = self._last = (schedule.now_us, self._clock.now_ms())
        assert self._last[1] >= last_event_ms, "the clock starts before the last recorded instant"
        assert self._last[1] >= machine.wall_us // MS_US

    def now_ms(self) -> int:
        now_ms = self._clock.now_ms()
        self._check(self._last, now_ms)
        self._check(self._first, now_ms)
        self._last = (self._schedule.now_us, now_ms)
        return now_ms

    def _check(self, since: tuple[int, int], now_ms: int) -> None:
        """Whether the time since then has passed as it may: within a twentieth of the real one."""
        real_ms = (self._schedule.now_us - since[0]) / MS_US
        passed_ms = now_ms - since[1]
        # Instants are whole milliseconds.
        if not 0.95 * real_ms - 1 <= passed_ms <= 1.05 * real_ms + 1:
            self._broken(AssertionError(f"{passed_ms} ms have passed where it were {real_ms}"))


def may_start(wall_ms: int, last_event_ms: int) -> bool:
    """Whether a server may start at all, by the word of the design."""
    if last_event_ms == 0:
        return True
    # Further ahead than any window reaches nothing would count any more.
    return -bounds.MINUTE_MS <= wall_ms - last_event_ms <= bounds.WINDOW_MS_MAX
