"""Durations in words round up, two units at most, and parse back."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.cli.durations import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    at_local,
    in_table,
    in_words,
    parse_ms,
    retry_in_words,
)


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (1, "1 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (1_001, "2 s"),
        (45_000, "45 s"),
        (59_001, "1 min"),
        (MINUTE_MS + 1, "1 min 1 s"),
        (3 * HOUR_MS + 12 * MINUTE_MS, "3 h 12 min"),
        (3 * HOUR_MS + 11 * MINUTE_MS + 1, "3 h 12 min"),
        (2 * HOUR_MS - 1, "2 h"),
        (HOUR_MS - MINUTE_MS + 1, "59 min 1 s"),
        (HOUR_MS - 1, "1 h"),
        (DAY_MS - HOUR_MS + 1, "23 h 1 min"),
        (DAY_MS - 1, "1 d"),
        (DAY_MS + 1, "1 d 1 h"),
        (62 * DAY_MS, "62 d"),
    ],
)
def test_words(duration_ms: int, words: str) -> None:
    assert in_words(duration_ms) == words


@given(st.integers(min_value=1, max_value=400 * DAY_MS))
def test_words_never_promise_too_early_and_are_off_by_less_than_their_smaller_unit(
    duration_ms: int,
) -> None:
    told_ms = parse_ms(in_words(duration_ms))
    if duration_ms < SECOND_MS:
        step_ms = 1
    elif duration_ms < HOUR_MS:
        step_ms = SECOND_MS
    elif duration_ms < DAY_MS:
        step_ms = MINUTE_MS
    else:
        step_ms = HOUR_MS
    assert duration_ms <= told_ms < duration_ms + step_ms


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("24h", DAY_MS),
        ("7d", 7 * DAY_MS),
        ("1h30min", 90 * MINUTE_MS),
        ("1 h 30 m", 90 * MINUTE_MS),
        (" 500MS ", 500),
        ("0s", 0),
    ],
)
def test_parse(text: str, duration_ms: int) -> None:
    assert parse_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text", ["", "24", "h", "1.5h", "-1h", "24h!", "x24h", "1h x 2m", "1 week"]
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_ms(text)


def test_local_time_rounds_up_to_the_second_and_names_its_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert at_local(1_741_007_112_000, berlin) == "Mon 3 Mar 2025 14:05:12 CET"
    assert at_local(1_741_007_112_001, berlin) == "Mon 3 Mar 2025 14:05:13 CET"
    assert in_table(1_741_007_112_001, berlin) == "2025-03-03 14:05:13"
    assert at_local(0, UTC) == "Thu 1 Jan 1970 00:00:00 UTC"


def test_when_to_try_again() -> None:
    words = retry_in_words(11_520_000, 0, UTC)
    assert words == "try again in 3 h 12 min, at Thu 1 Jan 1970 03:12:00 UTC"
