"""How long a call may take, and when it is tried again.

In: the seconds that a caller has, and the faults of the tries. Out: the deadline of each try, and
the pause before the next one, or the word that there is none.

What always holds: a call that counts something is repeated only under a request id, so that it
counts once at most. No try begins after the caller's deadline and none outlives it. Pauses double,
with jitter, so that clients that failed together do not come back together, and are never shorter
than what the server asks for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from limiter import errors

__all__ = ["Patience", "Retries", "is_passing"]

# The least time that a call is given: a deadline in the past is none.
_TRY_S_MIN = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How calls are repeated: each try may take `try_timeout_s`; the pause between two begins at
    `pause_s_min` and doubles up to `pause_s_max`."""

    try_timeout_s: float = 3.0
    pause_s_min: float = 0.05
    pause_s_max: float = 1.0

    def __post_init__(self) -> None:
        if not (self.try_timeout_s > 0 and 0 < self.pause_s_min <= self.pause_s_max):
            raise ValueError(f"{self}: times must be positive, and the least pause the shorter one")


def is_passing(fault: errors.LimiterError) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(fault, errors.ResourceExhausted):
        return fault.retry_after_ms is not None
    return isinstance(fault, (errors.Unavailable, errors.DeadlineExceeded, errors.Cancelled))


class Patience:
    """The tries of one call. `now_s` and `draw` are the clock and the dice, for tests."""

    def __init__(
        self,
        timeout_s: float,
        retries: Retries,
        *,
        now_s: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not timeout_s > 0:
            raise errors.InvalidArgument.for_field("timeout_s", "must be positive")
        self._retries = retries
        self._now_s = now_s
        self._draw = draw
        self._deadline_s = now_s() + timeout_s
        self._pause_s = retries.pause_s_min

    def remaining_s(self) -> float:
        """Seconds until the caller's deadline; negative once it is over."""
        return self._deadline_s - self._now_s()

    def try_timeout_s(self, *, can_repeat: bool) -> float:
        """How long the next try may take: one that cannot be repeated has all that is left."""
        remaining_s = self.remaining_s()
        if can_repeat:
            remaining_s = min(remaining_s, self._retries.try_timeout_s)
        return max(remaining_s, _TRY_S_MIN)

    def pause_s(self, fault: errors.LimiterError, *, can_repeat: bool) -> float | None:
        """How long to wait before the next try; None if the fault is to be told instead."""
        if not (can_repeat and is_passing(fault)):
            return None
        # Half of it is drawn.
        pause_s = self._pause_s * self._draw(0.5, 1.0)
        if fault.retry_after_ms is not None:
            pause_s += fault.retry_after_ms / 1_000
        if pause_s >= self.remaining_s():
            return None
        self._pause_s = min(self._pause_s * 2, self._retries.pause_s_max)
        return pause_s
