"""Hours, ramps and runs by brute force, straight from their definition.

As in `windows`, everything asks for the offset at single instants and searches.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limiter.v1 import policy_pb2
from tests.model.windows import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    changes_of_offset,
    first_instant_of,
    local_date,
    local_ms,
    offset_ms,
)

EPOCH = dt.date(1970, 1, 1)
# How far ahead anything is looked for, and a little more.
REACH_DAYS = 402
# Turns are searched in stretches of this length.
STRETCH_MS = 8 * DAY_MS


@functools.lru_cache(maxsize=200_000)
def instants_showing(zone: str, wall_ms: int) -> tuple[int, ...]:
    """The instants at which the wall shows this local time: mostly one, none where the clock skips
    it, two where it is put back."""
    low, high = wall_ms - 30 * HOUR_MS, wall_ms + 30 * HOUR_MS
    offsets = {offset_ms(zone, low)}
    offsets |= {offset_ms(zone, change) for change in changes_of_offset(zone, low, high)}
    found = {wall_ms - offset for offset in offsets}
    return tuple(sorted(instant for instant in found if local_ms(zone, instant) == wall_ms))


# --------------------------------------------------------------------------- hours


@dataclass(frozen=True, slots=True)
class Range:
    """Minutes of the day; where the end is not after the start, it lies on the next day."""

    days: frozenset[int]
    start_minute: int
    end_minute: int

    def holds(self, weekday: int, minute: int) -> bool:
        yesterday = (weekday - 2) % 7 + 1
        if self.end_minute > self.start_minute:
            return weekday in self.days and self.start_minute <= minute < self.end_minute
        return (weekday in self.days and minute >= self.start_minute) or (
            yesterday in self.days and minute < self.end_minute
        )


@dataclass(frozen=True, slots=True)
class Hours:
    """When messages may go, by the clock on a wall: that of the contact, if `by_contact`."""

    ranges: tuple[Range, ...]
    zone: str
    by_contact: bool

    def zone_for(self, contact_zone: str) -> str:
        return contact_zone if self.by_contact and contact_zone else self.zone

    def open(self, zone: str, t: int) -> bool:
        day, wall_ms = divmod(local_ms(zone, t), DAY_MS)
        weekday = (EPOCH + dt.timedelta(days=day)).isoweekday()
        return any(each.holds(weekday, wall_ms // MINUTE_MS) for each in self.ranges)

    def turns(self, zone: str, t: int) -> Iterator[int]:
        """The instants after t, in order, at which it may open: the wall shows the start of a
        range, or its clock is put forward or back."""
        starts = tuple(sorted({each.start_minute for each in self.ranges}))
        for stretch in range(t // STRETCH_MS, (t + REACH_DAYS * DAY_MS) // STRETCH_MS + 1):
            yield from (turn for turn in turns_in_stretch(zone, starts, stretch) if turn > t)


@functools.lru_cache(maxsize=50_000)
def turns_in_stretch(zone: str, minutes: tuple[int, ...], stretch: int) -> list[int]:
    low, high = stretch * STRETCH_MS, (stretch + 1) * STRETCH_MS - 1
    found = set(changes_of_offset(zone, low, high))
    for day in range(low // DAY_MS - 2, high // DAY_MS + 3):
        for minute in minutes:
            found.update(instants_showing(zone, day * DAY_MS + minute * MINUTE_MS))
    return sorted(turn for turn in found if low <= turn <= high)


def hours_of(hours: policy_pb2.Hours) -> Hours:
    by_contact = hours.time_zone == "RECIPIENT"
    return Hours(
        tuple(
            Range(frozenset(each.days), each.start_minute, each.end_minute) for each in hours.ranges
        ),
        hours.fallback_time_zone if by_contact else hours.time_zone or "UTC",
        by_contact,
    )


# --------------------------------------------------------------------------- ramps


@functools.lru_cache(maxsize=200_000)
def date_at(zone: str, t: int) -> dt.date:
    """The last date that has started in the zone by t."""
    date = local_date(zone, t) + dt.timedelta(days=2)
    while first_instant_of(zone, date) > t:
        date -= dt.timedelta(days=1)
    return date


@dataclass(frozen=True, slots=True)
class Ramp:
    """A maximum by date: a start and a step, or else tiers."""

    zone: str
    start: dt.date | None
    start_count: int
    step_count: int
    tiers: tuple[tuple[dt.date, int], ...]

    def max_at(self, t: int, ceiling: int) -> int:
        today = date_at(self.zone, t)
        if self.start is not None:
            days = max(0, (today - self.start).days)
            return min(ceiling, self.start_count + days * self.step_count)
        started = [max_count for date, max_count in self.tiers if date <= today]
        return min(ceiling, started[-1]) if started else 0

    def turns(self, t: int) -> Iterator[int]:
        """The instants after t, in order, at which the maximum may change."""
        today = date_at(self.zone, t)
        if self.start is None:
            dates = [date for date, _ in self.tiers if date > today]
        else:
            dates = [today + dt.timedelta(days=n) for n in range(1, REACH_DAYS)]
        for date in dates:
            first = first_instant_of(self.zone, date)
            if first > t:
                yield first


def ramp_of(ramp: policy_pb2.Ramp) -> Ramp:
    daily = ramp.daily_step
    return Ramp(
        ramp.time_zone or "UTC",
        dt.date.fromisoformat(daily.start_date) if ramp.HasField("daily_step") else None,
        daily.start_count,
        daily.step_count,
        tuple(
            (dt.date.fromisoformat(each.start_date), each.max_count) for each in ramp.tiers.tiers
        ),
    )


# --------------------------------------------------------------------------- runs


def run_at(sent: Sequence[tuple[int, int]], duration_ms: int, t: int) -> list[tuple[int, int]]:
    """Of messages as (instant, count), in order, those that make up the run at t: none with a gap
    of the duration or more behind it, up to t itself."""
    run: list[tuple[int, int]] = []
    next_ms = t
    for at_ms, count in reversed(sent):
        if next_ms - at_ms >= duration_ms:
            break
        run.append((at_ms, count))
        next_ms = at_ms
    return run
