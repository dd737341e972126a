"""Ramps, pauses and hours: what breaks a rule is named; ranges as minutes of the week."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import bounds, errors
from limiter.model import Dimension
from limiter.timing import DailyStep, DayOfWeek, Hours, Pause, Ramp, Range, Tier, Tiers

MONDAY, SUNDAY = (DayOfWeek.MONDAY,), (DayOfWeek.SUNDAY,)
DAY = Range(MONDAY, 540, 1020)
TWICE = (Dimension.AGENT, Dimension.AGENT)


@pytest.mark.parametrize(
    ("broken", "field", "words"),
    [
        (Ramp(DailyStep("", 0, 1)), "daily_step.start_date", "YYYY-MM-DD"),
        (Ramp(DailyStep("2025-02-29", 0, 1)), "daily_step.start_date", "not a date"),
        (Ramp(DailyStep("20250228", 0, 1)), "daily_step.start_date", "not a date"),
        (Ramp(DailyStep("1969-12-31", 0, 1)), "daily_step.start_date", "1970 to 2100"),
        (Ramp(DailyStep("2025-01-01", -1, 1)), "daily_step.start_count", "not -1"),
        (Ramp(DailyStep("2025-01-01", 1, 0)), "daily_step.step_count", "no ramp"),
        (Ramp(DailyStep("2025-01-01", 1, 1), "Mars"), "time_zone", "not a time zone"),
        (Ramp(Tiers(())), "tiers.tiers", "at least one"),
        (Ramp(Tiers((Tier("soon", 1),))), "tiers.tiers[0].start_date", "'soon' is not a date"),
        (Ramp(Tiers((Tier("2025-01-01", 10**13),))), "tiers.tiers[0].max_count", "1,000,000"),
        (
            Ramp(Tiers((Tier("2025-01-01", 1), Tier("2025-01-01", 2)))),
            "tiers.tiers[1].start_date",
            "order",
        ),
        (Pause(0, 1000), "after_count", "not 0"),
        (Pause(bounds.PAUSE_AFTER_COUNT_MAX + 1, 1000), "after_count", "1,440"),
        (Pause(1, 0), "duration", "not 0 ms"),
        (Pause(1, bounds.PAUSE_MS_MAX + 1), "duration", "62 days"),
        (Pause(1, 1000, TWICE), "per[1]", "AGENT occurs twice"),
        (Hours(()), "ranges", "at least one"),
        (Hours((Range((), 0, 1),)), "ranges[0].days", "name the days"),
        (Hours((DAY, Range(MONDAY * 2, 0, 1))), "ranges[1].days[1]", "MONDAY occurs twice"),
        (Hours((Range(MONDAY, 1440, 1),)), "ranges[0].start_minute", "0 to 1439"),
        (Hours((Range(MONDAY, -1, 1),)), "ranges[0].start_minute", "not -1"),
        (Hours((Range(MONDAY, 0, 0),)), "ranges[0].end_minute", "midnight is 1440"),
        (Hours((Range(MONDAY, 0, 1441),)), "ranges[0].end_minute", "not 1441"),
        (Hours((DAY,), "Europe/Bonn"), "time_zone", "not a time zone"),
        (Hours((DAY,), "RECIPIENT"), "fallback_time_zone", "which zone"),
        (Hours((DAY,), "RECIPIENT", "Bonn"), "fallback_time_zone", "not a time zone"),
        (Hours((DAY,), "UTC", "UTC"), "fallback_time_zone", "leave it out"),
    ],
)
def test_what_breaks_a_rule_is_named_by_its_field(
    broken: Ramp | Pause | Hours, field: str, words: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        broken.check("rule")
    (violation,) = caught.value.violations
    assert violation.field == f"rule.{field}"
    assert words in violation.description


def test_ranges_over_midnight_and_over_the_end_of_the_week() -> None:
    assert Range(MONDAY, 1380, 60).minutes() == [(1380, 1500)]
    assert Range(SUNDAY, 1380, 60).minutes() == [(10020, 10080), (0, 60)]
    assert Range(SUNDAY, 0, 1440).minutes() == [(8640, 10080)]
    assert Range(SUNDAY, 600, 600).minutes() == [(9240, 10080), (0, 600)]


minutes = st.integers(0, 1439)
ranges = st.builds(
    Range,
    st.lists(st.sampled_from(DayOfWeek), min_size=1, max_size=7, unique=True).map(tuple),
    minutes,
    minutes.map(lambda minute: minute + 1),
)


@given(st.lists(ranges, min_size=1, max_size=4).map(tuple))
def test_overlapping_ranges_are_one(found: tuple[Range, ...]) -> None:
    merged = Hours(found).minutes()
    for (_, end), (start, _) in itertools.pairwise(merged):
        assert end < start
    alone = {m for each in found for start, end in each.minutes() for m in range(start, end)}
    assert {m for start, end in merged for m in range(start, end)} == alone
