"""One limit and what it counts: the design's sections 2.1 to 2.3 as naive Python.

A counter is nothing but a list of entries, one for each message that it has ever counted; what it
answers is found by going through all of them. Nothing here is clever, so that it can be believed.

The one latitude that the design grants is in here as well. A message cap of more than 1,440 may see
the messages behind its 1,440 newest leave late, by one bucket of a 1,440th of a rolling window. So
every answer comes in two readings, `late` false and true; while no counter is that full they agree.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from google.protobuf import timestamp_pb2

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from tests.model.clocks import Hours, Ramp, hours_of, ramp_of, run_at
from tests.model.windows import DAY_MS, CalendarWindow, Rolling, Window

CONTACT, ADDRESS = attempt_pb2.DIMENSION_CONTACT, attempt_pb2.DIMENSION_ADDRESS
MESSAGES = policy_pb2.MEASURE_MESSAGES
# What a pause measures: the run of messages that the newest one stands in.
RUN = 4
MEASURED: dict[int, attempt_pb2.Dimension.ValueType] = {
    policy_pb2.MEASURE_CONTACTS: CONTACT,
    policy_pb2.MEASURE_ADDRESSES: ADDRESS,
}
FIELD_NAMES = {
    number: name.removeprefix("DIMENSION_").lower()
    for name, number in attempt_pb2.Dimension.items()
    if number
}
ENFORCED = policy_pb2.ENFORCEMENT_ENFORCED
FULL_REASONS: dict[int, decision_pb2.Reason.ValueType] = {
    policy_pb2.MEASURE_MESSAGES: decision_pb2.REASON_MESSAGE_CAP,
    policy_pb2.MEASURE_CONTACTS: decision_pb2.REASON_CONTACT_CAP,
    policy_pb2.MEASURE_ADDRESSES: decision_pb2.REASON_ADDRESS_CAP,
    RUN: decision_pb2.REASON_PAUSE,
}
EXACT_ENTRIES = 1_440
RETRY_REACH_MS = 400 * DAY_MS

Dimension: TypeAlias = attempt_pb2.Dimension.ValueType
Fields = Mapping[Dimension, str]


# --------------------------------------------------------------------------- what is counted


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one dimension. Where the value is missing it neither holds nor fails: None."""

    dimension: Dimension
    values: frozenset[str]
    negate: bool

    def holds(self, fields: Fields) -> bool | None:
        value = fields.get(self.dimension)
        return None if value is None else (value in self.values) is not self.negate


@dataclass(frozen=True, slots=True)
class Kind:
    """What a counter counts. Limits of equal kinds share their counters. The window of a pause
    lasts as long as the break."""

    measure: int
    per: frozenset[Dimension]
    window: Window
    counts: frozenset[Condition]

    def key(self, fields: Fields) -> tuple[str, ...] | None:
        """The counter among those of this kind that a message falls to; None: it has not the
        fields to tell."""
        values = [fields.get(dimension) for dimension in sorted(self.per)]
        return None if None in values else tuple(value for value in values if value is not None)

    def member(self, fields: Fields) -> str | None:
        """Whom a distinct counter counts once. For a message counter "", whoever it is."""
        return "" if self.sums else fields.get(MEASURED[self.measure])

    @property
    def sums(self) -> bool:
        """Whether messages are counted, and not whom they go to."""
        return self.measure in (MESSAGES, RUN)

    def counts_message(self, fields: Fields) -> bool:
        return (
            all(condition.holds(fields) is True for condition in self.counts)
            and self.key(fields) is not None
            and self.member(fields) is not None
        )

    def missing(self, fields: Fields) -> set[Dimension]:
        """The dimensions without which it is open whether and where a message counts. Once one
        condition fails, the others do not matter."""
        needed = set(self.per)
        if self.measure in MEASURED:
            needed.add(MEASURED[self.measure])
        if not any(test.holds(fields) is False for test in self.counts):
            needed |= {test.dimension for test in self.counts}
        return needed - set(fields)


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as it applies, inside the policy that it belongs to ("" for an inline limit)."""

    policy: str
    limit_id: str
    kind: Kind | None  # None for hours
    max_count: int
    enforcement: policy_pb2.Enforcement.ValueType
    applies_to: frozenset[Condition]
    ramp: Ramp | None = None
    hours: Hours | None = None

    def max_at(self, t: int) -> int:
        """The maximum that is in force at t."""
        return self.max_count if self.ramp is None else self.ramp.max_at(t, self.max_count)

    def applies(self, fields: Fields) -> bool:
        """Whether it may be about such an attempt: a missing field never gets around a limit."""
        return not any(test.holds(fields) is False for test in self.applies_to)

    def missing(self, fields: Fields) -> set[Dimension]:
        """The dimensions that the limit needs and an attempt with these fields lacks."""
        missing = {test.dimension for test in self.applies_to} - set(fields)
        return missing if self.kind is None else missing | self.kind.missing(fields)


def conditions_of(match: policy_pb2.Match) -> frozenset[Condition]:
    return frozenset(
        Condition(condition.dimension, frozenset(condition.values), condition.negate)
        for condition in match.conditions
    )


def window_of(window: policy_pb2.Window) -> Window:
    if window.HasField("rolling"):
        return Rolling(window.rolling.ToMilliseconds())
    calendar = window.calendar
    return CalendarWindow(calendar.unit, calendar.time_zone or "UTC", calendar.count or 1)


def in_zone(limit: policy_pb2.Limit, zone: str) -> policy_pb2.Limit:
    """The limit for an account that lives there."""
    moved = policy_pb2.Limit()
    moved.CopyFrom(limit)
    for named in (moved.cap.window.calendar, moved.cap.ramp, moved.hours):
        if named.time_zone == "ACCOUNT":
            named.time_zone = zone
    if moved.hours.fallback_time_zone == "ACCOUNT":
        moved.hours.fallback_time_zone = zone
    return moved


def limit_of(limit: policy_pb2.Limit, policy: str = "", zone: str = "UTC") -> Limit:
    """A limit as an account that lives in a zone has it."""
    limit = in_zone(limit, zone)
    applies_to = conditions_of(limit.applies_to)
    counts = conditions_of(limit.counts) if limit.HasField("counts") else applies_to
    kind, max_count, ramp, hours = None, 0, None, None
    if limit.HasField("hours"):
        hours = hours_of(limit.hours)
    elif limit.HasField("pause"):
        pause = limit.pause
        max_count = pause.after_count
        kind = Kind(RUN, frozenset(pause.per), Rolling(pause.duration.ToMilliseconds()), counts)
    else:
        cap = limit.cap
        max_count = cap.max_count
        kind = Kind(cap.measure, frozenset(cap.per), window_of(cap.window), counts)
        ramp = ramp_of(cap.ramp) if cap.HasField("ramp") else None
    return Limit(
        policy, limit.limit_id, kind, max_count, limit.enforcement, applies_to, ramp, hours
    )


@dataclass(frozen=True, slots=True)
class Message:
    """One allowed attempt. It counts at at_ms, and was decided then unless `decided_ms` says that
    it was recorded later. One that is held counts until lapse_ms."""

    at_ms: int
    fields: Fields
    message_count: int
    decided_ms: int = 0
    lapse_ms: int | None = None
    cancelled: bool = False


# --------------------------------------------------------------------------- one limit


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as it stands in one counter."""

    at_ms: int
    exit_ms: int
    late_exit_ms: int
    message_count: int
    member: str
    lapse_ms: int | None = None

    def leaves_ms(self, late: bool) -> int:
        return self.late_exit_ms if late else self.exit_ms


@dataclass(frozen=True, slots=True)
class Standing:
    """How one limit stands towards one attempt: the entries of the counter that the attempt's
    fields select (None when it cannot be told which counter that is)."""

    limit: Limit
    entries: Sequence[Entry] | None
    member: str | None
    message_count: int
    counted: bool  # whether the counter would count the attempt
    contact_zone: str = ""

    @property
    def kind(self) -> Kind:
        assert self.limit.kind is not None
        return self.limit.kind

    def run(self, t: int) -> list[tuple[int, int]]:
        """The run at t, of a pause: (instant, messages), the newest first."""
        assert self.entries is not None
        sent = [
            (entry.at_ms, entry.message_count)
            for entry in self.entries
            if entry.lapse_ms is None or entry.lapse_ms > t
        ]
        assert isinstance(self.kind.window, Rolling)
        return run_at(sent, self.kind.window.duration_ms, t)

    @property
    def denies_when_full(self) -> bool:
        return self.limit.enforcement == ENFORCED and self.entries is not None

    def used(self, t: int, late: bool) -> int:
        assert self.entries is not None
        if self.limit.hours is not None:
            return 0
        if self.kind.measure == RUN:
            return sum(count for _, count in self.run(t))
        inside = [entry for entry in self.entries if entry.leaves_ms(late) > t]
        if self.kind.measure == MESSAGES:
            return sum(entry.message_count for entry in inside)
        return len({entry.member for entry in inside})

    def over_max(self) -> bool:
        """Whether the attempt is larger than the cap itself and never passes."""
        if self.limit.hours is not None:
            return False
        if self.limit.max_count == 0:
            return True
        return self.kind.sums and self.message_count > self.limit.max_count

    def fits(self, t: int, late: bool) -> bool:
        """Whether the attempt fits at t, as if the counter counted it. A message cap of up to
        1,440 is exact whatever the traffic."""
        assert self.entries is not None
        hours = self.limit.hours
        if hours is not None:
            return hours.open(hours.zone_for(self.contact_zone), t)
        max_count = self.limit.max_at(t)
        if self.over_max() or max_count == 0:
            return False
        if self.kind.sums:
            late = late and max_count > EXACT_ENTRIES
            return self.used(t, late) + self.message_count <= max_count
        known = any(e.member == self.member and e.leaves_ms(late) > t for e in self.entries)
        return known or self.used(t, late) + 1 <= max_count

    def exits(self, t: int, late: bool) -> set[int]:
        """The only instants after t at which the counter of this limit can change by itself."""
        assert self.entries is not None
        if self.limit.kind is not None and self.kind.measure == RUN:
            ends = {self.kind.window.exit_ms(entry.at_ms) for entry in self.entries}
            ends |= {entry.lapse_ms for entry in self.entries if entry.lapse_ms is not None}
            return {end_ms for end_ms in ends if end_ms > t}
        return {entry.leaves_ms(late) for entry in self.entries if entry.leaves_ms(late) > t}

    def turns(self, t: int) -> Iterator[int]:
        """The only instants after t, in order, at which the limit itself may change."""
        hours, ramp = self.limit.hours, self.limit.ramp
        if hours is not None:
            return hours.turns(hours.zone_for(self.contact_zone), t)
        return iter(()) if ramp is None else ramp.turns(t)

    def reset_ms(self, t: int, late: bool) -> int | None:
        """The earliest instant at which `used` falls; read late, the latest at which it may fall
        first in any counter between the two readings."""
        if late and self.kind.measure == MESSAGES:
            assert self.entries is not None
            inside = [entry.late_exit_ms for entry in self.entries if entry.exit_ms > t]
            return min(inside, default=None)
        used = self.used(t, late)
        changes = sorted(self.exits(t, late))
        return next((instant for instant in changes if self.used(instant, late) < used), None)

    @property
    def reason(self) -> decision_pb2.Reason.ValueType:
        """Why the attempt does not fit."""
        if self.limit.hours is not None:
            return decision_pb2.REASON_HOURS
        if self.over_max():
            return decision_pb2.REASON_MESSAGE_COUNT_OVER_MAX
        return FULL_REASONS[self.kind.measure]

    def after(self, at_ms: int, lapse_ms: int | None = None) -> Standing:
        """The same limit once the attempt is counted, if its counter counts it."""
        if not self.counted or self.entries is None:
            return self
        assert self.member is not None
        exit_ms = self.kind.window.exit_ms(at_ms)
        if lapse_ms is not None:
            exit_ms = min(exit_ms, lapse_ms)
        entry = Entry(at_ms, exit_ms, exit_ms, self.message_count, self.member, lapse_ms)
        entries = sorted([*self.entries, entry], key=lambda each: each.at_ms)
        return replace(self, entries=entries)

    def record(self, at_ms: int, now_ms: int, late: bool) -> decision_pb2.LimitStatus:
        """What is shown of this limit when a message is recorded that went out at at_ms: the counts
        after it, and whether it was too much."""
        if self.entries is None:
            return self.status(now_ms, False, late)
        standing, fits = self, self.fits(now_ms, late)
        if self.limit.hours is not None:
            fits = self.limit.hours.open(self.limit.hours.zone_for(self.contact_zone), at_ms)
        elif self.kind.window.exit_ms(at_ms) > now_ms:
            standing = self.after(at_ms)
        else:
            # It is outside already and adds nothing.
            fits = self.used(now_ms, late) <= self.limit.max_at(now_ms)
        status = standing._counts(now_ms, late)
        status.reason = decision_pb2.REASON_WITHIN_LIMITS if fits else self.reason
        status.exceeded = not fits
        return status

    def status(
        self, now_ms: int, allowed: bool, late: bool, lapse_ms: int | None = None
    ) -> decision_pb2.LimitStatus:
        """What a decision shows of this limit: the counts after the attempt, if it is allowed and
        counted here."""
        if self.entries is None:
            status = self._blank(now_ms)
            status.reason = decision_pb2.REASON_NOT_EVALUATED
            return status
        standing = self.after(now_ms, lapse_ms) if allowed else self
        status = standing._counts(now_ms, late)
        fits = self.fits(now_ms, late)
        status.reason = decision_pb2.REASON_WITHIN_LIMITS if fits else self.reason
        status.exceeded = not fits
        return status

    def usage(self, now_ms: int, late: bool) -> decision_pb2.LimitStatus:
        """What GetUsage shows of this limit: the counts as they are, and whether they are over."""
        status = self.status(now_ms, False, late)
        if self.entries is not None and self.limit.hours is None:
            status.exceeded = status.used_count > status.max_count
        return status

    def _blank(self, now_ms: int) -> decision_pb2.LimitStatus:
        return decision_pb2.LimitStatus(
            policy=self.limit.policy,
            limit_id=self.limit.limit_id,
            max_count=self.limit.max_at(now_ms),
            enforcement=self.limit.enforcement,
        )

    def _counts(self, now_ms: int, late: bool) -> decision_pb2.LimitStatus:
        status = self._blank(now_ms)
        if self.limit.hours is not None:
            return status
        status.used_count = self.used(now_ms, late)
        status.remaining_count = max(0, status.max_count - status.used_count)
        set_time(status.reset_time, self.reset_ms(now_ms, late))
        return status


def set_time(timestamp: timestamp_pb2.Timestamp, instant_ms: int | None) -> None:
    if instant_ms is not None:
        timestamp.FromMilliseconds(instant_ms)


def changes_of(standings: Sequence[Standing], t: int, late: bool) -> Iterator[int]:
    """The only instants after t, in order, at which anything about these limits can change by
    itself."""
    exits = set[int]().union(*(standing.exits(t, late) for standing in standings))
    return heapq.merge(sorted(exits), *(standing.turns(t) for standing in standings))


def first_passing(standings: Sequence[Standing], now_ms: int, late: bool) -> int | None:
    """The earliest instant, at most 400 days ahead, at which the attempt fits all these limits at
    once if nothing else is sent: tried at every instant at which anything changes."""
    if any(standing.over_max() for standing in standings):
        return None
    if all(standing.fits(now_ms, late) for standing in standings):
        return now_ms
    for instant in changes_of(standings, now_ms, late):
        if instant > now_ms + RETRY_REACH_MS:
            return None
        if all(standing.fits(instant, late) for standing in standings):
            return instant
    return None
