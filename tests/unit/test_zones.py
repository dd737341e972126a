"""Zone tables against zoneinfo, an independent reader of the same files."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import errors, zones

CHECKED = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "UTC",
]

HOUR_MS = 3_600_000
YEAR_MS = 366 * 24 * HOUR_MS
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@cache
def reference(name: str) -> ZoneInfo:
    file = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with file.open("rb") as stream:
        return ZoneInfo.from_file(stream, key=name)


def reference_offset_ms(zone: ZoneInfo, at_ms: int) -> int:
    local = (EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)
    offset = local.utcoffset()
    assert offset is not None
    return int(offset.total_seconds() * 1000)


def year_ms(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000


def offset_ms(table: zones.ZoneTable, at_ms: int) -> int:
    return table.offset_ms[bisect_right(table.transition_ms, at_ms)]


def assert_well_formed(table: zones.ZoneTable) -> None:
    assert len(table.offset_ms) == len(table.transition_ms) + 1
    assert list(table.transition_ms) == sorted(set(table.transition_ms))
    neighbours = zip(table.offset_ms, table.offset_ms[1:], strict=False)
    assert all(before != after for before, after in neighbours)


@pytest.mark.parametrize("name", CHECKED)
def test_every_day_has_the_offset_that_zoneinfo_gives(name: str) -> None:
    """All days of 1970..2101: a table that misses or invents a change differs somewhere."""
    table = zones.zone_table(name)
    zone = reference(name)
    assert_well_formed(table)
    at = EPOCH
    day = timedelta(days=1)
    segment = bisect_right(table.transition_ms, 0)
    transition_ms = (*table.transition_ms, year_ms(2200))
    for at_ms in range(0, year_ms(2102), 24 * HOUR_MS):
        while transition_ms[segment] <= at_ms:
            segment += 1
        offset = at.astimezone(zone).utcoffset()
        assert offset == timedelta(milliseconds=table.offset_ms[segment]), at
        at += day


def test_every_change_of_every_zone_is_exact_to_the_millisecond() -> None:
    # The rule of the future is the same every year; its ends are enough.
    checked_years = [*range(1970, 2041), *range(2095, 2102)]
    checked = {year_ms(year) // YEAR_MS for year in checked_years}
    for name in sorted(zones.names()):
        table = zones.zone_table(name)
        zone = reference(name)
        assert_well_formed(table)
        assert reference_offset_ms(zone, 0) == offset_ms(table, 0), name
        for index, at_ms in enumerate(table.transition_ms):
            if at_ms // YEAR_MS in checked:
                assert reference_offset_ms(zone, at_ms - 1) == table.offset_ms[index], name
                assert reference_offset_ms(zone, at_ms) == table.offset_ms[index + 1], name


@given(st.sampled_from(sorted(zones.names())), st.integers(0, year_ms(2102)))
def test_any_instant_of_any_zone(name: str, at_ms: int) -> None:
    assert offset_ms(zones.zone_table(name), at_ms) == reference_offset_ms(reference(name), at_ms)


def test_days_that_are_known_by_heart() -> None:
    berlin = zones.zone_table("Europe/Berlin")
    assert int(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()) * 1000 in berlin.transition_ms
    assert int(datetime(2099, 10, 25, 1, tzinfo=UTC).timestamp()) * 1000 in berlin.transition_ms
    # Samoa skipped 30 December 2011 as it crossed the date line.
    apia = zones.zone_table("Pacific/Apia")
    crossing = apia.transition_ms.index(
        int(datetime(2011, 12, 30, 10, tzinfo=UTC).timestamp()) * 1000
    )
    assert apia.offset_ms[crossing] == -10 * HOUR_MS
    assert apia.offset_ms[crossing + 1] == 14 * HOUR_MS
    # Half an hour of summer time only.
    assert {10 * HOUR_MS + HOUR_MS // 2, 11 * HOUR_MS} <= set(
        zones.zone_table("Australia/Lord_Howe").offset_ms
    )
    assert zones.zone_table("UTC") == zones.ZoneTable((), (0,))


def test_a_zone_of_the_core_is_made_once() -> None:
    assert zones.zone("Asia/Kathmandu") is zones.zone("Asia/Kathmandu")
    assert zones.zone("Asia/Kathmandu").name == "Asia/Kathmandu"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Europe/Bonn",
        "../zones",
        "/etc/localtime",
        "Europe",
        "CEST-2",
        "\x00",
        "é" * 300,
        "tzdata.zi",
    ],
)
def test_an_unknown_name_is_refused_by_field(name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        zones.zone(name, "limits[0].cap.window.calendar.time_zone")
    (violation,) = caught.value.violations
    assert violation.field == "limits[0].cap.window.calendar.time_zone"
    assert "IANA" in violation.description
    assert len(violation.description) < 300


def test_a_name_in_the_wrong_case_gets_the_right_one() -> None:
    with pytest.raises(errors.InvalidArgument, match="did you mean 'Europe/Berlin'"):
        zones.zone("europe/BERLIN")


def change(year: int, month: int, day: int, hour: int, offset_hours: int) -> tuple[int, int]:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()), offset_hours * 3600


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Day 60 of the year, February 29 never counted: 1 March in leap years too.
        ("AAA0BBB,J60/0,J300", [change(2024, 3, 1, 0, 1), change(2024, 10, 27, 1, 0)]),
        # Counted from 0 with February 29: 29 February in leap years.
        ("AAA0BBB,59/0,299", [change(2024, 2, 29, 0, 1), change(2024, 10, 26, 1, 0)]),
        # Southern summer, its own offset, times before midnight and past the next.
        (
            "<+03>-3<+05>-5,M10.1.0/-1,M3.5.0/26",
            [change(2024, 10, 5, 20, 5), change(2024, 3, 31, 21, 3)],
        ),
    ],
)
def test_every_form_of_a_rule(rule: str, expected: list[tuple[int, int]]) -> None:
    changes = zones._rule_changes(rule)
    for wanted in expected:
        assert wanted in changes


def test_summer_time_that_never_ends() -> None:
    changes = zones._rule_changes("XXX3EDT4,0/0,J365/23")
    offset_at = dict(changes)
    covered = [offset_at[second] for second in sorted(offset_at)[1:-1]]
    assert set(covered) == {-4 * 3600}


@pytest.mark.parametrize(
    "rule", ["nonsense", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1CEST,M3.6.0,M10.5.0"]
)
def test_a_broken_rule_is_not_guessed_at(rule: str) -> None:
    with pytest.raises(ValueError, match="POSIX"):
        zones._rule_changes(rule)


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="TZif"):
        zones._tabulate(b"TZif1" + bytes(100))
