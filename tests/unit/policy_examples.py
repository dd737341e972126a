"""Limits, policies and assignments for tests: short builders, and strategies of sound values."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from limiter import bounds, kinds, model
from limiter._kinds import Kind
from limiter.model import (
    Assignment,
    CalendarUnit,
    CalendarWindow,
    Cap,
    Condition,
    Dimension,
    Enforcement,
    Limit,
    Measure,
    Policy,
    RollingWindow,
    Scope,
)
from limiter.timing import DailyStep, DayOfWeek, Hours, Pause, Ramp, Range, Tier, Tiers

DAY = RollingWindow(bounds.DAY_MS)


def limit(
    limit_id: str = "cap",
    max_count: int = 10,
    measure: Measure = Measure.MESSAGES,
    per: tuple[Dimension, ...] = (),
    window: model.Window = DAY,
) -> Limit:
    """A limit without conditions."""
    return Limit(limit_id, Cap(measure, max_count, per, window))


def policy(policy_id: str, *limits: Limit, account: str = "", display_name: str = "") -> Policy:
    """A policy of the account, or of everybody."""
    return Policy(model.child_name(account, "policies", policy_id), display_name, limits)


def assignment(
    assignment_id: str, assigned: Policy, scope: Scope = model.GLOBAL_SCOPE, mandatory: bool = False
) -> Assignment:
    """An assignment in the scope's account."""
    name = model.child_name(scope.account, "assignments", assignment_id)
    return Assignment(name, assigned.name, scope, mandatory)


def cap_of(capped: Limit) -> Cap:
    """The cap of a limit that is one."""
    assert isinstance(capped.rule, Cap)
    return capped.rule


def kind_of(counting: Limit) -> Kind:
    """The kind that a limit with a counter reads."""
    kind = kinds.kind_of(counting)
    assert kind is not None
    return kind


def described_kind_of(counting: Limit) -> model.CounterKind | model.RunKind:
    """The same as a plain value."""
    assert counting.kind is not None
    return counting.kind


# --- Strategies -----------------------------------------------------------------------------------

# For tests whose examples are large and alike: drawing them takes longer than the test itself.
few = settings(max_examples=max(settings().max_examples // 4, 1))

# Small pools where any value is as good as another: they make collisions, and drawing is quick.

ids = st.sampled_from(["a", "b", "a-1", "z" * 63])
accounts = st.sampled_from(["a", "Z9", "._~@+-", "a" * 128])
texts = st.sampled_from(["", "Day cap", " é€😀/\n\0"])
labels = st.sampled_from(["a", "b", " ", "é€😀", "/\n\0", "x" * 256])
windows: st.SearchStrategy[model.Window] = st.sampled_from(
    [
        *(
            RollingWindow(duration_ms)
            for duration_ms in (1, 999, bounds.DAY_MS, bounds.WINDOW_MS_MAX)
        ),
        *(
            CalendarWindow(unit, zone, count)
            for unit in CalendarUnit
            for zone in ("UTC", "Australia/Lord_Howe")
            for count in (1, bounds.CALENDAR_COUNT_MAX[unit])
        ),
    ]
)
conditions = st.builds(
    Condition,
    st.sampled_from([Dimension.CONTACT, Dimension.SOURCE, Dimension.CATEGORY]),
    st.sampled_from([("a",), ("a", "b"), ("b", "a"), ("é€😀", "/\n\0", "x" * 256)]),
    st.booleans(),
)
matches = st.lists(conditions, max_size=2).map(tuple)


def _sound_pers(measure: Measure) -> st.SearchStrategy[tuple[Dimension, ...]]:
    allowed = [each for each in Dimension if each is not model.MEASURED_DIMENSION.get(measure)]
    pairs = [(one, other) for one in allowed for other in allowed if one is not other]
    return st.sampled_from([(), *((one,) for one in allowed), *pairs, tuple(allowed)])


_pers = {measure: _sound_pers(measure) for measure in Measure}


zone_names = st.sampled_from(["UTC", "Australia/Lord_Howe"])
ramps = st.builds(
    Ramp,
    st.sampled_from(
        [
            DailyStep("2025-02-28", 0, 1),
            DailyStep("1970-01-01", 50, bounds.CAP_MAX_COUNT_MAX),
            Tiers((Tier("2025-03-01", 10),)),
            Tiers((Tier("2024-02-29", 10), Tier("2024-03-01", 0), Tier("2100-12-31", 7))),
        ]
    ),
    zone_names,
)
pauses = st.builds(
    Pause,
    st.sampled_from([1, bounds.PAUSE_AFTER_COUNT_MAX]),
    st.sampled_from([1, bounds.MINUTE_MS, bounds.PAUSE_MS_MAX]),
    st.sampled_from([(), (Dimension.CONTACT,), (Dimension.AGENT, Dimension.CONTACT)]),
)
ranges = st.sampled_from(
    [
        (Range((DayOfWeek.MONDAY,), 0, 1440),),
        (Range(tuple(DayOfWeek), 1439, 1), Range((DayOfWeek.SUNDAY,), 600, 600)),
    ]
)
hours = st.builds(Hours, ranges, zone_names) | st.builds(
    Hours, ranges, st.just("RECIPIENT"), zone_names
)


@st.composite
def caps(draw: st.DrawFn) -> Cap:
    """A sound cap."""
    measure = draw(st.sampled_from(Measure))
    max_count = draw(st.sampled_from([0, 1, bounds.CAP_MAX_COUNT_MAX]))
    return Cap(measure, max_count, draw(_pers[measure]), draw(windows), draw(st.none() | ramps))


@st.composite
def limits(draw: st.DrawFn, counting: bool = False) -> Limit:
    """A sound limit; `counting` makes it one that reads a counter."""
    rule = draw(st.one_of(caps(), caps(), pauses, *([] if counting else [hours])))
    return Limit(
        draw(ids),
        rule,
        draw(matches),
        None if isinstance(rule, Hours) else draw(st.none() | matches),
        draw(st.sampled_from(Enforcement)),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A sound policy."""
    account = draw(st.just("") | accounts)
    unique = st.lists(limits(), max_size=3, unique_by=lambda each: each.limit_id).map(tuple)
    return Policy(model.child_name(account, "policies", draw(ids)), draw(texts), draw(unique))


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    """A sound assignment."""
    account = draw(st.just("") | accounts)
    place = draw(st.sampled_from(["account", "resource", "campaign"])) if account else ""
    scope = Scope(
        account,
        draw(labels) if place == "resource" else "",
        draw(labels) if place == "campaign" else "",
    )
    owner = draw(st.sampled_from(["", account]))
    return Assignment(
        model.child_name(account, "assignments", draw(ids)),
        model.child_name(owner, "policies", draw(ids)),
        scope,
        draw(st.booleans()),
    )
