"""Between the messages of the API and the domain, in both directions, in this one place.

In flow decoded messages and the path of the field that they came in; out flow the values of
`limiter.model`, and the other way round. Reading a message checks its form (a known enum number, a
oneof that is set, a duration in whole milliseconds, lists that are not too long, nothing that is
not served yet); what the values may be is checked by the model. Writing needs no checks.

What always holds: a value that is written and read again is the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from limiter import bounds, errors, model, timing, zones
from limiter.journal_v1 import revision_pb2
from limiter.v1 import access_pb2, account_pb2, attempt_pb2, policy_pb2

_Number = TypeVar("_Number", bound=IntEnum)


def _member(numbers: type[_Number], number: int, field: str) -> _Number:
    """The member of the enum with that number; an error that lists the names otherwise."""
    try:
        return numbers(number)
    except ValueError:
        known = ", ".join(member.name for member in numbers)
        if number == 0:
            raise model.missing(field, f"set one of {known}") from None
        raise errors.InvalidArgument.for_field(
            field, f"{number} is not a known number; set one of {known}"
        ) from None


# --- Times ----------------------------------------------------------------------------------------


def timestamp_from_ms(instant_ms: int) -> Timestamp:
    """The Timestamp of an instant in milliseconds since 1970."""
    seconds, rest_ms = divmod(instant_ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def ms_from_timestamp(timestamp: Timestamp) -> int:
    """Milliseconds since 1970, rounded down."""
    return timestamp.seconds * 1000 + timestamp.nanos // 1_000_000


def _duration_from_ms(duration_ms: int) -> Duration:
    seconds, rest_ms = divmod(duration_ms, 1000)
    return Duration(seconds=seconds, nanos=rest_ms * 1_000_000)


def ms_from_duration(duration: Duration, field: str) -> int:
    """Whole milliseconds; refuses what a Duration cannot mean and what is finer."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise errors.InvalidArgument.for_field(
            field, "not a Duration: nanos are below a second and have the sign of the seconds"
        )
    if nanos % 1_000_000:
        raise errors.InvalidArgument.for_field(
            field, f"a duration is a whole number of milliseconds; {nanos} ns are not"
        )
    return seconds * 1000 + nanos // 1_000_000


# --- Limits ---------------------------------------------------------------------------------------


def window_from_message(message: policy_pb2.Window, field: str) -> model.Window:
    """The window that a message describes. Raises `InvalidArgument` for one without a span."""
    if message.HasField("rolling"):
        return model.RollingWindow(ms_from_duration(message.rolling, f"{field}.rolling"))
    if message.HasField("calendar"):
        calendar = message.calendar
        return model.CalendarWindow(
            _member(model.CalendarUnit, calendar.unit, f"{field}.calendar.unit"),
            calendar.time_zone or zones.UTC,
            calendar.count or 1,
        )
    raise model.missing(field, "set rolling or calendar")


def window_to_message(window: model.Window) -> policy_pb2.Window:
    """The message that describes the window."""
    if isinstance(window, model.RollingWindow):
        return policy_pb2.Window(rolling=_duration_from_ms(window.duration_ms))
    return policy_pb2.Window(
        calendar=policy_pb2.Calendar(
            unit=policy_pb2.CalendarUnit.ValueType(window.unit),
            time_zone=window.time_zone,
            count=window.count,
        )
    )


def match_from_message(message: policy_pb2.Match, field: str) -> model.Match:
    """The conditions of a match."""
    model.check_count(len(message.conditions), bounds.MATCH_CONDITIONS_MAX, f"{field}.conditions")
    return tuple(
        model.Condition(
            _member(model.Dimension, condition.dimension, f"{field}.conditions[{index}].dimension"),
            tuple(condition.values),
            condition.negate,
        )
        for index, condition in enumerate(message.conditions)
    )


def match_to_message(match: model.Match) -> policy_pb2.Match:
    """The message of the conditions."""
    return policy_pb2.Match(
        conditions=[
            policy_pb2.Condition(
                dimension=attempt_pb2.Dimension.ValueType(condition.dimension),
                values=condition.values,
                negate=condition.negate,
            )
            for condition in match
        ]
    )


def _per_from_message(numbers: Sequence[int], field: str) -> tuple[model.Dimension, ...]:
    model.check_count(len(numbers), bounds.PER_DIMENSIONS_MAX, field)
    return tuple(
        _member(model.Dimension, number, f"{field}[{index}]")
        for index, number in enumerate(numbers)
    )


def _per_to_message(
    per: Sequence[model.Dimension],
) -> list[attempt_pb2.Dimension.ValueType]:
    return [attempt_pb2.Dimension.ValueType(dimension) for dimension in per]


def cap_from_message(message: policy_pb2.Cap, field: str) -> model.Cap:
    """The cap that a message describes."""
    measure = _member(model.Measure, message.measure, f"{field}.measure")
    per = _per_from_message(message.per, f"{field}.per")
    if not message.HasField("window"):
        raise model.missing(f"{field}.window", "set rolling or calendar")
    window = window_from_message(message.window, f"{field}.window")
    ramp = None
    if message.HasField("ramp"):
        ramp = _ramp_from_message(message.ramp, f"{field}.ramp")
    return model.Cap(measure, message.max_count, per, window, ramp)


def cap_to_message(cap: model.Cap) -> policy_pb2.Cap:
    """The message that describes the cap."""
    return policy_pb2.Cap(
        measure=policy_pb2.Measure.ValueType(cap.measure),
        max_count=cap.max_count,
        per=_per_to_message(cap.per),
        window=window_to_message(cap.window),
        ramp=None if cap.ramp is None else _ramp_to_message(cap.ramp),
    )


def _ramp_from_message(message: policy_pb2.Ramp, field: str) -> timing.Ramp:
    zone = message.time_zone or zones.UTC
    if message.HasField("daily_step"):
        daily = message.daily_step
        return timing.Ramp(
            timing.DailyStep(daily.start_date, daily.start_count, daily.step_count), zone
        )
    if message.HasField("tiers"):
        found = message.tiers.tiers
        model.check_count(len(found), bounds.RAMP_TIERS_MAX, f"{field}.tiers.tiers")
        tiers = (timing.Tier(each.start_date, each.max_count) for each in found)
        return timing.Ramp(timing.Tiers(tuple(tiers)), zone)
    raise model.missing(field, "set daily_step or tiers")


def _ramp_to_message(ramp: timing.Ramp) -> policy_pb2.Ramp:
    schedule = ramp.schedule
    if isinstance(schedule, timing.Tiers):
        tiers = policy_pb2.Ramp.Tiers(
            tiers=[
                policy_pb2.Ramp.Tier(start_date=each.start_date, max_count=each.max_count)
                for each in schedule.tiers
            ]
        )
        return policy_pb2.Ramp(time_zone=ramp.time_zone, tiers=tiers)
    daily_step = policy_pb2.Ramp.DailyStep(
        start_date=schedule.start_date,
        start_count=schedule.start_count,
        step_count=schedule.step_count,
    )
    return policy_pb2.Ramp(time_zone=ramp.time_zone, daily_step=daily_step)


def pause_from_message(message: policy_pb2.Pause, field: str) -> timing.Pause:
    """The pause that a message describes."""
    if not message.HasField("duration"):
        raise model.missing(f"{field}.duration", "how long is the break?")
    return timing.Pause(
        message.after_count,
        ms_from_duration(message.duration, f"{field}.duration"),
        _per_from_message(message.per, f"{field}.per"),
    )


def pause_to_message(pause: timing.Pause) -> policy_pb2.Pause:
    """The message that describes the pause."""
    return policy_pb2.Pause(
        after_count=pause.after_count,
        duration=_duration_from_ms(pause.duration_ms),
        per=_per_to_message(pause.per),
    )


def hours_from_message(message: policy_pb2.Hours, field: str) -> timing.Hours:
    """The hours that a message describes."""
    model.check_count(len(message.ranges), bounds.HOURS_RANGES_MAX, f"{field}.ranges")
    ranges = []
    for index, each in enumerate(message.ranges):
        days_field = f"{field}.ranges[{index}].days"
        model.check_count(len(each.days), len(timing.DayOfWeek), days_field)
        days = tuple(
            _member(timing.DayOfWeek, number, f"{days_field}[{place}]")
            for place, number in enumerate(each.days)
        )
        ranges.append(timing.Range(days, each.start_minute, each.end_minute))
    return timing.Hours(tuple(ranges), message.time_zone or zones.UTC, message.fallback_time_zone)


def hours_to_message(hours: timing.Hours) -> policy_pb2.Hours:
    """The message that describes the hours."""
    return policy_pb2.Hours(
        time_zone=hours.time_zone,
        fallback_time_zone=hours.fallback_time_zone,
        ranges=[
            policy_pb2.Hours.Range(
                days=[policy_pb2.DayOfWeek.ValueType(day) for day in each.days],
                start_minute=each.start_minute,
                end_minute=each.end_minute,
            )
            for each in hours.ranges
        ],
    )


def _rule_from_message(
    message: policy_pb2.Limit, field: str
) -> model.Cap | timing.Pause | timing.Hours:
    rule = message.WhichOneof("rule")
    if rule == "cap":
        return cap_from_message(message.cap, f"{field}.cap")
    if rule == "pause":
        return pause_from_message(message.pause, f"{field}.pause")
    if rule == "hours":
        return hours_from_message(message.hours, f"{field}.hours")
    raise model.missing(f"{field}.cap", "a limit needs a rule; set cap, pause or hours")


def limit_from_message(message: policy_pb2.Limit, field: str) -> model.Limit:
    """The limit that a message describes."""
    return model.Limit(
        limit_id=message.limit_id,
        rule=_rule_from_message(message, field),
        applies_to=match_from_message(message.applies_to, f"{field}.applies_to"),
        counts=(
            match_from_message(message.counts, f"{field}.counts")
            if message.HasField("counts")
            else None
        ),
        enforcement=_member(model.Enforcement, message.enforcement, f"{field}.enforcement"),
    )


def limit_to_message(limit: model.Limit) -> policy_pb2.Limit:
    """The message that describes the limit."""
    rule = limit.rule
    return policy_pb2.Limit(
        limit_id=limit.limit_id,
        cap=cap_to_message(rule) if isinstance(rule, model.Cap) else None,
        pause=pause_to_message(rule) if isinstance(rule, timing.Pause) else None,
        hours=hours_to_message(rule) if isinstance(rule, timing.Hours) else None,
        applies_to=match_to_message(limit.applies_to) if limit.applies_to else None,
        counts=None if limit.counts is None else match_to_message(limit.counts),
        enforcement=policy_pb2.Enforcement.ValueType(limit.enforcement),
    )


# --- Kinds of counters ----------------------------------------------------------------------------


def kind_to_bytes(kind: model.CounterKind | model.RunKind) -> bytes:
    """The canonical bytes of a kind: equal kinds give equal bytes, and only they."""
    message = revision_pb2.CounterKind(counts=match_to_message(kind.counts))
    if isinstance(kind, model.RunKind):
        message.pause.CopyFrom(pause_to_message(timing.Pause(0, kind.duration_ms, kind.per)))
    else:
        message.cap.CopyFrom(cap_to_message(model.Cap(kind.measure, 0, kind.per, kind.window)))
    return message.SerializeToString(deterministic=True)


def kind_from_bytes(definition: bytes) -> model.CounterKind | model.RunKind:
    """The kind with these canonical bytes. Raises `ValueError` for bytes that are not canonical."""
    kind: model.CounterKind | model.RunKind
    try:
        message = revision_pb2.CounterKind.FromString(definition)
        counts = model.canonical_match(match_from_message(message.counts, "counts"))
        if message.HasField("pause"):
            pause = pause_from_message(message.pause, "pause")
            kind = model.RunKind(pause.duration_ms, tuple(sorted(pause.per)), counts)
        else:
            cap = cap_from_message(message.cap, "cap")
            kind = model.CounterKind(cap.measure, tuple(sorted(cap.per)), cap.window, counts)
    except (errors.InvalidArgument, DecodeError) as error:
        raise ValueError(f"not a kind of counter: {error}") from error
    if kind_to_bytes(kind) != definition:
        raise ValueError("not the canonical definition of a kind of counter")
    return kind


# --- Policies and assignments ---------------------------------------------------------------------


def policy_from_message(message: policy_pb2.Policy, field: str) -> model.Policy:
    """The policy that a message describes, with its etag; output only times are ignored."""
    model.check_count(
        len(message.access_groups), bounds.POLICY_GROUPS_MAX, f"{field}.access_groups"
    )
    model.check_count(len(message.limits), bounds.POLICY_LIMITS_MAX, f"{field}.limits")
    return model.Policy(
        name=message.name,
        display_name=message.display_name,
        limits=tuple(
            limit_from_message(limit, f"{field}.limits[{index}]")
            for index, limit in enumerate(message.limits)
        ),
        access_groups=tuple(message.access_groups),
        etag=message.etag,
    )


def policy_to_message(policy: model.Policy) -> policy_pb2.Policy:
    """The message that describes the policy, with etag and times as far as it has them."""
    return policy_pb2.Policy(
        name=policy.name,
        display_name=policy.display_name,
        limits=[limit_to_message(limit) for limit in policy.limits],
        access_groups=policy.access_groups,
        etag=policy.etag,
        create_time=_stored_time(policy.create_ms),
        update_time=_stored_time(policy.update_ms),
    )


def scope_from_message(message: policy_pb2.Scope) -> model.Scope:
    """The scope that a message describes."""
    return model.Scope(message.account, message.resource, message.campaign)


def assignment_from_message(message: policy_pb2.Assignment) -> model.Assignment:
    """The assignment that a message describes, with its etag; what is output only is ignored."""
    return model.Assignment(
        name=message.name,
        policy=message.policy,
        scope=scope_from_message(message.scope),
        mandatory=message.mandatory,
        etag=message.etag,
    )


def assignment_to_message(
    assignment: model.Assignment, rebuilding: bool = False
) -> policy_pb2.Assignment:
    """The message that describes the assignment, with etag and times as far as it has them.
    `rebuilding` says that some of its limits do not bind yet."""
    scope = assignment.scope
    return policy_pb2.Assignment(
        name=assignment.name,
        policy=assignment.policy,
        scope=policy_pb2.Scope(
            account=scope.account, resource=scope.resource, campaign=scope.campaign
        ),
        mandatory=assignment.mandatory,
        state=(
            policy_pb2.ASSIGNMENT_STATE_REBUILDING
            if rebuilding
            else policy_pb2.ASSIGNMENT_STATE_ACTIVE
        ),
        etag=assignment.etag,
        create_time=_stored_time(assignment.create_ms),
        update_time=_stored_time(assignment.update_ms),
    )


def group_from_message(message: access_pb2.Group, field: str) -> model.Group:
    """The group that a message describes, with its etag; output only times are ignored."""
    model.check_count(len(message.resources), bounds.GROUP_LABELS_MAX, f"{field}.resources")
    model.check_count(len(message.campaigns), bounds.GROUP_LABELS_MAX, f"{field}.campaigns")
    return model.Group(
        name=message.name,
        display_name=message.display_name,
        resources=tuple(message.resources),
        campaigns=tuple(message.campaigns),
        etag=message.etag,
    )


def group_to_message(group: model.Group) -> access_pb2.Group:
    """The message that describes the group, with etag and times as far as it has them."""
    return access_pb2.Group(
        name=group.name,
        display_name=group.display_name,
        resources=group.resources,
        campaigns=group.campaigns,
        etag=group.etag,
        create_time=_stored_time(group.create_ms),
        update_time=_stored_time(group.update_ms),
    )


def account_from_message(message: account_pb2.Account, field: str) -> model.Account:
    """The account that a message describes, with its etag; output only times are ignored."""
    categories_field = f"{field}.allowed_categories"
    model.check_count(
        len(message.allowed_categories), bounds.ALLOWED_CATEGORIES_MAX, categories_field
    )
    return model.Account(
        name=message.name,
        time_zone=message.time_zone,
        allowed_categories=tuple(message.allowed_categories),
        etag=message.etag,
    )


def account_to_message(account: model.Account) -> account_pb2.Account:
    """The message that describes the account, with etag and time as far as it has them."""
    return account_pb2.Account(
        name=account.name,
        time_zone=account.time_zone,
        allowed_categories=account.allowed_categories,
        etag=account.etag,
        update_time=_stored_time(account.update_ms),
    )


def _stored_time(instant_ms: int) -> Timestamp | None:
    return None if instant_ms == model.UNSTORED_MS else timestamp_from_ms(instant_ms)


# --- Revisions ------------------------------------------------------------------------------------


def revision_to_bytes(revision: model.Revision) -> bytes:
    """The bytes that the journal keeps of a revision."""
    return revision_pb2.PolicyRevision(
        revision=revision.number,
        time=timestamp_from_ms(revision.time_ms),
        put_policies=[policy_to_message(policy) for policy in revision.put_policies],
        put_assignments=[assignment_to_message(each) for each in revision.put_assignments],
        deleted_policies=revision.deleted_policies,
        deleted_assignments=revision.deleted_assignments,
        author=revision.author,
        put_groups=[group_to_message(group) for group in revision.put_groups],
        deleted_groups=revision.deleted_groups,
        put_accounts=[account_to_message(account) for account in revision.put_accounts],
    ).SerializeToString(deterministic=True)


def revision_from_bytes(payload: bytes) -> model.Revision:
    """The revision that the journal kept. Raises `ValueError` for bytes that are none."""
    try:
        message = revision_pb2.PolicyRevision.FromString(payload)
        return model.Revision(
            number=message.revision,
            time_ms=ms_from_timestamp(message.time),
            put_policies=tuple(
                replace(
                    policy_from_message(policy, f"put_policies[{index}]"),
                    create_ms=ms_from_timestamp(policy.create_time),
                    update_ms=ms_from_timestamp(policy.update_time),
                )
                for index, policy in enumerate(message.put_policies)
            ),
            put_assignments=tuple(
                replace(
                    assignment_from_message(assignment),
                    create_ms=ms_from_timestamp(assignment.create_time),
                    update_ms=ms_from_timestamp(assignment.update_time),
                )
                for assignment in message.put_assignments
            ),
            deleted_policies=tuple(message.deleted_policies),
            deleted_assignments=tuple(message.deleted_assignments),
            author=message.author,
            put_groups=tuple(
                replace(
                    group_from_message(group, f"put_groups[{index}]"),
                    create_ms=ms_from_timestamp(group.create_time),
                    update_ms=ms_from_timestamp(group.update_time),
                )
                for index, group in enumerate(message.put_groups)
            ),
            deleted_groups=tuple(message.deleted_groups),
            put_accounts=tuple(
                replace(
                    account_from_message(account, f"put_accounts[{index}]"),
                    update_ms=ms_from_timestamp(account.update_time),
                )
                for index, account in enumerate(message.put_accounts)
            ),
        )
    except (errors.InvalidArgument, DecodeError) as error:
        raise ValueError(f"not a policy revision: {error}") from error
