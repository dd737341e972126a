from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import bounds, errors
from limiter.clock import (
    DrivenClock,
    SystemClock,
    check_start,
    format_instant,
)

MS_NS = 1_000_000
DAY_NS = bounds.DAY_MS * MS_NS
START_NS = 1_800_000_000_000 * MS_NS

# How the world moves on between two readings: real time that passes, and a step of the wall clock.
MOVES = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 5),
            st.integers(0, 10 * MS_NS),
            st.integers(0, 2 * 3_600_000 * MS_NS),
        ),
        st.one_of(
            st.just(0),
            st.integers(-500 * MS_NS, 500 * MS_NS),
            st.integers(-DAY_NS, DAY_NS),
        ),
    ),
    max_size=60,
)


class World:
    """A wall clock that can be stepped and a boot-time clock that cannot."""

    def __init__(self, wall_ns: int = START_NS) -> None:
        self.wall = wall_ns
        self.boot = 12_345 * MS_NS

    def clock(self, not_before_ms: int = 0) -> SystemClock:
        return SystemClock(
            not_before_ms=not_before_ms, wall_ns=lambda: self.wall, boot_ns=lambda: self.boot
        )

    def move(self, elapsed_ns: int, step_ns: int = 0) -> None:
        self.boot += elapsed_ns
        self.wall += elapsed_ns + step_ns


class TestSystemClock:
    @given(MOVES)
    def test_time_passes_within_five_percent_whatever_the_wall_clock_does(
        self, moves: list[tuple[int, int]]
    ) -> None:
        world = World()
        clock = world.clock()
        start_ms = last_ms = clock.now_ms()
        assert start_ms == world.wall // MS_NS
        elapsed_ns = 0
        for elapsed, step in moves:
            world.move(elapsed, step)
            elapsed_ns += elapsed
            now_ms = clock.now_ms()
            assert now_ms >= last_ms
            passed_ms = now_ms - start_ms
            assert elapsed_ns * 0.95 / MS_NS - 1 <= passed_ms <= elapsed_ns * 1.05 / MS_NS + 1
            # And so between any two readings, not only from the start on.
            assert (now_ms - last_ms) <= elapsed * 1.05 / MS_NS + 1
            assert (now_ms - last_ms) >= elapsed * 0.95 / MS_NS - 1
            last_ms = now_ms

    @given(MOVES)
    def test_it_never_overshoots_the_wall_clock(self, moves: list[tuple[int, int]]) -> None:
        world = World()
        clock = world.clock()
        for elapsed, step in moves:
            before_ns = clock._value_ns - world.wall
            world.move(elapsed, step)
            clock.now_ms()
            target_ns = before_ns - step
            after_ns = clock._value_ns - world.wall
            # The difference shrinks or stays, and does not change its sign.
            assert abs(after_ns) <= abs(target_ns)
            assert after_ns * target_ns >= 0

    @given(st.integers(-DAY_NS, DAY_NS))
    def test_a_step_is_worked_off_in_twenty_times_its_length(self, step_ns: int) -> None:
        world = World()
        clock = world.clock()
        world.move(0, step_ns)
        for _ in range(20):
            world.move(abs(step_ns) + 20)
            clock.now_ms()
        assert clock.now_ms() == world.wall // MS_NS

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
    def test_frequent_readings_do_not_stop_it(self, steps_ns: list[int]) -> None:
        world = World()
        clock = world.clock()
        world.move(0, -DAY_NS)
        for elapsed in steps_ns:
            world.move(elapsed)
            clock.now_ms()
        assert clock._value_ns - START_NS >= sum(steps_ns) * 0.95

    def test_a_wall_clock_that_keeps_jumping_is_not_followed(self) -> None:
        world = World()
        clock = world.clock()
        for number in range(1, 1001):
            world.move(MS_NS, DAY_NS if number % 2 else -DAY_NS)
            assert abs(clock.now_ms() - START_NS // MS_NS - number) <= number * 0.05 + 1

    def test_it_keeps_to_a_wall_clock_that_is_disciplined(self) -> None:
        world = World()
        clock = world.clock()
        for _ in range(1000):
            world.move(1_000 * MS_NS, 100_000)
            assert abs(clock.now_ms() - world.wall // MS_NS) <= 1

    def test_sleep_of_the_machine_counts(self) -> None:
        world = World()
        clock = world.clock()
        world.move(DAY_NS)
        assert clock.now_ms() == (START_NS + DAY_NS) // MS_NS

    def test_it_starts_no_earlier_than_the_journal_ends(self) -> None:
        world = World()
        journal_ms = START_NS // MS_NS + 30_000
        clock = world.clock(not_before_ms=journal_ms)
        assert clock.now_ms() == journal_ms
        world.move(1_000 * MS_NS)
        assert clock.now_ms() == journal_ms + 950
        world.move(600_000 * MS_NS)
        assert clock.now_ms() == world.wall // MS_NS

    def test_the_real_clocks(self) -> None:
        clock = SystemClock()
        first_ms = clock.now_ms()
        assert abs(first_ms - time.time_ns() // MS_NS) < 1_000
        time.sleep(0.02)
        assert 15 <= clock.now_ms() - first_ms < 1_000


class TestDrivenClock:
    def test_it_stands_until_it_is_set(self) -> None:
        clock = DrivenClock(1_000)
        assert clock.now_ms() == clock.now_ms() == 1_000
        clock.set_ms(1_000)
        clock.set_ms(5_000)
        assert clock.now_ms() == 5_000

    def test_it_does_not_go_back(self) -> None:
        clock = DrivenClock(5_000)
        with pytest.raises(
            errors.FailedPrecondition, match=r"00:00:05\.000Z and moves only forward"
        ):
            clock.set_ms(4_999)
        assert clock.now_ms() == 5_000

    @pytest.mark.parametrize("instant_ms", [-1, bounds.INSTANT_MS_MAX + 1])
    def test_it_keeps_to_the_range_of_instants(self, instant_ms: int) -> None:
        with pytest.raises(errors.InvalidArgument, match="1970 and 2100"):
            DrivenClock(instant_ms)
        clock = DrivenClock(0)
        with pytest.raises(errors.InvalidArgument, match="1970 and 2100"):
            clock.set_ms(instant_ms)
        clock.set_ms(bounds.INSTANT_MS_MAX)


class TestCheckStart:
    LAST_MS = 1_800_000_000_000

    @pytest.mark.parametrize(
        "difference_ms",
        [-bounds.START_BEHIND_MS_MAX, -1, 0, bounds.DAY_MS, bounds.START_AHEAD_MS_MAX],
    )
    def test_what_may_be_is_accepted(self, difference_ms: int) -> None:
        check_start(self.LAST_MS + difference_ms, self.LAST_MS)

    @pytest.mark.parametrize(
        ("difference_ms", "words"),
        [
            (-bounds.START_BEHIND_MS_MAX - 1, "0.00 days behind"),
            (-3 * bounds.DAY_MS, "3.00 days behind"),
            (bounds.START_AHEAD_MS_MAX + 1, "62.00 days ahead of"),
        ],
    )
    def test_what_cannot_be_is_refused_with_the_way_out(
        self, difference_ms: int, words: str
    ) -> None:
        with pytest.raises(errors.FailedPrecondition, match=words) as caught:
            check_start(self.LAST_MS + difference_ms, self.LAST_MS)
        assert "--accept-clock" in caught.value.message
        assert "2027-01-15T08:00:00.000Z" in caught.value.message
        assert caught.value.reason == "CLOCK_IMPLAUSIBLE"
        check_start(self.LAST_MS + difference_ms, self.LAST_MS, accept_clock=True)

    def test_without_a_journal_any_possible_time_will_do(self) -> None:
        check_start(0, 0)
        check_start(bounds.INSTANT_MS_MAX, 0)

    @pytest.mark.parametrize("wall_ms", [-1, bounds.INSTANT_MS_MAX + 1])
    def test_an_impossible_time_is_never_accepted(self, wall_ms: int) -> None:
        with pytest.raises(errors.FailedPrecondition, match="1970 to 2100"):
            check_start(wall_ms, 0, accept_clock=True)


def test_instants_are_written_for_people() -> None:
    assert format_instant(1_800_000_000_123) == "2027-01-15T08:00:00.123Z"
    assert format_instant(0) == "1970-01-01T00:00:00.000Z"
