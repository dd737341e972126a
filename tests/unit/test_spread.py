"""Values counted in classes, against counting them one by one."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest

from limiter._spread import Spread


def test_each_value_is_in_the_first_class_that_reaches_it(rng: random.Random) -> None:
    for _ in range(50):
        limits = sorted(rng.sample(range(1, 10 ** rng.randrange(2, 18)), rng.randrange(1, 33)))
        spread = Spread(limits, 3)
        values = [limit + change for limit in limits for change in (-1, 0, 1)]
        values += [rng.getrandbits(rng.randrange(1, 63)) for _ in range(100)]
        values += [0, 2**63 - 1]
        expected = [0] * (len(limits) + 1)
        for value in values:
            spread.record(value, 1)
            expected[bisect_left(limits, value)] += 1
        assert spread.counts(1) == expected
        assert spread.total(1) == pytest.approx(float(sum(values)))
        assert spread.limits == limits
        assert sum(spread.counts(0)) + sum(spread.counts(2)) == 0


def test_what_is_negative_counts_as_nothing() -> None:
    spread = Spread([1, 10])
    spread.record(-5)
    assert (spread.counts(), spread.total()) == ([1, 0, 0], 0)


@pytest.mark.parametrize("limits", [[], [0, 1], [-1], [2, 1], [1, 1], list(range(1, 34))], ids=str)
def test_limits_that_cannot_be(limits: list[int]) -> None:
    with pytest.raises(ValueError, match="limits"):
        Spread(limits)


def test_rows_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="one row"):
        Spread([1], 0)
    spread = Spread([1], 2)
    assert spread.row_count == 2
    for row in (-1, 2):
        with pytest.raises(IndexError, match="2 rows"):
            spread.record(1, row)
        with pytest.raises(IndexError):
            spread.counts(row)
        with pytest.raises(IndexError):
            spread.total(row)
