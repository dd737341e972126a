"""Holds lapse at their ends, although nobody calls.

In flow the core's word that a hold ends before all others, and alarms; out flow the lapses, which
the core journals. A call at or after the end of a hold finds it lapsed in any case: this makes it
so while there are none, so that counts fall and whoever watches them sees it.

What always holds: the event loop is held for a moment at most, however many holds end at once; and
nothing is added to a journal that does not keep up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from limiter import bounds
from limiter._core import Core
from limiter._watch import lapse
from limiter.alarms import Alarm, Alarms
from limiter.clock import Clock

__all__ = ["Lapses"]

_log: Final = logging.getLogger(__name__)

# How long the event loop is held at most, but for the last few lapses; each reads of the journal.
_SLICE_S: Final = 0.000_5
_LAPSES_AT_ONCE: Final = 4

# After a fault, which a failing disk may be, it is tried again.
_RETRY_S: Final = 1.0


class Committer(Protocol):
    """Group commit; see `limiter.journal.GroupCommitter`."""

    def wait(self) -> asyncio.Future[None]:
        """Resolves once everything appended up to now is durable."""

    def kick(self) -> None:
        """Has everything appended up to now written soon."""


class Lapses:
    """The lapses of one core's holds. The core is to tell `look` of holds that end first."""

    def __init__(self, core: Core, committer: Committer, clock: Clock, alarms: Alarms) -> None:
        self._core = core
        self._committer = committer
        self._clock = clock
        self._alarms = alarms
        self._alarm: Alarm | None = None
        self._is_coming = False
        self._is_closed = False

    def look(self) -> None:
        """A hold ends before all that were known; called within a decision."""
        self._soon(asyncio.get_running_loop().call_soon)

    def close(self) -> None:
        """Nothing lapses any more."""
        self._is_closed = True
        if self._alarm is not None:
            self._alarms.cancel(self._alarm)

    def _soon(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        if not self._is_coming and not self._is_closed:
            self._is_coming = True
            schedule(self._lapse)

    def _lapse(self) -> None:
        """Lets lapse what has ended, as much as one step may take, and comes back for the rest."""
        self._is_coming = False
        if self._is_closed:
            return
        if self._alarm is not None:
            self._alarms.cancel(self._alarm)
            self._alarm = None
        loop = asyncio.get_running_loop()
        end_s = time.perf_counter() + _SLICE_S
        now_ms = self._clock.now_ms()
        try:
            next_ms = lapse(self._core, now_ms, _LAPSES_AT_ONCE)
            while next_ms is not None and next_ms <= now_ms and time.perf_counter() < end_s:
                next_ms = lapse(self._core, now_ms, _LAPSES_AT_ONCE)
        except Exception:  # noqa: BLE001 - a call that needs it will tell its caller
            _log.exception("holds could not lapse")
            self._soon(lambda again: loop.call_later(_RETRY_S, again))
            return
        if self._core.pending_bytes:
            self._committer.kick()
        if next_ms is None:
            return
        if next_ms > now_ms:
            self._alarm = self._alarms.set(next_ms, self._ring)
        elif self._core.pending_bytes > bounds.PENDING_JOURNAL_BYTES_MAX:
            written = self._committer.wait()
            self._soon(lambda again: written.add_done_callback(lambda _written: again()))
        else:
            self._soon(loop.call_soon)

    def _ring(self) -> None:
        self._alarm = None
        self._is_coming = False
        self._lapse()
