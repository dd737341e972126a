"""Random policies, attempts, batches and clocks.

Names are few, windows are shared and maxima are small, so that limits fill up, counters meet and
attempts repeat; a few of everything are extreme.

Whole policies and batches hang on hundreds of small choices. They are made with `Dice`, which takes
many of them from one number drawn by hypothesis: much faster, and it still shrinks, for the first
choice is always the simplest.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st

from limiter.v1 import account_pb2, attempt_pb2, decision_pb2, policy_pb2
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

Item = TypeVar("Item")

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
ZONES = (
    "",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
)
LIMIT_ZONES = (*ZONES, "ACCOUNT", "ACCOUNT")
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
NEVER_DENYING = (policy_pb2.ENFORCEMENT_GOAL, policy_pb2.ENFORCEMENT_SHADOW)
# Long enough before the end of all time for every window to pass.
LAST_MS = instant_of(2090)


# --------------------------------------------------------------------------- choices


class Dice:
    """Small choices from the numbers that a strategy draws."""

    # Up to here hypothesis draws all numbers alike.
    _SIDES = 1 << 23
    _NUMBERS = st.integers(0, _SIDES - 1)

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw
        self._value = self._left = 0

    def below(self, count: int) -> int:
        """A number from 0 to count - 1."""
        if self._left < 8 * count:
            self._value, self._left = self._draw(self._NUMBERS), self._SIDES
        self._left //= count
        self._value, chosen = divmod(self._value, count)
        return chosen

    def one_in(self, count: int) -> bool:
        """True once in so many times."""
        return self.below(count) == count - 1

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], most: int) -> list[Item]:
        """Up to `most` different items, in their order."""
        count = self.below(min(most, len(items)) + 1)
        chosen = {self.below(len(items)) for _ in range(count)}
        return [item for number, item in enumerate(items) if number in chosen]


# --------------------------------------------------------------------------- time


@functools.cache
def turning_points() -> list[int]:
    """When the clocks are put forward or back in 2024 and 2025, and some ends of months."""
    low, high = instant_of(2024), instant_of(2026)
    points = {instant_of(2024, 3, 1), instant_of(2024, 12, 31, 23), instant_of(2025, 3, 1)}
    for zone in ZONES[1:]:
        points.update(changes_of_offset(zone, low, high))
    # The only change in Kathmandu: a quarter of an hour.
    points.update(changes_of_offset("Asia/Kathmandu", instant_of(1985), instant_of(1987)))
    # A date that never was, and summer time beside it.
    points.update(changes_of_offset("Pacific/Apia", instant_of(2011), instant_of(2012, 5)))
    return sorted(points)


@st.composite
def starts(draw: st.DrawFn) -> int:
    """An instant to start at, often shortly before the clocks change somewhere."""
    return make_start(Dice(draw))


def make_start(dice: Dice) -> int:
    if dice.one_in(3):
        low, high = instant_of(1971), instant_of(2080)
        return low + (high - low) // 1_000_003 * dice.below(1_000_003) + dice.below(1_000)
    before_ms = (1, 10, 30 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS)
    return dice.pick(turning_points()) - dice.pick(before_ms)


@st.composite
def moves(draw: st.DrawFn) -> int:
    """How far the clock moves on: not at all, a little, or over hours, days and months."""
    return make_move(Dice(draw))


def make_move(dice: Dice) -> int:
    way = dice.below(5)
    if way <= 1:
        return dice.pick((0, 1, 0, 1, 2, 9, 10, 998, 999))
    if way == 2:
        return max(0, dice.pick(ROLLING_MS) + dice.pick((0, -1, 1)))
    if way == 3:
        return dice.below(3 * HOUR_MS // 1_000) * 1_000 + dice.below(1_000)
    return dice.below(40 * 24 * 60) * MINUTE_MS + dice.below(60_000)


# --------------------------------------------------------------------------- policies


@st.composite
def pools(draw: st.DrawFn) -> list[policy_pb2.Window]:
    """The few windows that all limits of an example share."""
    return make_pool(Dice(draw))


def make_pool(dice: Dice) -> list[policy_pb2.Window]:
    return [make_window(dice) for _ in range(1 + dice.below(3))]


def make_window(dice: Dice) -> policy_pb2.Window:
    way = dice.below(5)
    if way <= 1:
        return rolling_window(dice.pick(ROLLING_MS))
    if way == 2:
        return rolling_window(1 + dice.below(62 * 24 * 60) * MINUTE_MS + dice.below(60_000))
    unit = dice.pick(sorted(CALENDAR_COUNTS))
    return calendar_window(unit, dice.pick(LIMIT_ZONES), dice.pick(CALENDAR_COUNTS[unit]))


def rolling_window(duration_ms: int) -> policy_pb2.Window:
    duration = Duration()
    duration.FromMilliseconds(duration_ms)
    return policy_pb2.Window(rolling=duration)


def calendar_window(unit: int, zone: str = "", count: int = 0) -> policy_pb2.Window:
    calendar = policy_pb2.Calendar(time_zone=zone, count=count)
    calendar.unit = policy_pb2.CalendarUnit.ValueType(unit)
    return policy_pb2.Window(calendar=calendar)


def make_match(dice: Dice) -> policy_pb2.Match:
    match = policy_pb2.Match()
    for _ in range(dice.below(3)):
        dimension = dice.pick(DIMENSIONS)
        match.conditions.add(
            dimension=dimension,
            values=dice.some(VALUES[dimension], 2) or VALUES[dimension][:1],
            negate=dice.one_in(2),
        )
    return match


def make_limit(
    dice: Dice, limit_id: str, pool: Sequence[policy_pb2.Window], *, plain: bool = False
) -> policy_pb2.Limit:
    """Mostly a cap over one of the windows of the pool; `plain`: enforced and unconditional."""
    limit = policy_pb2.Limit(limit_id=limit_id, enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    way = dice.below(12)
    if way == 11:
        limit.hours.CopyFrom(make_hours(dice))
    elif way >= 9:
        limit.pause.CopyFrom(make_pause(dice))
    else:
        limit.cap.CopyFrom(make_cap(dice, pool))
        if way == 8:
            limit.cap.ramp.CopyFrom(make_ramp(dice))
    if not plain:
        if dice.one_in(5):
            limit.enforcement = dice.pick(NEVER_DENYING)
        if dice.one_in(2):
            limit.applies_to.CopyFrom(make_match(dice))
        if not limit.HasField("hours") and dice.one_in(3):
            limit.counts.CopyFrom(make_match(dice))
    return limit


def make_cap(dice: Dice, pool: Sequence[policy_pb2.Window]) -> policy_pb2.Cap:
    measure = dice.pick(policy_pb2.Measure.values()[1:])
    return policy_pb2.Cap(
        measure=measure,
        max_count=dice.pick((1, 2, 1, 2, 3, 4, 6, 0)),
        per=pick_per(dice, MEASURED.get(measure)),
        window=dice.pick(pool),
    )


def pick_per(dice: Dice, measured: Dimension | None = None) -> list[Dimension]:
    free = [dimension for dimension in DIMENSIONS if dimension != measured]
    usual: list[list[Dimension]] = [[], [], free[:1], [attempt_pb2.DIMENSION_CHANNEL]]
    return dice.some(free, len(free)) if dice.one_in(3) else dice.pick(usual)


def make_ramp(dice: Dice) -> policy_pb2.Ramp:
    """A maximum that grows around the days at which clocks change."""
    zone = dice.pick(LIMIT_ZONES)
    start = dt.date(1970, 1, 1) + dt.timedelta(days=dice.pick(turning_points()) // DAY_MS)
    start += dt.timedelta(days=dice.below(5) - 3)
    if dice.one_in(2):
        daily = policy_pb2.Ramp.DailyStep(
            start_date=start.isoformat(), start_count=dice.below(3), step_count=1 + dice.below(2)
        )
        return policy_pb2.Ramp(time_zone=zone, daily_step=daily)
    tiers = policy_pb2.Ramp.Tiers()
    for count in range(1 + dice.below(3)):
        tiers.tiers.add(start_date=start.isoformat(), max_count=count + dice.below(3))
        start += dt.timedelta(days=1 + dice.below(40))
    for before, after in itertools.pairwise(tiers.tiers):
        # One that falls would not keep up with what it has let go.
        after.max_count = max(before.max_count, after.max_count)
    return policy_pb2.Ramp(time_zone=zone, tiers=tiers)


def make_pause(dice: Dice) -> policy_pb2.Pause:
    pause = policy_pb2.Pause(after_count=dice.pick((1, 2, 3, 5)), per=pick_per(dice))
    pause.duration.FromMilliseconds(dice.pick((*ROLLING_MS[:7], 62 * DAY_MS)))
    return pause


def make_hours(dice: Dice) -> policy_pb2.Hours:
    """Hours that often begin, end or lie where clocks change."""
    hours = policy_pb2.Hours(time_zone=dice.pick((*LIMIT_ZONES, "RECIPIENT", "RECIPIENT")))
    if hours.time_zone == "RECIPIENT":
        hours.fallback_time_zone = dice.pick(LIMIT_ZONES[1:])
    for _ in range(1 + dice.below(2)):
        days = policy_pb2.DayOfWeek.values()[1:]
        hours.ranges.add(
            days=days if dice.one_in(2) else dice.some(days, 7) or days[:1],
            start_minute=dice.pick((9 * 60, 0, 1, 90, 2 * 60, 150, 22 * 60, 1_439)),
            end_minute=dice.pick((17 * 60, 1, 60, 2 * 60, 135, 3 * 60, 22 * 60, 1_440)),
        )
    return hours


@st.composite
def changed_accounts(draw: st.DrawFn) -> account_pb2.Account:
    """An account as somebody wants it to be from now on."""
    return make_account(Dice(draw))


def make_account(dice: Dice) -> account_pb2.Account:
    return account_pb2.Account(
        name=f"accounts/{dice.pick(ACCOUNTS)}",
        time_zone=dice.pick((*ZONES, "Europe/Berlin")),
        allowed_categories=dice.some(VALUES[attempt_pb2.DIMENSION_CATEGORY], 2),
    )


@st.composite
def people(draw: st.DrawFn) -> list[tuple[int, str]]:
    """Some contacts (1) and addresses (2), sometimes one of them twice."""
    return make_people(Dice(draw))


def make_people(dice: Dice) -> list[tuple[int, str]]:
    return [
        (who, dice.pick(VALUES[CONTACT if who == 1 else ADDRESS]))
        for who in (1 + dice.below(2) for _ in range(1 + dice.below(3)))
    ]


@dataclass(frozen=True)
class World:
    """A whole set of policies and assignments."""

    policies: tuple[policy_pb2.Policy, ...]
    assignments: tuple[policy_pb2.Assignment, ...]


# The scopes that assignments are put on, by the ids of their assignments.
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
    return make_world(Dice(draw), pool)


def make_world(dice: Dice, pool: Sequence[policy_pb2.Window]) -> World:
    policies = []
    for name in ("policies/calm", "policies/brisk", "accounts/acme/policies/own", "policies/open"):
        count = 0 if name.endswith("open") else dice.below(4)
        limits = [make_limit(dice, f"limit-{number}", pool) for number in range(count)]
        policies.append(policy_pb2.Policy(name=name, limits=limits))
    assignments = []
    for scope in SCOPES:
        if dice.one_in(2):
            policy = dice.pick(assignable(policies, scope))
            assignments.append(assignment_of(scope, policy))
    for number in range(dice.below(3)):
        scope = dice.pick(sorted(SCOPES))
        policy = dice.pick(assignable(policies, scope))
        assignments.append(assignment_of(scope, policy, f"on-top-{number}"))
    return World(tuple(policies), tuple(assignments))


def assignable(policies: Sequence[policy_pb2.Policy], scope: str) -> list[str]:
    """The policies that may be assigned to a scope: everybody's, and the account's own."""
    own = f"accounts/{SCOPES[scope].account}/"
    return [p.name for p in policies if p.name.startswith(("policies/", own))]


def single(limits: Sequence[policy_pb2.Limit]) -> World:
    """One policy with these limits, for everything, and nobody can lift it."""
    policy = policy_pb2.Policy(name="policies/only", limits=limits)
    return World((policy,), (assignment_of("everything", policy.name, "always"),))


@st.composite
def plain_worlds(draw: st.DrawFn, pool: Sequence[policy_pb2.Window]) -> World:
    """One to three enforced and unconditional limits on everything."""
    dice = Dice(draw)
    numbers = range(1 + dice.below(3))
    return single([make_limit(dice, f"limit-{n}", pool, plain=True) for n in numbers])


@st.composite
def inline_choices(draw: st.DrawFn, pool: Sequence[policy_pb2.Window]) -> list[policy_pb2.Limit]:
    """The inline limits that the requests of one example choose from: few, for an account keeps
    only so many kinds."""
    return make_inline_choices(Dice(draw), pool)


def make_inline_choices(dice: Dice, pool: Sequence[policy_pb2.Window]) -> list[policy_pb2.Limit]:
    return [make_limit(dice, f"inline-{number}", pool) for number in range(4)]


# --------------------------------------------------------------------------- requests


def make_attempt(dice: Dice, whole: bool | None = None) -> attempt_pb2.Attempt:
    """An attempt, mostly one that lacks no field; `whole` says it for sure."""
    attempt = attempt_pb2.Attempt(account=dice.pick(ACCOUNTS))
    if whole is None:
        whole = not dice.one_in(5)
    for dimension in DIMENSIONS:
        values = VALUES[dimension]
        lacking = not whole and dice.one_in(4)
        setattr(attempt, FIELD_NAMES[dimension], "" if lacking else dice.pick(values))
    attempt.message_count = dice.pick((0, 1, 0, 1, 0, 2, 3, 7))
    attempt.contact_time_zone = pick_contact_zone(dice)
    return attempt


def pick_contact_zone(dice: Dice) -> str:
    return dice.pick(ZONES) if dice.one_in(3) else ""


@st.composite
def attempts(draw: st.DrawFn, whole: bool | None = None) -> attempt_pb2.Attempt:
    return make_attempt(Dice(draw), whole)


def pick_inline(dice: Dice, choices: Sequence[policy_pb2.Limit]) -> list[policy_pb2.Limit]:
    """Mostly none."""
    return dice.some(choices, 2) if choices and dice.one_in(3) else []


def pick_view(dice: Dice) -> decision_pb2.View.ValueType:
    views = (decision_pb2.VIEW_FULL, decision_pb2.VIEW_UNSPECIFIED, decision_pb2.VIEW_BASIC)
    return dice.pick(views)


@st.composite
def commits(
    draw: st.DrawFn, choices: Sequence[policy_pb2.Limit] = (), whole: bool | None = None
) -> service_pb2.CommitRequest:
    """A commit, mostly without a request_id, else with one of a few."""
    return make_commit(Dice(draw), choices, whole)


def make_commit(
    dice: Dice, choices: Sequence[policy_pb2.Limit] = (), whole: bool | None = None
) -> service_pb2.CommitRequest:
    return service_pb2.CommitRequest(
        attempt=make_attempt(dice, whole),
        inline_limits=pick_inline(dice, choices),
        request_id=dice.pick(("", "", "", "id-1", "id-2", "id-3")),
        view=pick_view(dice),
    )


def set_terms(dice: Dice, request: service_pb2.CommitRequest, now_ms: int) -> None:
    """Has a commit hold, or record what went out already, lately or long ago."""
    if dice.one_in(2):
        request.mode = service_pb2.COMMIT_MODE_RECORD
        ago_ms = dice.pick((0, 1, 10, 999, MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS, 61 * DAY_MS))
        if dice.below(4):
            at_ms = now_ms - ago_ms + dice.pick((0, 0, 0, -1, 1))
            request.event_time.FromMilliseconds(max(0, at_ms))
    else:
        holds_ms = (1, 2, 10, 999, 1_000, MINUTE_MS, MINUTE_MS, HOUR_MS - 1, HOUR_MS)
        request.hold_duration.FromMilliseconds(dice.pick(holds_ms))


@st.composite
def batches(
    draw: st.DrawFn, choices: Sequence[policy_pb2.Limit] = ()
) -> service_pb2.CommitBatchRequest:
    """A batch with some recipients twice, all with an address or mostly without."""
    return make_batch(Dice(draw), choices)


def make_batch(
    dice: Dice, choices: Sequence[policy_pb2.Limit] = ()
) -> service_pb2.CommitBatchRequest:
    attempt = make_attempt(dice)
    attempt.contact = attempt.address = attempt.contact_time_zone = ""
    batch = service_pb2.CommitBatchRequest(
        attempt=attempt,
        inline_limits=pick_inline(dice, choices),
        request_id=dice.pick(("", "", "batch-1", "batch-2")),
        atomicity=dice.pick(service_pb2.Atomicity.values()),
        exclude_duplicates=dice.one_in(2),
        exclude_opt_outs=dice.one_in(3),
        view=pick_view(dice),
    )
    addresses = VALUES[ADDRESS] if dice.below(5) else ("", *VALUES[ADDRESS])
    for number in range(1 + dice.below(7)):
        batch.recipients.add(
            contact="" if dice.one_in(60) else dice.pick(VALUES[CONTACT]),
            address=dice.pick(addresses),
            reference=dice.pick(("", "row")),
            contact_time_zone=pick_contact_zone(dice),
            request_id=f"id-{number}" if dice.one_in(8) else "",
        )
    return batch


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
        exclude_opt_outs=batch.exclude_opt_outs,
        view=batch.view,
    )
    for recipient in check.recipients:
        recipient.request_id = ""
    return check
