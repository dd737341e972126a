"""The rules that look at the clock: ramps, pauses and hours, as plain values.

In flow values that `limiter.service.conversion` has read from messages; out flow the same values,
checked, and what the core makes of them. Everything here is frozen. What always holds after
`check(field)`: every number is inside `limiter.bounds` and every time zone is known. A check that
fails raises `InvalidArgument` about the full path of the field.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

from limiter import bounds, errors, zones
from limiter._hours import WEEK_MINUTES

if TYPE_CHECKING:
    from limiter.model import Dimension

_DAY_MINUTES: Final = 24 * 60
_EPOCH: Final = date(1970, 1, 1)
_LAST_DATE: Final = date(2100, 12, 31)


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument.for_field(field, description)


def _missing(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument.for_field(field, description, "MISSING_FIELD")


def check_zone(name: str, field: str) -> None:
    """Raises `InvalidArgument` unless it is `ACCOUNT` or the tz database has the zone."""
    if name != zones.ACCOUNT:
        zones.zone_table(name, field)


def zone_in(account_zone: str, name: str) -> str:
    """The zone that is called `name` in a limit, for an account that lives in `account_zone`."""
    return account_zone if name == zones.ACCOUNT else name


def check_per(per: tuple[Dimension, ...], field: str) -> None:
    """Raises `InvalidArgument` if a dimension occurs twice."""
    for index, dimension in enumerate(per):
        if dimension in per[:index]:
            raise _invalid(f"{field}[{index}]", f"{dimension.name} occurs twice; name it once")


def _day(text: str, field: str) -> int:
    """The days since 1970-01-01 of a date, `YYYY-MM-DD`."""
    if not text:
        raise _missing(field, "a date is YYYY-MM-DD")
    try:
        day = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        day = None
    if day is None or not _EPOCH <= day <= _LAST_DATE:
        shown = text if len(text) <= 20 else text[:20] + "…"
        raise _invalid(field, f"{shown!r} is not a date; a date is YYYY-MM-DD, in 1970 to 2100")
    return (day - _EPOCH).days


def _check_count(count: int, field: str) -> None:
    if not 0 <= count <= bounds.CAP_MAX_COUNT_MAX:
        raise _invalid(field, f"0 to {bounds.CAP_MAX_COUNT_MAX:,}, not {count:,}")


# --- Ramps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DailyStep:
    """`start_count` up to and on `start_date`, and `step_count` more on each day after it."""

    start_date: str
    start_count: int
    step_count: int

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless date and counts are sound."""
        _day(self.start_date, f"{field}.start_date")
        _check_count(self.start_count, f"{field}.start_count")
        if not 1 <= self.step_count <= bounds.CAP_MAX_COUNT_MAX:
            raise _invalid(
                f"{field}.step_count",
                f"1 to {bounds.CAP_MAX_COUNT_MAX:,}, not {self.step_count:,}; a maximum that does"
                " not grow needs no ramp",
            )

    @property
    def start_day(self) -> int:
        """Days since 1970-01-01."""
        return _day(self.start_date, "start_date")


@dataclass(frozen=True, slots=True)
class Tier:
    """`max_count` from `start_date` until the next tier starts."""

    start_date: str
    max_count: int

    @property
    def start_day(self) -> int:
        """Days since 1970-01-01."""
        return _day(self.start_date, "start_date")


@dataclass(frozen=True, slots=True)
class Tiers:
    """A plan by date; nothing is allowed before the first tier."""

    tiers: tuple[Tier, ...]

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless there are tiers, sound and in order."""
        if not self.tiers:
            raise _missing(f"{field}.tiers", "a plan by date needs at least one tier")
        days = []
        for index, tier in enumerate(self.tiers):
            days.append(_day(tier.start_date, f"{field}.tiers[{index}].start_date"))
            _check_count(tier.max_count, f"{field}.tiers[{index}].max_count")
        for index, (before, after) in enumerate(pairwise(days), 1):
            if before >= after:
                raise _invalid(
                    f"{field}.tiers[{index}].start_date",
                    "tiers come in the order of their dates, each with a date of its own",
                )


@dataclass(frozen=True, slots=True)
class Ramp:
    """How the maximum of a cap grows, with the days of `time_zone`."""

    schedule: DailyStep | Tiers
    time_zone: str = zones.UTC

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless zone and schedule are sound."""
        check_zone(self.time_zone, f"{field}.time_zone")
        daily = isinstance(self.schedule, DailyStep)
        self.schedule.check(f"{field}.{'daily_step' if daily else 'tiers'}")

    def in_zone(self, account_zone: str) -> Ramp:
        """The ramp for an account that lives there."""
        return replace(self, time_zone=zone_in(account_zone, self.time_zone))


# --- Pauses ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """After `after_count` messages with no gap of `duration_ms` or more between neighbours, the
    next may go `duration_ms` after the last; for each combination of `per`."""

    after_count: int
    duration_ms: int
    per: tuple[Dimension, ...] = ()

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the pause is sound."""
        if not 1 <= self.after_count <= bounds.PAUSE_AFTER_COUNT_MAX:
            raise _invalid(
                f"{field}.after_count",
                f"a break is due after 1 to {bounds.PAUSE_AFTER_COUNT_MAX:,} messages, not"
                f" {self.after_count:,}",
            )
        if not bounds.PAUSE_MS_MIN <= self.duration_ms <= bounds.PAUSE_MS_MAX:
            days = bounds.PAUSE_MS_MAX // bounds.DAY_MS
            raise _invalid(
                f"{field}.duration",
                f"a break lasts {bounds.PAUSE_MS_MIN} ms to {days} days, not {self.duration_ms} ms",
            )
        check_per(self.per, f"{field}.per")


# --- Hours ----------------------------------------------------------------------------------------


class DayOfWeek(IntEnum):
    """A day of the week."""

    MONDAY = 1
    TUESDAY = 2
    WEDNESDAY = 3
    THURSDAY = 4
    FRIDAY = 5
    SATURDAY = 6
    SUNDAY = 7


@dataclass(frozen=True, slots=True)
class Range:
    """From one minute of the day to another, on each of `days`; on the next day where the end is
    not after the start."""

    days: tuple[DayOfWeek, ...]
    start_minute: int
    end_minute: int

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless days and minutes are sound."""
        if not self.days:
            raise _missing(f"{field}.days", "name the days on which it starts")
        for index, day in enumerate(self.days):
            if day in self.days[:index]:
                raise _invalid(f"{field}.days[{index}]", f"{day.name} occurs twice; name it once")
        if not 0 <= self.start_minute < _DAY_MINUTES:
            raise _invalid(
                f"{field}.start_minute",
                f"a minute of the day is 0 to {_DAY_MINUTES - 1}, not {self.start_minute}",
            )
        if not 1 <= self.end_minute <= _DAY_MINUTES:
            raise _invalid(
                f"{field}.end_minute",
                f"it ends before minute 1 to {_DAY_MINUTES}, not {self.end_minute}; midnight is"
                f" {_DAY_MINUTES}",
            )

    def minutes(self) -> list[tuple[int, int]]:
        """The same as minutes of the week from Monday on: (first, the one after the last)."""
        found: list[tuple[int, int]] = []
        for day in self.days:
            start = (day - 1) * _DAY_MINUTES + self.start_minute
            end = (day - 1) * _DAY_MINUTES + self.end_minute
            if self.end_minute <= self.start_minute:
                end += _DAY_MINUTES
            found.append((start, min(end, WEEK_MINUTES)))
            if end > WEEK_MINUTES:
                found.append((0, end - WEEK_MINUTES))
        return found


@dataclass(frozen=True, slots=True)
class Hours:
    """Messages go inside the ranges only, by the clock of `time_zone`; `RECIPIENT` is the zone of
    the attempt's contact and, where it names none, `fallback_time_zone`."""

    ranges: tuple[Range, ...]
    time_zone: str = zones.UTC
    fallback_time_zone: str = ""

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless zones and ranges are sound."""
        fallback_field = f"{field}.fallback_time_zone"
        if self.time_zone == zones.RECIPIENT:
            if not self.fallback_time_zone:
                raise _missing(
                    fallback_field, "which zone is it for an attempt without contact_time_zone?"
                )
            check_zone(self.fallback_time_zone, fallback_field)
        else:
            check_zone(self.time_zone, f"{field}.time_zone")
            if self.fallback_time_zone:
                raise _invalid(
                    fallback_field, "only hours in the zone RECIPIENT have one; leave it out"
                )
        if not self.ranges:
            raise _missing(f"{field}.ranges", "when may messages go? name at least one range")
        for index, each in enumerate(self.ranges):
            each.check(f"{field}.ranges[{index}]")

    def in_zone(self, account_zone: str) -> Hours:
        """The hours for an account that lives there."""
        return replace(
            self,
            time_zone=zone_in(account_zone, self.time_zone),
            fallback_time_zone=zone_in(account_zone, self.fallback_time_zone),
        )

    @property
    def by_recipient(self) -> bool:
        """Whether the zone of the attempt's contact counts."""
        return self.time_zone == zones.RECIPIENT

    @property
    def own_zone(self) -> str:
        """The zone for an attempt that brings none."""
        return self.fallback_time_zone if self.by_recipient else self.time_zone

    def minutes(self) -> list[tuple[int, int]]:
        """The minutes of the week from Monday on in which it is open: (first, the one after the
        last), in order and apart."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(each for found in self.ranges for each in found.minutes()):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged


Timed: TypeAlias = Pause | Hours
