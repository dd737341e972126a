"""Random policies, attempts, batches and clocks.

Names are few, windows are shared and maxima are small, so that limits fill up, counters meet and
attempts repeat; a few of everything are extreme.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.limits import ADDRESS, CONTACT, FIELD_NAMES, MEASURED, Dimension
from tests.model.windows import (
    DAY,
    DAY_MS,
    HOUR,
    HOUR_MS,
    MINUTE_MS,
    MONTH,
    WEEK,
    changes_of_offset,
    instant_of,
)

ACCOUNTS = ("acme", "bolt")
VALUES: dict[Dimension, tuple[str, ...]] = {
    CONTACT: ("ana", "ben", "cleo", "dora", "emil"),
    ADDRESS: ("+1", "+2", "+3"),
    attempt_pb2.DIMENSION_CHANNEL: ("sms", "email"),
    attempt_pb2.DIMENSION_RESOURCE: ("shop", "blog"),
    attempt_pb2.DIMENSION_CAMPAIGN: ("spring", "invoices"),
    attempt_pb2.DIMENSION_AGENT: ("kim", "lee"),
    attempt_pb2.DIMENSION_TEAM: ("north", "south"),
    attempt_pb2.DIMENSION_SOURCE: ("queue", "manual"),
    attempt_pb2.DIMENSION_CATEGORY: ("marketing", "transactional"),
}
DIMENSIONS = sorted(VALUES)
# "" is UTC.
ZONES = ("", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
CALENDAR_COUNTS = {HOUR: (0, 2, 3, 25), DAY: (0, 2, 7, 62), WEEK: (0, 2, 8), MONTH: (0, 2)}
ROLLING_MS = (
    1,
    2,
    10,
    999,
    MINUTE_MS,
    HOUR_MS,
    DAY_MS,
    7 * DAY_MS,
    30 * DAY_MS,
    62 * DAY_MS,
)
# Long enough before the end of all time for every window to pass.
LAST_MS = instant_of(2090)


# --------------------------------------------------------------------------- time


@functools.cache
def turning_points() -> list[int]:
    """When the clocks are put forward or back, in 2024 and 2025, and some ends of months."""
    low, high = instant_of(2024), instant_of(2026)
    points = {instant_of(2024, 3, 1), instant_of(2024, 12, 31, 23), instant_of(2025, 3, 1)}
    for zone in ZONES[1:]:
        points.update(changes_of_offset(zone, low, high))
    # The only change in Kathmandu: a quarter of an hour.
    points.update(changes_of_offset("Asia/Kathmandu", instant_of(1985), instant_of(1987)))
    return sorted(points)


def starts() -> st.SearchStrategy[int]:
    """An instant to start at, often shortly before the clocks change somewhere."""
    near = st.builds(
        lambda point, before_ms: point - before_ms,
        st.deferred(lambda: st.sampled_from(turning_points())),
        st.sampled_from((1, 10, 30 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS)),
    )
    return near | st.integers(instant_of(1971), instant_of(2080))


def moves() -> st.SearchStrategy[int]:
    """How far the clock moves on: not at all, a little, or over hours, days and months."""
    return st.one_of(
        st.sampled_from((0, 0, 1, 1, 2, 9, 10, 998, 999)),
        st.sampled_from(ROLLING_MS).flatmap(lambda ms: st.sampled_from((ms - 1, ms, ms + 1))),
        st.integers(0, 3 * HOUR_MS),
        st.integers(0, 40 * DAY_MS),
    )


# --------------------------------------------------------------------------- policies


def windows() -> st.SearchStrategy[policy_pb2.Window]:
    rolling = (st.sampled_from(ROLLING_MS) | st.integers(1, 62 * DAY_MS)).map(rolling_window)
    calendar = st.sampled_from(sorted(CALENDAR_COUNTS)).flatmap(
        lambda unit: st.builds(
            calendar_window,
            st.just(unit),
            st.sampled_from(ZONES),
            st.sampled_from(CALENDAR_COUNTS[unit]),
        )
    )
    return rolling | calendar


def rolling_window(duration_ms: int) -> policy_pb2.Window:
    duration = Duration()
    duration.FromMilliseconds(duration_ms)
    return policy_pb2.Window(rolling=duration)


def calendar_window(unit: int, zone: str = "", count: int = 0) -> policy_pb2.Window:
    calendar = policy_pb2.Calendar(time_zone=zone, count=count)
    calendar.unit = policy_pb2.CalendarUnit.ValueType(unit)
    return policy_pb2.Window(calendar=calendar)


def matches() -> st.SearchStrategy[policy_pb2.Match]:
    condition = st.sampled_from(DIMENSIONS).flatmap(
        lambda dimension: st.builds(
            policy_pb2.Condition,
            dimension=st.just(dimension),
            values=st.lists(
                st.sampled_from(VALUES[dimension]), min_size=1, max_size=2, unique=True
            ).map(sorted),
            negate=st.booleans(),
        )
    )
    return st.builds(policy_pb2.Match, conditions=st.lists(condition, max_size=2))


@st.composite
def limits(
    draw: st.DrawFn,
    limit_id: str,
    pool: Sequence[policy_pb2.Window],
    conditions: bool = True,
    goals: bool = True,
) -> policy_pb2.Limit:
    """One cap over one of the windows of the pool."""
    measure = draw(st.sampled_from(policy_pb2.Measure.values()[1:]))
    free = [dimension for dimension in DIMENSIONS if dimension != MEASURED.get(measure)]
    common = st.sampled_from(((), (), (free[0],), (attempt_pb2.DIMENSION_CHANNEL,)))
    per = draw(
        common.map(list)
        | st.lists(st.sampled_from(free), unique=True, max_size=len(free)).map(sorted)
    )
    cap = policy_pb2.Cap(
        measure=measure,
        max_count=draw(st.sampled_from((0, 1, 1, 2, 2, 3, 4, 6))),
        per=per,
        window=draw(st.sampled_from(pool)),
    )
    limit = policy_pb2.Limit(
        limit_id=limit_id, cap=cap, enforcement=policy_pb2.ENFORCEMENT_ENFORCED
    )
    if goals and draw(st.integers(0, 4)) == 0:
        limit.enforcement = policy_pb2.ENFORCEMENT_GOAL
    if conditions and draw(st.booleans()):
        limit.applies_to.CopyFrom(draw(matches()))
    if conditions and draw(st.integers(0, 2)) == 0:
        limit.counts.CopyFrom(draw(matches()))
    return limit


@dataclass(frozen=True)
class World:
    """A whole set of policies and assignments."""

    policies: tuple[policy_pb2.Policy, ...]
    assignments: tuple[policy_pb2.Assignment, ...]


# The scopes that assignments are put on, with the parent of their names.
SCOPES = {
    "everything": policy_pb2.Scope(),
    **{account: policy_pb2.Scope(account=account) for account in ACCOUNTS},
    "shop": policy_pb2.Scope(account="acme", resource="shop"),
    "blog": policy_pb2.Scope(account="acme", resource="blog"),
    "spring": policy_pb2.Scope(account="acme", campaign="spring"),
    "invoices": policy_pb2.Scope(account="bolt", campaign="invoices"),
}


def assignment_of(scope: str, policy: str, mandatory: str = "") -> policy_pb2.Assignment:
    """An assignment on one of SCOPES; `mandatory` makes it a mandatory one of that id."""
    account = SCOPES[scope].account
    parent = f"accounts/{account}/" if account else ""
    return policy_pb2.Assignment(
        name=f"{parent}assignments/{mandatory or scope}",
        policy=policy,
        scope=SCOPES[scope],
        mandatory=bool(mandatory),
    )


@st.composite
def worlds(draw: st.DrawFn, pool: Sequence[policy_pb2.Window]) -> World:
    """Some policies, on some scopes; narrower ones replace wider ones, mandatory ones add."""
    policies = []
    for name in ("policies/calm", "policies/brisk", "accounts/acme/policies/own", "policies/open"):
        count = 0 if name.endswith("open") else draw(st.integers(0, 3))
        limit_list = [draw(limits(f"limit-{number}", pool)) for number in range(count)]
        policies.append(policy_pb2.Policy(name=name, limits=limit_list))
    assignments = []
    for scope in SCOPES:
        policy = draw(st.none() | st.sampled_from(assignable(policies, scope)))
        if policy is not None:
            assignments.append(assignment_of(scope, policy))
    for number in range(draw(st.integers(0, 2))):
        scope = draw(st.sampled_from(sorted(SCOPES)))
        policy = draw(st.sampled_from(assignable(policies, scope)))
        assignments.append(assignment_of(scope, policy, f"on-top-{number}"))
    return World(tuple(policies), tuple(assignments))


def assignable(policies: Sequence[policy_pb2.Policy], scope: str) -> list[str]:
    """The policies that may be assigned to a scope: everybody's, and the account's own."""
    own = f"accounts/{SCOPES[scope].account}/"
    return [p.name for p in policies if p.name.startswith(("policies/", own))]


def single(*limit_list: policy_pb2.Limit) -> World:
    """One policy with these limits, for everything, and nobody can lift it."""
    policy = policy_pb2.Policy(name="policies/only", limits=limit_list)
    return World((policy,), (assignment_of("everything", policy.name, "always"),))


def pools() -> st.SearchStrategy[list[policy_pb2.Window]]:
    """The few windows that all limits of an example share."""
    return st.lists(windows(), min_size=1, max_size=3)


# --------------------------------------------------------------------------- requests


@st.composite
def attempts(draw: st.DrawFn, whole: bool | None = None) -> attempt_pb2.Attempt:
    """An attempt, mostly one that lacks no field."""
    attempt = attempt_pb2.Attempt(account=draw(st.sampled_from(ACCOUNTS)))
    if whole is None:
        whole = draw(st.integers(0, 4)) > 0
    for dimension in DIMENSIONS:
        values = VALUES[dimension] if whole else ("", *VALUES[dimension])
        setattr(attempt, FIELD_NAMES[dimension], draw(st.sampled_from(values)))
    attempt.message_count = draw(st.sampled_from((0, 0, 0, 1, 1, 2, 3, 7)))
    return attempt


@st.composite
def inline_choices(draw: st.DrawFn, pool: Sequence[policy_pb2.Window]) -> list[policy_pb2.Limit]:
    """The inline limits that the requests of one example choose from: few, for an account keeps
    only so many kinds."""
    return [draw(limits(f"inline-{number}", pool)) for number in range(4)]


def inline_limits(choices: Sequence[policy_pb2.Limit]) -> st.SearchStrategy[list[policy_pb2.Limit]]:
    """Mostly none."""
    if not choices:
        return st.just([])
    some = st.lists(st.sampled_from(range(len(choices))), min_size=1, max_size=2, unique=True)
    return st.just([]) | st.just([]) | some.map(lambda picked: [choices[i] for i in picked])


def views() -> st.SearchStrategy[decision_pb2.View.ValueType]:
    """Mostly the full one, which is compared in full."""
    return st.sampled_from(
        (decision_pb2.VIEW_FULL, decision_pb2.VIEW_UNSPECIFIED, decision_pb2.VIEW_BASIC)
    )


def request_ids() -> st.SearchStrategy[str]:
    """Mostly none, else one of a few."""
    return st.sampled_from(("", "", "", "id-1", "id-2", "id-3"))


@st.composite
def commits(
    draw: st.DrawFn, choices: Sequence[policy_pb2.Limit] = (), whole: bool | None = None
) -> service_pb2.CommitRequest:
    return service_pb2.CommitRequest(
        attempt=draw(attempts(whole)),
        inline_limits=draw(inline_limits(choices)),
        request_id=draw(request_ids()),
        view=draw(views()),
    )


@st.composite
def batches(
    draw: st.DrawFn, choices: Sequence[policy_pb2.Limit] = ()
) -> service_pb2.CommitBatchRequest:
    """A batch with some recipients twice, all with an address or mostly without."""
    attempt = draw(attempts())
    attempt.contact = attempt.address = ""
    recipients = draw(
        st.lists(
            st.builds(
                service_pb2.Recipient,
                contact=st.sampled_from(VALUES[CONTACT]),
                address=st.sampled_from(("", *VALUES[ADDRESS])),
                reference=st.sampled_from(("", "row")),
            ),
            min_size=1,
            max_size=7,
        )
    )
    whole = draw(st.integers(0, 4)) > 0
    for number, recipient in enumerate(recipients):
        if whole and not recipient.address:
            recipient.address = VALUES[ADDRESS][0]
        if not whole and draw(st.integers(0, 5)) == 0:
            recipient.contact = ""
        if draw(st.integers(0, 7)) == 0:
            recipient.request_id = f"id-{number}"
    return service_pb2.CommitBatchRequest(
        attempt=attempt,
        inline_limits=draw(inline_limits(choices)),
        request_id=draw(st.sampled_from(("", "", "batch-1", "batch-2"))),
        recipients=recipients,
        atomicity=draw(st.sampled_from(service_pb2.Atomicity.values())),
        exclude_duplicates=draw(st.booleans()),
        view=draw(views()),
    )


def check_of(commit: service_pb2.CommitRequest) -> service_pb2.CheckRequest:
    """The check that asks what a commit would do."""
    return service_pb2.CheckRequest(
        attempt=commit.attempt, inline_limits=commit.inline_limits, view=commit.view
    )


def check_batch_of(batch: service_pb2.CommitBatchRequest) -> service_pb2.CheckBatchRequest:
    """The check that asks what a batch would do. It has no request ids."""
    check = service_pb2.CheckBatchRequest(
        attempt=batch.attempt,
        inline_limits=batch.inline_limits,
        recipients=batch.recipients,
        atomicity=batch.atomicity,
        exclude_duplicates=batch.exclude_duplicates,
        view=batch.view,
    )
    for recipient in check.recipients:
        recipient.request_id = ""
    return check
