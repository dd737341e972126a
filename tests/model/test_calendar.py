"""The core's windows against the definition: at random instants and around changes of offset."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter import zones
from limiter._calendar import Window as CoreWindow
from tests.model.effort import TIMES, examples
from tests.model.windows import (
    DAY,
    DAY_MS,
    HOUR,
    HOUR_MS,
    MONTH,
    WEEK,
    CalendarWindow,
    Rolling,
    Window,
    changes_of_offset,
    instant_of,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Kathmandu",  # 5 h 45 min, and a change of 15 min
    "Africa/Casablanca",  # two more changes around Ramadan
    "Pacific/Apia",  # a date that never was
    "America/Sao_Paulo",  # changes at midnight
    "America/St_Johns",  # changes at one minute past midnight, back into the day before
    "Pacific/Kiritimati",  # the last day of a year that never was
    "Africa/Monrovia",  # an offset in seconds
)
COUNTS = {HOUR: (1, 2, 3, 25, 1_488), DAY: (1, 2, 7, 62), WEEK: (1, 2, 8), MONTH: (1, 2)}
FIRST_MS = instant_of(1970, 7)
LAST_MS = instant_of(2100, 10)


@functools.cache
def core_window(window: Window) -> CoreWindow:
    if isinstance(window, Rolling):
        return CoreWindow.rolling(window.duration_ms)
    return CoreWindow.calendar(window.unit, zones.zone(window.zone), window.count)


def assert_agree(window: Window, instant_ms: int) -> None:
    """Both answers about one instant are the definition's; asked twice, for answers are cached."""
    core = core_window(window)
    for _ in range(2):
        assert core.first_ms(instant_ms) == window.first_ms(instant_ms), (window, instant_ms)
        assert core.exit_ms(instant_ms) == window.exit_ms(instant_ms), (window, instant_ms)


def assert_edges_agree(window: Window, instant_ms: int) -> None:
    """The same at the instant, at the edges of what is inside then, and next to them."""
    for edge in (instant_ms, window.first_ms(instant_ms), window.exit_ms(instant_ms)):
        for offset in (-1, 0, 1):
            assert_agree(window, edge + offset)


def windows() -> st.SearchStrategy[Window]:
    calendar = st.sampled_from(sorted(COUNTS)).flatmap(
        lambda unit: st.builds(
            CalendarWindow, st.just(unit), st.sampled_from(ZONES), st.sampled_from(COUNTS[unit])
        )
    )
    return calendar | st.builds(Rolling, st.integers(1, 62 * DAY_MS))


@examples(150)
@given(windows(), st.integers(FIRST_MS, LAST_MS))
@example(CalendarWindow(DAY, "Europe/Berlin", 1), instant_of(2024, 3, 31))
@example(CalendarWindow(MONTH, "Pacific/Kiritimati", 2), instant_of(1995, 1, 2))
def test_windows_agree_at_random_instants(window: Window, instant_ms: int) -> None:
    assert_edges_agree(window, instant_ms)


@examples(150)
@given(windows(), st.integers(FIRST_MS, LAST_MS), st.integers(-2 * DAY_MS, 62 * DAY_MS))
def test_first_and_exit_say_the_same(window: Window, sent_ms: int, later_ms: int) -> None:
    """A send is inside from its own instant until just before its exit, and never again."""
    core = core_window(window)
    exit_ms = core.exit_ms(sent_ms)
    assert core.first_ms(sent_ms) <= sent_ms < exit_ms
    assert core.first_ms(exit_ms - 1) <= sent_ms < core.first_ms(exit_ms)
    instant_ms = sent_ms + later_ms
    if later_ms >= 0:
        assert (core.first_ms(instant_ms) <= sent_ms) == (instant_ms < exit_ms)


@pytest.mark.parametrize("zone", ZONES)
def test_windows_agree_around_every_change_of_offset(zone: str, rng: random.Random) -> None:
    """Around some of them that are drawn anew in each run."""
    changes = changes_of_offset(zone, FIRST_MS, LAST_MS)
    for change in rng.sample(changes, min(len(changes), 25 * TIMES)):
        for unit, counts in COUNTS.items():
            window = CalendarWindow(unit, zone, rng.choice(counts))
            assert_edges_agree(window, change)
            assert_agree(window, change + rng.randrange(-30 * HOUR_MS, 30 * HOUR_MS))


def test_zone_tables_hold_every_change_of_offset() -> None:
    for name in ZONES:
        table = zones.zone_table(name)
        inside = [change for change in table.transition_ms if FIRST_MS <= change <= LAST_MS]
        assert inside == changes_of_offset(name, FIRST_MS, LAST_MS), name
