"""Windows by brute force, straight from their definition: the reference for `limiter._calendar`.

Everything asks `zoneinfo` for the offset at single instants and searches. Nothing is derived from a
zone's tables, so a mistake in reading those cannot be repeated here. All instants are milliseconds
since 1970-01-01T00:00Z.

What a window answers:
    first_ms(t)   the earliest instant that is inside the window ending at t
    exit_ms(s)    the earliest instant after s at which s is no longer inside
    inside(s, t)  whether s is inside the window ending at t
"""

from __future__ import annotations

import bisect
import datetime as dt
import functools
import importlib.resources
import zoneinfo
from dataclasses import dataclass

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# The numbers of limiter.v1.CalendarUnit.
HOUR, DAY, WEEK, MONTH = 1, 2, 3, 4

_EPOCH_DATE = dt.date(1970, 1, 1)

# No offset is as large, so local time and UTC are never further apart than this.
_FARTHEST_OFFSET_MS = 30 * HOUR_MS
_STRETCH_MS = 6 * DAY_MS


def instant_of(year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0) -> int:
    """An instant by its date and time in UTC."""
    return round(dt.datetime(year, month, day, hour, minute, tzinfo=dt.UTC).timestamp() * 1000)


@functools.cache
def load_zone(name: str) -> zoneinfo.ZoneInfo:
    """The rules of one zone from the pinned tzdata package, never from the machine's own files."""
    file = importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with file.open("rb") as stream:
        return zoneinfo.ZoneInfo.from_file(stream, key=name)


def offset_ms(zone: str, instant_ms: int) -> int:
    """How far local time is ahead of UTC at one instant."""
    moment = dt.datetime.fromtimestamp(instant_ms // SECOND_MS, load_zone(zone))
    offset = moment.utcoffset()
    assert offset is not None
    return offset.days * DAY_MS + offset.seconds * SECOND_MS


def local_ms(zone: str, instant_ms: int) -> int:
    """What a clock on the wall shows, as milliseconds since a local 1970-01-01 00:00."""
    return instant_ms + offset_ms(zone, instant_ms)


def local_date(zone: str, instant_ms: int) -> dt.date:
    """The date on the wall."""
    return _EPOCH_DATE + dt.timedelta(days=local_ms(zone, instant_ms) // DAY_MS)


@functools.lru_cache(maxsize=200_000)
def _changes_in_stretch(zone: str, stretch: int) -> tuple[int, ...]:
    """The instants in one stretch of time at which the offset differs from the millisecond before.

    A stretch lasts six days: since 1970 no zone has changed its offset twice within so many.
    """
    low, high = stretch * _STRETCH_MS - 1, (stretch + 1) * _STRETCH_MS - 1
    before = offset_ms(zone, low)
    if offset_ms(zone, high) == before:
        return ()
    while high - low > 1:
        middle = (low + high) // 2
        if offset_ms(zone, middle) == before:
            low = middle
        else:
            high = middle
    return (high,)


def changes_of_offset(zone: str, low_ms: int, high_ms: int) -> list[int]:
    """Every change of the zone's offset in low_ms <= instant <= high_ms."""
    found: list[int] = []
    for stretch in range(low_ms // _STRETCH_MS, high_ms // _STRETCH_MS + 1):
        changes = _changes_in_stretch(zone, stretch)
        found += [change for change in changes if low_ms <= change <= high_ms]
    return found


@functools.lru_cache(maxsize=200_000)
def first_instant_of(zone: str, date: dt.date) -> int:
    """The first instant at which the wall shows this date's midnight *or anything later*.

    That is where the date starts even if its midnight is skipped, and it stays there if the clock
    falls back over midnight afterwards. A date that the zone skips altogether starts where the next
    one does: it is empty.
    """
    midnight = (date - _EPOCH_DATE).days * DAY_MS
    low, high = midnight - _FARTHEST_OFFSET_MS, midnight + _FARTHEST_OFFSET_MS
    changes = changes_of_offset(zone, low, high)
    offsets = {offset_ms(zone, low)} | {offset_ms(zone, change) for change in changes}
    # Local time reaches midnight either by running into it or by jumping over it.
    candidates = sorted({midnight - offset for offset in offsets} | set(changes))
    return next(instant for instant in candidates if local_ms(zone, instant) >= midnight)


@functools.lru_cache(maxsize=50_000)
def _hour_starts_of_utc_day(zone: str, day: int) -> tuple[int, ...]:
    low, high = day * DAY_MS, (day + 1) * DAY_MS - 1
    changes = changes_of_offset(zone, low, high)
    starts = set(changes)
    for offset in {offset_ms(zone, instant) for instant in (low, *changes)}:
        for instant in range(low + (-low - offset) % HOUR_MS, high + 1, HOUR_MS):
            if local_ms(zone, instant) % HOUR_MS == 0:
                starts.add(instant)
    return tuple(sorted(starts))


def _dates_that_start(unit: int, low: dt.date, high: dt.date) -> list[dt.date]:
    """The dates in low..high on which a unit of this length nominally starts."""
    days = [low + dt.timedelta(days=n) for n in range((high - low).days + 1)]
    if unit == DAY:
        return days
    if unit == WEEK:
        return [day for day in days if day.isoweekday() == 1]
    assert unit == MONTH
    return [day for day in days if day.day == 1]


def unit_starts(zone: str, unit: int, low_ms: int, high_ms: int) -> list[int]:
    """The first instants of all calendar units that start in low_ms <= instant <= high_ms."""
    starts: set[int] = set()
    if unit == HOUR:
        for day in range(low_ms // DAY_MS, high_ms // DAY_MS + 1):
            starts.update(_hour_starts_of_utc_day(zone, day))
    else:
        margin = dt.timedelta(days=3)
        for date in _dates_that_start(
            unit, local_date(zone, low_ms) - margin, local_date(zone, high_ms) + margin
        ):
            starts.add(first_instant_of(zone, date))
    return sorted(start for start in starts if low_ms <= start <= high_ms)


# How far apart the starts of neighbouring units may be at most: no search has to look further.
LONGEST_UNIT_MS = {HOUR: HOUR_MS, DAY: 50 * HOUR_MS, WEEK: 9 * DAY_MS, MONTH: 33 * DAY_MS}


@functools.lru_cache(maxsize=200_000)
def _first_of_window(zone: str, unit: int, count: int, unit_start_ms: int) -> int:
    reach_ms = count * LONGEST_UNIT_MS[unit]
    return unit_starts(zone, unit, unit_start_ms - reach_ms, unit_start_ms)[-count]


@functools.lru_cache(maxsize=200_000)
def _exit_of_window(zone: str, unit: int, count: int, unit_start_ms: int) -> int:
    reach_ms = count * LONGEST_UNIT_MS[unit]
    return unit_starts(zone, unit, unit_start_ms, unit_start_ms + reach_ms)[count]


@functools.lru_cache(maxsize=50_000)
def _starts_of_chunk(zone: str, unit: int, chunk: int) -> tuple[int, ...]:
    """The starts around one stretch of 30 days, so that neighbouring questions share the search."""
    low = chunk * 30 * DAY_MS
    return tuple(unit_starts(zone, unit, low - 35 * DAY_MS, low + 30 * DAY_MS))


def unit_start(zone: str, unit: int, instant_ms: int) -> int:
    """The first instant of the unit that holds an instant."""
    if unit == HOUR:
        return unit_starts(zone, unit, instant_ms - HOUR_MS, instant_ms)[-1]
    starts = _starts_of_chunk(zone, unit, instant_ms // (30 * DAY_MS))
    return starts[bisect.bisect_right(starts, instant_ms) - 1]


@dataclass(frozen=True, slots=True)
class Rolling:
    """At t a send at s is inside iff t - duration_ms < s <= t."""

    duration_ms: int

    @property
    def longest_ms(self) -> int:
        return self.duration_ms

    def first_ms(self, t: int) -> int:
        return t - self.duration_ms + 1

    def exit_ms(self, s: int) -> int:
        return s + self.duration_ms

    def inside(self, s: int, t: int) -> bool:
        return t - self.duration_ms < s <= t


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """The unit that holds t and the count - 1 units before it."""

    unit: int
    zone: str
    count: int

    @property
    def longest_ms(self) -> int:
        """No window of this kind lasts longer."""
        return self.count * LONGEST_UNIT_MS[self.unit]

    def first_ms(self, t: int) -> int:
        return _first_of_window(
            self.zone, self.unit, self.count, unit_start(self.zone, self.unit, t)
        )

    def exit_ms(self, s: int) -> int:
        return _exit_of_window(
            self.zone, self.unit, self.count, unit_start(self.zone, self.unit, s)
        )

    def inside(self, s: int, t: int) -> bool:
        return self.first_ms(t) <= s <= t


Window = Rolling | CalendarWindow
