"""Limits, policies and assignments for tests: short builders, and strategies of sound values."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from limiter import bounds, model
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


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    """A sound limit."""
    measure = draw(st.sampled_from(Measure))
    max_count = draw(st.sampled_from([0, 1, bounds.CAP_MAX_COUNT_MAX]))
    return Limit(
        draw(ids),
        Cap(measure, max_count, draw(_pers[measure]), draw(windows)),
        draw(matches),
        draw(st.none() | matches),
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
