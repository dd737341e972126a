"""The long run of mixed traffic works, and finds what grows; `make soak` is the long run itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.readings import COLUMNS, Flat, grown
from tests.soak.run import Plan, soak

RULE = Flat("names", settles_days=2, ratio=1.1, slack=5)


def test_what_grows_is_told() -> None:
    faults, judged = grown([{"names": 100 * day} for day in range(8)], [RULE])
    assert judged == ["names"]
    assert len(faults) == 1
    assert faults[0].startswith("names grows: 450 on average in the third quarter of the 8 days, ")
    assert faults[0].endswith("650 in the last, which may be 500 at most")


@pytest.mark.parametrize(
    "values",
    [
        # Once it has filled up.
        [0, 100, 200, 300, 300, 300, 300, 300],
        # From day to day.
        [300, 310, 290, 305, 310, 300, 320, 310],
        [0, 0, 0, 0, 0, 0, 5, 5],
    ],
)
def test_what_stays_is_not(values: list[float]) -> None:
    assert grown([{"names": value} for value in values], [RULE]) == ([], ["names"])


def test_what_has_not_settled_yet_is_not_looked_at() -> None:
    readings = [{"names": float(day)} for day in range(60)]
    assert grown(readings, [Flat("names", settles_days=31, ratio=1)]) == ([], [])
    assert grown(readings[:3], [RULE]) == ([], [])


@pytest.mark.slow
def test_four_days_of_everything(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = Plan(days=4, quarters=12, scale=0.4, seed=1)
    readings, counts = soak(tmp_path / "data", plan, lines.append)
    assert len(readings) == 4
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    for reading in readings:
        assert set(reading) == {column.name for column in COLUMNS}
        assert reading["memory_bytes"] > reading["private_bytes"] > 0
        assert reading["disk_bytes"] > 0
    kinds = {"allowed", "denied", "cancelled", "confirmed", "repeated"}
    assert set(counts) == kinds
    assert all(counts.values())
    faults, judged = grown(readings)
    assert faults == []
    assert judged == ["request_ids", "held"]
