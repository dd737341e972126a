"""What a server observes of itself, for the page of metrics.

What flows in: what the parts tell as it happens (a group written, a call answered), and their
counts when they are asked. What flows out: a reading, the values of all metrics now.

What always holds: telling costs a few instructions, or little beside what is told; a reading takes
less than a millisecond of the event loop; what is not known now (counts of the state while there is
none) is left out, not told as zero.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

from limiter import __version__, bounds, faults_told
from limiter._activity import Activity
from limiter._census import census
from limiter._core import Core
from limiter._spread import Spread
from limiter.decision_names import OUTCOMES, REASONS
from limiter.imaging import Standing
from limiter.metrics import Distribution, Reading

__all__ = ["DURATION_LIMITS_NS", "Held", "Observation"]

_log: Final = logging.getLogger(__name__)

_NS: Final = 1_000_000_000

# From what a check takes to what a client waits for at most.
DURATION_LIMITS_NS: Final = tuple(
    int(seconds * _NS)
    for seconds in (
        *(0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05),
        *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    )
)

# The event loop's timers come on whole milliseconds.
_LAG_LIMITS_NS: Final = tuple(
    int(seconds * _NS) for seconds in (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
)

_GROUP_LIMITS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
)

# How often the event loop's lag and the clocks are looked at.
_SAMPLE_INTERVAL_S: Final = 0.1

# How often at most steps of the machine's clock are logged; all are counted.
_STEP_TOLD_INTERVAL_S: Final = 60.0


class Journal(Protocol):
    """What is asked of the journal's store."""

    @property
    def used_bytes(self) -> int:
        """The journal on disk."""

    @property
    def quota_bytes(self) -> int:
        """What it may take."""


class Restrictions(Protocol):
    """What is asked of the log of denied attempts."""

    @property
    def used_bytes(self) -> int:
        """The log on disk."""

    @property
    def dropped_count(self) -> int:
        """Denials that it could not keep, since the start."""


class Images(Protocol):
    """What is asked of the images."""

    def standing(self) -> Standing:
        """How they stand."""


class Policies(Protocol):
    """What is asked of the policies."""

    @property
    def revision(self) -> int:
        """The number of the newest revision."""


class Transport(Protocol):
    """What is asked of the native transport."""

    @property
    def connection_count(self) -> int:
        """Clients that are connected."""

    @property
    def refused_count(self) -> int:
        """Connections that were one too many, so far."""

    @property
    def flood_count(self) -> int:
        """Connections that were ended for flooding, so far."""

    @property
    def call_count(self) -> int:
        """Calls that are under way."""


class Streams(Protocol):
    """What is asked of the hot calls."""

    @property
    def stream_count(self) -> int:
        """CommitStreams that are open."""


class Watchers(Protocol):
    """What is asked of the watchers of usage."""

    @property
    def count(self) -> int:
        """How many watch."""


class Serving(Protocol):
    """What is asked of health."""

    @property
    def is_serving(self) -> bool:
        """Whether calls are answered."""


class Offset(Protocol):
    """A clock that may differ from the machine's."""

    def offset_ns(self) -> int:
        """By how much it is ahead."""


@dataclass(frozen=True, slots=True)
class Held:
    """What stands on one opening of the journal."""

    core: Core
    journal: Journal
    policies: Policies
    images: Images
    # None where there is no such log.
    restrictions: Restrictions | None = None


class Observation:
    """Everything that one server observes. Belongs to its event loop; `group_written` alone is
    told from the journal's thread.

    `hot_times` has a row for each of the `hot_methods`, in their order; under a transport that
    answers those by Python handlers there are none.
    """

    def __init__(self, health: Serving, activity: Activity) -> None:
        self._health = health
        self._activity = activity
        self.held: Held | None = None
        self.transport: Transport | None = None
        self.streams: Streams | None = None
        self.watchers: Watchers | None = None
        self.clock: Offset | None = None
        self.journal_failure_count = 0
        # Calls of Python handlers that are under way.
        self.handled_count = 0
        self.hot_methods: tuple[str, ...] = ()
        self.hot_times: Spread | None = None
        self._cold_times: dict[str, Spread] = {}
        self._group_events = Spread(_GROUP_LIMITS)
        self._append_times = Spread(DURATION_LIMITS_NS)
        self._lags = Spread(_LAG_LIMITS_NS)
        self._recovery_count = 0
        self._recovery_s = 0.0
        self._recovered_events = 0
        self._steps = Counter({"forward": 0, "backward": 0})
        self._step_told_s = -_STEP_TOLD_INTERVAL_S

    def group_written(self, event_count: int, duration_ns: int) -> None:
        """A group is on disk; so long did that take."""
        self._group_events.record(event_count)
        self._append_times.record(duration_ns)

    def call_answered(self, method: str, duration_ns: int) -> None:
        """A call of a Python handler has ended; the names of methods are the server's own."""
        times = self._cold_times.get(method)
        if times is None:
            times = self._cold_times[method] = Spread(DURATION_LIMITS_NS)
        times.record(duration_ns)

    def recovered(self, event_count: int, duration_s: float) -> None:
        """The journal was opened and replayed."""
        self._recovery_count += 1
        self._recovery_s = duration_s
        self._recovered_events = event_count

    def observe_hot(self, methods: tuple[str, ...]) -> Spread:
        """Where the hot calls of these methods are counted, by their row, in nanoseconds."""
        self.hot_methods = methods
        self.hot_times = Spread(DURATION_LIMITS_NS, len(methods))
        return self.hot_times

    # --- looking from time to time ----------------------------------------------------------------

    async def look(self) -> None:
        """Looks at the event loop and the clocks, over and over, until it is cancelled."""
        wall_less_boot_ns = _wall_less_boot_ns()
        while True:
            due_ns = time.monotonic_ns() + int(_SAMPLE_INTERVAL_S * _NS)
            await asyncio.sleep(_SAMPLE_INTERVAL_S)
            self._lags.record(time.monotonic_ns() - due_ns)
            before_ns, wall_less_boot_ns = wall_less_boot_ns, _wall_less_boot_ns()
            self.clocks_compared(wall_less_boot_ns - before_ns)

    def clocks_compared(self, moved_ns: int) -> None:
        """The machine's clock has moved by so much beside the time that has passed."""
        if abs(moved_ns) < bounds.CLOCK_STEP_MS_MIN * 1_000_000:
            return
        direction = "forward" if moved_ns > 0 else "backward"
        self._steps[direction] += 1
        # A clock that stands, or runs at another speed, is stepped each time.
        if time.monotonic() < self._step_told_s + _STEP_TOLD_INTERVAL_S:
            return
        self._step_told_s = time.monotonic()
        _log.warning(
            "the machine's clock was stepped: decisions near it by 5 %% of the time that passes",
            extra={"step_ms": moved_ns // 1_000_000},
        )

    # --- the reading ------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """The values of all metrics that there are now."""
        found: dict[str, list[tuple[tuple[str, ...], float | Distribution]]] = {
            "limiter_build_info": [((__version__,), 1)],
            "limiter_decisions_total": [
                ((operation, OUTCOMES[outcome], REASONS[reason]), count)
                for operation, outcome, reason, count in self._activity.decisions()
            ],
            "limiter_replays_total": [
                ((operation,), count) for operation, count in self._activity.replayed()
            ],
            "limiter_call_duration_seconds": self._call_durations(),
            "limiter_errors_total": [(key, count) for key, count in faults_told.counts().items()],
            "limiter_clock_steps_total": [((way,), count) for way, count in self._steps.items()],
        }
        single: dict[str, float | Distribution] = {
            "limiter_serving": self._health.is_serving,
            "limiter_calls_in_flight": self._calls_in_flight(),
            "limiter_journal_group_events": _distribution(self._group_events),
            "limiter_journal_append_duration_seconds": _seconds(self._append_times),
            "limiter_journal_failures_total": self.journal_failure_count,
            "limiter_recoveries_total": self._recovery_count,
            "limiter_recovery_duration_seconds": self._recovery_s,
            "limiter_recovered_events": self._recovered_events,
            "limiter_event_loop_lag_seconds": _seconds(self._lags),
            **self._of_the_state(),
            **self._of_the_transport(),
        }
        found.update((name, [((), value)]) for name, value in single.items())
        return found

    def _call_durations(self) -> list[tuple[tuple[str, ...], float | Distribution]]:
        durations: list[tuple[tuple[str, ...], float | Distribution]] = []
        if self.hot_times is not None:
            durations += [
                ((method,), _seconds(self.hot_times, row))
                for row, method in enumerate(self.hot_methods)
            ]
        durations += [((method,), _seconds(times)) for method, times in self._cold_times.items()]
        return durations

    def _calls_in_flight(self) -> int:
        return self.handled_count if self.transport is None else self.transport.call_count

    def _of_the_state(self) -> dict[str, float]:
        if self.held is None:
            return {}
        counted = census(self.held.core)
        journal, restrictions = self.held.journal, self.held.restrictions
        images = self.held.images.standing()
        of_restrictions: dict[str, float] = {}
        if restrictions is not None:
            of_restrictions = {
                "limiter_restrictions_bytes": restrictions.used_bytes,
                "limiter_restrictions_dropped_total": restrictions.dropped_count,
            }
        return of_restrictions | {
            "limiter_accounts": counted["accounts"],
            "limiter_names": counted["names"],
            "limiter_request_ids": counted["request_ids"],
            "limiter_held_commits": counted["held_commits"],
            "limiter_undone_commits": counted["undone_commits"],
            "limiter_journal_pending_events": counted["pending_events"],
            "limiter_journal_pending_bytes": counted["pending_bytes"],
            "limiter_journal_bytes": journal.used_bytes,
            "limiter_journal_quota_bytes": journal.quota_bytes,
            "limiter_journal_map_bytes": bounds.STORE_MAP_BYTES,
            "limiter_image_lag_events": images.lag_event_count,
            "limiter_images_bytes": images.used_bytes,
            "limiter_account_memory_bytes": images.account_bytes,
            "limiter_arrivals_total": images.arrival_count,
            "limiter_policy_revision": self.held.policies.revision,
        }

    def _of_the_transport(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.streams is not None:
            found["limiter_streams"] = self.streams.stream_count
        if self.watchers is not None:
            found["limiter_watchers"] = self.watchers.count
        if self.clock is not None:
            found["limiter_clock_offset_seconds"] = self.clock.offset_ns() / _NS
        if self.transport is not None:
            found["limiter_connections"] = self.transport.connection_count
            found["limiter_connections_refused_total"] = self.transport.refused_count
            found["limiter_floods_refused_total"] = self.transport.flood_count
        return found


def _wall_less_boot_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _distribution(spread: Spread, row: int = 0) -> Distribution:
    return Distribution(spread.limits, spread.counts(row), spread.total(row))


def _seconds(spread: Spread, row: int = 0) -> Distribution:
    """The distribution of durations that were counted in nanoseconds."""
    limits = [limit / _NS for limit in spread.limits]
    return Distribution(limits, spread.counts(row), spread.total(row) / _NS)
