"""Where `now` comes from: one instant, in milliseconds since 1970, for each decision.

What flows in: the readings of the wall clock and of the boot-time clock, or the hand of a test.
What flows out: instants that never go back. Nothing else in the service reads a clock to decide.

`SystemClock` starts at the wall clock and then advances with the boot-time clock, which also runs
while the machine sleeps and which nobody can set. When the wall clock is stepped (by an operator,
by a time daemon, by a virtual machine that was moved), the difference is worked off at no more than
5 % of the time that passes: a second of ours lasts between 0.95 and 1.05 of a real one, so windows
stay within 5 % of their length whatever happens to the wall clock, and time neither stands nor
leaps.

`DrivenClock` stands until somebody moves it forward.

`check_start` compares the wall clock with the journal before anything is served. Every decision
ahead of the journal's last instant is safe; a clock behind it would make new sends older than
counted ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from limiter import bounds, errors

__all__ = [
    "Clock",
    "DrivenClock",
    "SystemClock",
    "check_start",
    "format_instant",
]

_MS: Final = 1_000_000

# The part of the elapsed time that a correction may add or take away: one in twenty.
_SLEW_DIVISOR: Final = 20


class Clock(Protocol):
    """What the service asks for the time."""

    def now_ms(self) -> int:
        """The present instant in milliseconds since 1970; never less than the last one given."""


def _boot_time_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """The wall clock without its steps.

    `wall_ns` and `boot_ns` read the two clocks in nanoseconds; `not_before_ms` is an instant that
    the clock starts at if the wall clock is behind it (the last journalled one).
    """

    def __init__(
        self,
        *,
        not_before_ms: int = 0,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = _boot_time_ns,
    ) -> None:
        self._read_wall_ns = wall_ns
        self._read_boot_ns = boot_ns
        self._boot_ns = boot_ns()
        self._value_ns = max(wall_ns(), not_before_ms * _MS)

    def now_ms(self) -> int:
        """The present instant: the last one, plus the time since, within 5 % towards the wall."""
        boot_ns = self._read_boot_ns()
        elapsed_ns = boot_ns - self._boot_ns
        if elapsed_ns > 0:
            self._boot_ns = boot_ns
            value_ns = self._value_ns + elapsed_ns
            slew_ns = elapsed_ns // _SLEW_DIVISOR
            error_ns = self._read_wall_ns() - value_ns
            self._value_ns = value_ns + max(-slew_ns, min(slew_ns, error_ns))
        return self._value_ns // _MS

    def offset_ns(self) -> int:
        """By how much this clock is ahead of the machine's: what is still to be slewed."""
        return self._value_ns + self._read_boot_ns() - self._boot_ns - self._read_wall_ns()


class DrivenClock:
    """A clock that stands at `start_ms` until it is set; for tests, demonstrations and replays."""

    def __init__(self, start_ms: int) -> None:
        _check_instant(start_ms)
        self._now_ms = start_ms
        # Called after each move: who waits for an instant.
        self.on_move: Callable[[], None] | None = None

    def now_ms(self) -> int:
        """The instant that the clock was set to."""
        return self._now_ms

    def set_ms(self, now_ms: int) -> None:
        """Moves the clock forward to `now_ms`, or leaves it where it is.

        Raises InvalidArgument outside 1970 to 2100, FailedPrecondition for an instant in the past.
        """
        _check_instant(now_ms)
        if now_ms < self._now_ms:
            raise errors.FailedPrecondition(
                "CLOCK_BACKWARD",
                f"the clock stands at {format_instant(self._now_ms)} and moves only forward, not "
                f"back to {format_instant(now_ms)}",
            )
        self._now_ms = now_ms
        if self.on_move is not None:
            self.on_move()


def _check_instant(instant_ms: int) -> None:
    if not bounds.INSTANT_MS_MIN <= instant_ms <= bounds.INSTANT_MS_MAX:
        raise errors.InvalidArgument.for_field(
            "current_time", "must lie between the years 1970 and 2100"
        )


def check_start(wall_ms: int, last_event_ms: int, accept_clock: bool = False) -> None:
    """Refuses a wall clock that cannot be right, given the last journalled instant (0: none).

    Raises FailedPrecondition when the wall clock is more than a minute behind it, or so far ahead
    of it that nothing counts any more, unless `accept_clock`; and in any case outside the years
    1970 to 2100.
    """
    if not bounds.INSTANT_MS_MIN <= wall_ms <= bounds.INSTANT_MS_MAX:
        raise errors.FailedPrecondition(
            "CLOCK_IMPLAUSIBLE", "the system clock is outside the years 1970 to 2100: set it"
        )
    if accept_clock or last_event_ms == 0:
        return
    difference_ms = wall_ms - last_event_ms
    if -bounds.START_BEHIND_MS_MAX <= difference_ms <= bounds.START_AHEAD_MS_MAX:
        return
    where = "behind" if difference_ms < 0 else "ahead of"
    then = (
        "time goes on from the last recorded instant, and nears the system clock by 5 % of the "
        "time that passes"
        if difference_ms < 0
        else "all that was counted until then leaves its windows"
    )
    raise errors.FailedPrecondition(
        "CLOCK_IMPLAUSIBLE",
        f"the system clock says {format_instant(wall_ms)}, which is "
        f"{abs(difference_ms) / bounds.DAY_MS:.2f} days {where} the last recorded instant "
        f"({format_instant(last_event_ms)}): set the clock, or start with --accept-clock if it is "
        f"right ({then})",
    )


def format_instant(instant_ms: int) -> str:
    """An instant for people: RFC 3339, in UTC, with milliseconds."""
    text = datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
