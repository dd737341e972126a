"""The rules of the domain: what is sound passes, and what breaks a rule is named by its field."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import bounds, errors, model
from limiter.model import (
    Assignment,
    CalendarUnit,
    CalendarWindow,
    Condition,
    Dimension,
    Enforcement,
    Limit,
    Measure,
    Policy,
    RollingWindow,
    Scope,
)
from limiter.timing import DailyStep, DayOfWeek, Hours, Pause, Ramp, Range
from tests.unit import policy_examples as examples

_Item = TypeVar("_Item")


def violation(caught: pytest.ExceptionInfo[errors.InvalidArgument]) -> errors.FieldViolation:
    """The one violation; the message names its field too."""
    (found,) = caught.value.violations
    assert caught.value.message.startswith(found.field)
    return found


@examples.few
@given(examples.policies())
def test_a_sound_policy_passes(policy: Policy) -> None:
    policy.check("policy")


@examples.few
@given(examples.assignments())
def test_a_sound_assignment_passes(assignment: Assignment) -> None:
    assignment.check("assignment")


def with_cap(**changes: object) -> Limit:
    sound = examples.limit()
    return replace(sound, rule=replace(examples.cap_of(sound), **changes))  # type: ignore[arg-type]


CASES: list[tuple[Limit, str, str]] = [
    (replace(examples.limit(), limit_id=""), "limit_id", "letter first"),
    (replace(examples.limit(), limit_id="Day"), "limit_id", "'Day' is not an id"),
    (replace(examples.limit(), limit_id="a" * 64), "limit_id", "1 to 63"),
    (replace(examples.limit(), limit_id="a-"), "limit_id", "no - last"),
    (with_cap(max_count=-1), "cap.max_count", "not -1"),
    (with_cap(max_count=10**12 + 1), "cap.max_count", "1,000,000,000,000"),
    (
        with_cap(measure=Measure.CONTACTS, per=(Dimension.AGENT, Dimension.CONTACT)),
        "cap.per[1]",
        "cannot be per CONTACT",
    ),
    (
        with_cap(measure=Measure.ADDRESSES, per=(Dimension.ADDRESS,)),
        "cap.per[0]",
        "cannot be per ADDRESS",
    ),
    (with_cap(per=(Dimension.TEAM, Dimension.AGENT, Dimension.TEAM)), "cap.per[2]", "twice"),
    (with_cap(window=RollingWindow(0)), "cap.window.rolling", "1 ms to 62 days"),
    (with_cap(window=RollingWindow(-5)), "cap.window.rolling", "not -5 ms"),
    (with_cap(window=RollingWindow(bounds.WINDOW_MS_MAX + 1)), "cap.window.rolling", "62 days"),
    (
        with_cap(window=CalendarWindow(CalendarUnit.DAY, "Europe/Bonn")),
        "cap.window.calendar.time_zone",
        "not a time zone",
    ),
    (
        with_cap(window=CalendarWindow(CalendarUnit.HOUR, count=1_489)),
        "cap.window.calendar.count",
        "1488",
    ),
    (
        with_cap(window=CalendarWindow(CalendarUnit.DAY, count=63)),
        "cap.window.calendar.count",
        "62",
    ),
    (with_cap(window=CalendarWindow(CalendarUnit.WEEK, count=9)), "cap.window.calendar.count", "8"),
    (
        with_cap(window=CalendarWindow(CalendarUnit.MONTH, count=3)),
        "cap.window.calendar.count",
        "2",
    ),
    (
        with_cap(window=CalendarWindow(CalendarUnit.DAY, count=-1)),
        "cap.window.calendar.count",
        "-1",
    ),
    (
        replace(examples.limit(), applies_to=(Condition(Dimension.TEAM, ()),)),
        "applies_to.conditions[0].values",
        "at least one",
    ),
    (
        replace(examples.limit(), counts=(Condition(Dimension.TEAM, ("a", "")),)),
        "counts.conditions[0].values[1]",
        "empty",
    ),
    (
        replace(examples.limit(), applies_to=(Condition(Dimension.TEAM, ("a", "b", "a")),)),
        "applies_to.conditions[0].values[2]",
        "twice",
    ),
    (
        replace(examples.limit(), applies_to=(Condition(Dimension.TEAM, ("é" * 129,)),)),
        "applies_to.conditions[0].values[0]",
        "256 bytes",
    ),
    (
        replace(
            examples.limit(),
            applies_to=(Condition(Dimension.TEAM, tuple(str(n) for n in range(65))),),
        ),
        "applies_to.conditions[0].values",
        "at most 64",
    ),
    (
        replace(examples.limit(), counts=(Condition(Dimension.TEAM, ("a",)),) * 17),
        "counts.conditions",
        "at most 16",
    ),
]


@pytest.mark.parametrize(("broken", "field", "words"), CASES)
def test_a_broken_limit_is_named_by_field_and_rule(broken: Limit, field: str, words: str) -> None:
    policy = examples.policy("p", examples.limit("other"), broken)
    with pytest.raises(errors.InvalidArgument) as caught:
        policy.check("policy")
    found = violation(caught)
    assert found.field == f"policy.limits[1].{field}"
    assert words in found.description


def test_a_limit_follows_its_account_wherever_it_names_a_zone() -> None:
    ranges = (Range((DayOfWeek.MONDAY,), 0, 60),)
    ramp = Ramp(DailyStep("2025-01-01", 1, 1), "ACCOUNT")
    day = CalendarWindow(CalendarUnit.DAY, "ACCOUNT")
    following = [
        with_cap(window=day),
        with_cap(ramp=ramp),
        Limit("hours", Hours(ranges, "ACCOUNT")),
        Limit("hours", Hours(ranges, "RECIPIENT", "ACCOUNT")),
    ]
    for limit in following:
        limit.check("limit")
        assert limit.follows_account
        moved = limit.in_zone("Europe/Berlin")
        assert "ACCOUNT" not in repr(moved)
        assert "Europe/Berlin" in repr(moved)
        assert moved.in_zone("UTC") is moved
    staying = with_cap(window=CalendarWindow(CalendarUnit.DAY, "Europe/Berlin"))
    assert not staying.follows_account
    assert not Limit("pause", Pause(1, 1000)).follows_account
    assert not Limit("hours", Hours(ranges, "RECIPIENT", "UTC")).follows_account


def test_limit_ids_are_unique_inside_a_policy() -> None:
    policy = examples.policy("p", examples.limit("a"), examples.limit("b"), examples.limit("a"))
    with pytest.raises(errors.InvalidArgument, match=r"limits\[0\] is called 'a'") as caught:
        policy.check("policy")
    assert violation(caught).field == "policy.limits[2].limit_id"


def test_a_policy_has_so_many_limits_and_not_more() -> None:
    limits = [examples.limit(f"l{index}") for index in range(bounds.POLICY_LIMITS_MAX + 1)]
    examples.policy("p", *limits[:-1]).check("policy")
    with pytest.raises(errors.InvalidArgument) as caught:
        examples.policy("p", *limits).check("policy")
    assert violation(caught).field == "policy.limits"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "p",
        "policies",
        "policies/",
        "policies/P",
        "policies/a/b",
        "assignments/a",
        "accounts//policies/a",
        "accounts/-/policies/a",
        "accounts/a b/policies/a",
        "accounts/" + "a" * 129 + "/policies/a",
        "accounts/a/assignments/a",
        "accounts/a/policies/a/",
        "/policies/a",
    ],
)
def test_a_malformed_policy_name(name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        model.policy_account(name, "policy.name")
    assert violation(caught).field == "policy.name"
    assert len(violation(caught).description) < 300


def test_the_account_of_a_name() -> None:
    assert model.policy_account("policies/a", "name") == ""
    assert model.policy_account("accounts/x@y/policies/a-1", "name") == "x@y"
    assert model.assignment_account("accounts/x/assignments/a", "name") == "x"
    assert model.account_of("accounts/x/assignments/a") == "x"
    assert model.account_of("assignments/a") == ""
    assert model.parent_account("", "parent") == ""
    assert model.parent_account("accounts/-", "parent") == model.ALL_ACCOUNTS
    assert model.parent_account("accounts/x", "parent") == "x"


@pytest.mark.parametrize("parent", ["x", "accounts", "accounts/", "accounts/a/b", "policies/a"])
def test_a_malformed_parent(parent: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        model.parent_account(parent, "parent")
    assert violation(caught).field == "parent"


SOUND = Assignment("accounts/a/assignments/x", "policies/p", Scope("a"))


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (replace(SOUND, name="x"), "name"),
        (replace(SOUND, policy=""), "policy"),
        (replace(SOUND, policy="p"), "policy"),
        (replace(SOUND, policy="accounts/b/policies/p"), "policy"),
        (
            Assignment("assignments/x", "accounts/a/policies/p"),
            "policy",
        ),
        (replace(SOUND, scope=Scope("b")), "scope.account"),
        (replace(SOUND, scope=Scope("")), "scope.account"),
        (replace(SOUND, scope=Scope("a b")), "scope.account"),
        (replace(SOUND, scope=Scope("", "shop")), "scope.account"),
        (replace(SOUND, scope=Scope("", "", "spring")), "scope.account"),
        (replace(SOUND, scope=Scope("a", "shop", "spring")), "scope.campaign"),
        (replace(SOUND, scope=Scope("a", "s" * 257)), "scope.resource"),
        (replace(SOUND, etag="e" * 65), "etag"),
        (replace(SOUND, name="assignments/x"), "scope.account"),
    ],
)
def test_a_broken_assignment_is_named_by_field(broken: Assignment, field: str) -> None:
    SOUND.check("assignment")
    with pytest.raises(errors.InvalidArgument) as caught:
        broken.check("assignment")
    assert violation(caught).field == f"assignment.{field}"


def test_the_second_of_two_equal_names_is_named() -> None:
    model.check_unique(["a", "b"], "policies")
    with pytest.raises(errors.InvalidArgument) as caught:
        model.check_unique(["a", "b", "a"], "policies")
    assert violation(caught).field == "policies[2].name"


# --- Kinds ----------------------------------------------------------------------------------------


@examples.few
@given(examples.limits(counting=True), st.randoms(use_true_random=False))
def test_order_does_not_make_another_kind(limit: Limit, random: Random) -> None:
    def shuffled(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
        return tuple(random.sample(items, len(items)))

    def remixed(match: model.Match) -> model.Match:
        doubled = match + match[:1]
        return tuple(replace(each, values=shuffled(each.values)) for each in shuffled(doubled))

    assert not isinstance(limit.rule, Hours)
    per = shuffled(limit.rule.per)
    other = replace(
        limit,
        limit_id="other",
        rule=(
            replace(limit.rule, per=per, after_count=7)
            if isinstance(limit.rule, Pause)
            else replace(limit.rule, per=per, max_count=7, ramp=None)
        ),
        counts=remixed(limit.applies_to if limit.counts is None else limit.counts),
        enforcement=Enforcement.GOAL,
    )
    assert other.kind == limit.kind


def test_what_makes_another_kind() -> None:
    sound = examples.limit(per=(Dimension.CONTACT,))
    cap = examples.cap_of(sound)
    team = (Condition(Dimension.TEAM, ("a",)),)
    others = [
        replace(sound, rule=replace(cap, measure=Measure.ADDRESSES)),
        replace(sound, rule=replace(cap, per=())),
        replace(sound, rule=replace(cap, per=(Dimension.CONTACT, Dimension.CHANNEL))),
        replace(sound, rule=replace(cap, window=RollingWindow(bounds.DAY_MS + 1))),
        replace(sound, rule=replace(cap, window=CalendarWindow(CalendarUnit.DAY))),
        replace(sound, rule=Pause(1, bounds.DAY_MS, cap.per)),
        replace(sound, rule=Pause(1, bounds.DAY_MS)),
        replace(sound, rule=Pause(1, bounds.HOUR_MS)),
        replace(sound, counts=team),
        replace(sound, applies_to=team),
        replace(sound, counts=(Condition(Dimension.TEAM, ("a",), negate=True),)),
    ]
    kinds = {sound.kind, *(other.kind for other in others)}
    assert len(kinds) == len(others)  # `counts` and `applies_to` alone mean the same.
    assert replace(sound, applies_to=team, counts=()).kind == sound.kind
