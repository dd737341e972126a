"""Limits, scopes and reasons in words."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.cli.durations import DAY_MS, in_words
from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2

_MEASURES = {
    policy_pb2.MEASURE_MESSAGES: ("message", "messages"),
    policy_pb2.MEASURE_CONTACTS: ("contact", "contacts"),
    policy_pb2.MEASURE_ADDRESSES: ("address", "addresses"),
}
_UNITS = {
    policy_pb2.CALENDAR_UNIT_HOUR: "hour",
    policy_pb2.CALENDAR_UNIT_DAY: "day",
    policy_pb2.CALENDAR_UNIT_WEEK: "week",
    policy_pb2.CALENDAR_UNIT_MONTH: "month",
}
_ENFORCEMENTS = {
    policy_pb2.ENFORCEMENT_ENFORCED: "enforced",
    policy_pb2.ENFORCEMENT_GOAL: "goal",
    policy_pb2.ENFORCEMENT_SHADOW: "shadow",
}
_REASONS = {
    decision_pb2.REASON_WITHIN_LIMITS: "within all limits",
    decision_pb2.REASON_NO_POLICY: "no policy is assigned, so nothing limits it",
    decision_pb2.REASON_NOT_EVALUATED: "not evaluated: the attempt lacks a field",
    decision_pb2.REASON_MESSAGE_COUNT_OVER_MAX: "the attempt is larger than the cap itself",
    decision_pb2.REASON_OPTED_OUT: "the contact or the address has opted out",
    decision_pb2.REASON_CONTACT_CAP: "the cap on contacts is full",
    decision_pb2.REASON_ADDRESS_CAP: "the cap on addresses is full",
    decision_pb2.REASON_MESSAGE_CAP: "the cap on messages is full",
    decision_pb2.REASON_PAUSE: "a break is due",
    decision_pb2.REASON_HOURS: "it is outside the hours",
    decision_pb2.REASON_BATCH_REJECTED: "another recipient of the batch was denied",
    decision_pb2.REASON_POLICY_REQUIRED: "no policy is assigned, and the server requires one",
}
_COUNTED = {
    decision_pb2.REASON_CONTACT_CAP: "contacts",
    decision_pb2.REASON_ADDRESS_CAP: "addresses",
    decision_pb2.REASON_MESSAGE_CAP: "messages",
    decision_pb2.REASON_PAUSE: "messages in a row",
}


def measure_in_words(measure: policy_pb2.Measure.ValueType, count: int) -> str:
    """What a cap counts: "messages", "contacts" or "addresses"; of one: "message" and so on."""
    words = _MEASURES.get(measure)
    if words is None:
        return f"of measure {measure}"
    return words[0] if count == 1 else words[1]


def enforcement_in_words(enforcement: policy_pb2.Enforcement.ValueType) -> str:
    """The word for it: "enforced", "goal" or "shadow"."""
    return _ENFORCEMENTS.get(enforcement, f"enforcement {enforcement}")


def reason_in_words(reason: decision_pb2.Reason.ValueType) -> str:
    """Why a decision is what it is."""
    return _REASONS.get(reason, f"reason {reason}")


def counted_in_words(reason: decision_pb2.Reason.ValueType) -> str:
    """What the counter behind a denial counts; "used" where the reason does not say."""
    return _COUNTED.get(reason, "messages, contacts or addresses")


def dimension_in_words(dimension: attempt_pb2.Dimension.ValueType) -> str:
    """`DIMENSION_CONTACT` as "contact"."""
    try:
        name = attempt_pb2.Dimension.Name(dimension)
    except ValueError:
        return f"dimension {dimension}"
    return name.removeprefix("DIMENSION_").lower()


def window_in_words(window: policy_pb2.Window) -> str:
    """A window: "any 24 h", "the day in Europe/Berlin" or "the last 7 days in UTC"."""
    if window.HasField("rolling"):
        duration_ms = window.rolling.ToMilliseconds()
        days, rest_ms = divmod(duration_ms, DAY_MS)
        if rest_ms == 0 and days > 0:
            return "any 24 h" if days == 1 else f"any {days} days"
        return f"any {in_words(duration_ms)}"
    calendar = window.calendar
    zone = calendar.time_zone or "UTC"
    unit = _UNITS.get(calendar.unit, f"unit {calendar.unit}")
    if calendar.count > 1:
        return f"the last {calendar.count} {unit}s in {zone}"
    return f"the {unit} in {zone}"


def limit_in_words(limit: policy_pb2.Limit) -> str:
    """One limit in one line: "at most 200 contacts in any 24 h (enforced)"."""
    words = _rule_in_words(limit)
    notes = [enforcement_in_words(limit.enforcement)]
    if limit.HasField("applies_to") and limit.applies_to.conditions:
        notes.append(f"for {_match_in_words(limit.applies_to)}")
    if limit.HasField("counts"):
        counted = _match_in_words(limit.counts) if limit.counts.conditions else "everything"
        notes.append(f"counting {counted}")
    return f"{words} ({', '.join(notes)})"


def scope_in_words(assignment: policy_pb2.Assignment) -> str:
    """What an assignment covers: "everything", "account a", "campaign c of account a"."""
    scope = assignment.scope
    if not scope.account:
        return "everything"
    if scope.campaign:
        return f"campaign {scope.campaign} of account {scope.account}"
    if scope.resource:
        return f"resource {scope.resource} of account {scope.account}"
    return f"account {scope.account}"


def _rule_in_words(limit: policy_pb2.Limit) -> str:
    if limit.HasField("pause"):
        return _pause_in_words(limit.pause)
    if limit.HasField("hours"):
        return _hours_in_words(limit.hours)
    if not limit.HasField("cap"):
        return f"a rule of kind {limit.WhichOneof('rule') or 'unknown'}"
    cap = limit.cap
    counted = f"{cap.max_count:,} {measure_in_words(cap.measure, cap.max_count)}"
    words = f"at most {counted}{_per_in_words(cap.per)} in {window_in_words(cap.window)}"
    return f"{words}, {_ramp_in_words(cap.ramp)}" if cap.HasField("ramp") else words


def _per_in_words(per: Sequence[attempt_pb2.Dimension.ValueType]) -> str:
    return f" per {' and '.join(dimension_in_words(each) for each in per)}" if per else ""


def _ramp_in_words(ramp: policy_pb2.Ramp) -> str:
    zone = ramp.time_zone or "UTC"
    if ramp.HasField("daily_step"):
        daily = ramp.daily_step
        return (
            f"from {daily.start_count:,} on {daily.start_date} up by {daily.step_count:,} a day"
            f" in {zone}"
        )
    tiers = ", ".join(f"{each.max_count:,} from {each.start_date}" for each in ramp.tiers.tiers)
    return f"growing in {zone}: {tiers}"


def _pause_in_words(pause: policy_pb2.Pause) -> str:
    messages = "message" if pause.after_count == 1 else "messages"
    return (
        f"a break of {in_words(pause.duration.ToMilliseconds())} after {pause.after_count:,}"
        f" {messages}{_per_in_words(pause.per)}"
    )


def _hours_in_words(hours: policy_pb2.Hours) -> str:
    zone = hours.time_zone or "UTC"
    if zone == "RECIPIENT":
        zone = f"the recipient's zone, else in {hours.fallback_time_zone}"
    ranges = ", ".join(
        f"{_days_in_words(each.days)} {_minute_in_words(each.start_minute)}-"
        f"{_minute_in_words(each.end_minute)}"
        for each in hours.ranges
    )
    return f"only {ranges} in {zone}"


def _days_in_words(days: Sequence[policy_pb2.DayOfWeek.ValueType]) -> str:
    """Days of the week in order: "Mon-Fri", "Sat Sun", "every day"."""
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    found = sorted(set(days))
    if len(found) == len(names):
        return "every day"
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"{names[found[0] - 1]}-{names[found[-1] - 1]}"
    return " ".join(names[day - 1] for day in found)


def _minute_in_words(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _match_in_words(match: policy_pb2.Match) -> str:
    return " and ".join(
        f"{dimension_in_words(each.dimension)} {'not ' if each.negate else ''}"
        f"{' or '.join(each.values)}"
        for each in match.conditions
    )
