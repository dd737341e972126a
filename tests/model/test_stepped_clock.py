"""The service and the oracle behind a system clock whose wall clock is stepped or stands or drifts.

The wall clock and the boot-time clock are injected. Every reply is compared with that of the oracle
at the instant that the clock gives; beside that, what was allowed is held against true time: a
window of the service's clock lasts at least 1 / 1.05 of its length in truth, and at most 1 / 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from limiter.clock import SystemClock
from limiter.v1 import attempt_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.driver import CoreDriver
from tests.model.effort import examples
from tests.model.limits import RUN, Limit, limit_of
from tests.model.pair import Pair
from tests.model.properties import inside_counts
from tests.model.verdicts import ALLOWED
from tests.model.windows import DAY_MS, HOUR_MS, Rolling, instant_of

MS_NS = 1_000_000


class World:
    """True time, which the boot-time clock tells, and a wall clock that tells anything."""

    def __init__(self, start_ms: int) -> None:
        self.true_ns = 77 * HOUR_MS * MS_NS
        self.wall_ns = start_ms * MS_NS

    @property
    def true_ms(self) -> float:
        return self.true_ns / MS_NS

    def clock(self) -> SystemClock:
        return SystemClock(wall_ns=lambda: self.wall_ns, boot_ns=lambda: self.true_ns)


@dataclass(frozen=True)
class Move:
    """So much true time passes. Meanwhile the wall clock runs at some parts in a million of its
    speed (0: it stands), and is stepped in the end."""

    true_ms: int
    speed_ppm: int
    step_ms: int

    def make(self, world: World) -> None:
        passed_ns = self.true_ms * MS_NS
        world.true_ns += passed_ns
        world.wall_ns += passed_ns * self.speed_ppm // 1_000_000 + self.step_ms * MS_NS


STEPS_MS = st.one_of(
    st.just(0), st.sampled_from((-DAY_MS, DAY_MS, -HOUR_MS, HOUR_MS)), st.integers(-DAY_MS, DAY_MS)
)
SPEEDS_PPM = st.sampled_from((1_000_000, 1_000_000, 0, 999_900, 1_000_100, 500_000, 3_000_000))
MOVES = st.builds(
    Move, strategies.moves().map(lambda ms: min(ms, 3 * DAY_MS)), SPEEDS_PPM, STEPS_MS
)


@dataclass(frozen=True)
class Story:
    """Policies of enforced limits on everything, and what happens under them."""

    start_ms: int
    world: strategies.World
    steps: Sequence[tuple[Move, service_pb2.CommitRequest]]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    pool = draw(strategies.pools())
    world = draw(strategies.plain_worlds(pool))
    steps = draw(
        st.lists(st.tuples(MOVES, strategies.commits(whole=True)), min_size=8, max_size=25)
    )
    for _, request in steps:
        request.request_id = ""
    # Far enough from 1970 for every step to lead to an instant.
    return Story(max(draw(strategies.starts()), instant_of(1975)), world, steps)


class Life:
    """A story that is lived through; `sent` is what was allowed, at its true time."""

    def __init__(self, story: Story) -> None:
        self.world = World(story.start_ms)
        self.clock = self.world.clock()
        self.pair = Pair(CoreDriver(story.start_ms), self.clock.now_ms())
        self.pair.apply(story.world.policies, story.world.assignments)
        self.sent: list[tuple[int, attempt_pb2.Attempt]] = []

    def move(self, move: Move) -> None:
        """Time passes: by the service's clock as by the true one, but for 5 %."""
        before_ms = self.clock.now_ms()
        move.make(self.world)
        now_ms = self.clock.now_ms()
        assert 0.95 * move.true_ms - 1 <= now_ms - before_ms <= 1.05 * move.true_ms + 1
        self.pair.advance_to(now_ms)

    def commit(self, request: service_pb2.CommitRequest) -> service_pb2.CommitResponse:
        response = self.pair.commit(request)
        assert response is not None
        if response.decision.outcome == ALLOWED:
            # In microseconds, so that what follows at once follows.
            self.sent.append((round(self.world.true_ms * 1000), request.attempt))
        return response


def true_limit(limit: Limit) -> Limit | None:
    """What a limit means in true time, in microseconds: its window lasts at least so long; None for
    a limit whose windows the wall clock rules."""
    if limit.kind is None or limit.kind.measure == RUN:
        return None
    if not isinstance(limit.kind.window, Rolling) or limit.ramp is not None:
        return None
    window = Rolling(max(1, int(limit.kind.window.duration_ms * 1000 / 1.05) - 2_000))
    return replace(limit, kind=replace(limit.kind, window=window))


@examples(120)
@given(stories())
def test_no_limit_is_exceeded_in_true_time(story: Story) -> None:
    life = Life(story)
    for move, request in story.steps:
        life.move(move)
        life.commit(request)
    for policy in story.world.policies:
        for each in policy.limits:
            limit = true_limit(limit_of(each, policy.name))
            if limit is None:
                continue
            for at_us in sorted({at_us for at_us, _ in life.sent}):
                before = [one for one in life.sent if one[0] <= at_us]
                counts = inside_counts(limit, before, at_us)
                assert all(count <= limit.max_count for count in counts.values())
    life.pair.driver.close()


@examples(80)
@given(stories(), st.lists(MOVES, max_size=4), SPEEDS_PPM, STEPS_MS)
def test_nothing_is_frozen(story: Story, moves: list[Move], speed_ppm: int, step_ms: int) -> None:
    """Whoever is told to wait may go after that time, whatever the wall clock does meanwhile."""
    life = Life(story)
    for move, request in story.steps:
        life.move(move)
        response = life.commit(request)
        if response.decision.outcome == ALLOWED or not response.decision.HasField("retry_time"):
            continue
        retry_ms = response.decision.retry_time.ToMilliseconds()
        for each in moves:
            if life.pair.now_ms + 1.05 * each.true_ms + 1 < retry_ms:
                life.move(each)
        left_ms = retry_ms - life.pair.now_ms
        if retry_ms >= strategies.LAST_MS:
            continue
        life.move(Move(int(left_ms / 0.95) + 2, speed_ppm, step_ms))
        assert life.pair.now_ms >= retry_ms
    life.pair.driver.close()


def always(outcome_each_ms: int, move: Move, count: int) -> list[bool]:
    """Whether each of many commits is allowed under one message in so many ms."""
    limit = policy_pb2.Limit(limit_id="one", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    limit.cap.measure = policy_pb2.MEASURE_MESSAGES
    limit.cap.max_count = 1
    limit.cap.window.rolling.FromMilliseconds(outcome_each_ms)
    life = Life(Story(instant_of(2024, 6), strategies.single([limit]), ()))
    request = service_pb2.CommitRequest(attempt=attempt_pb2.Attempt(account="acme", contact="ana"))
    found = []
    for number in range(count):
        life.move(Move(move.true_ms, move.speed_ppm, move.step_ms * (-1) ** number))
        found.append(life.commit(request).decision.outcome == ALLOWED)
    return found


@given(st.sampled_from((0, 1, 1_000_000)), STEPS_MS)
@example(0, -DAY_MS)
@example(0, DAY_MS)
def test_a_stream_of_commits_never_freezes(speed_ppm: int, step_ms: int) -> None:
    """One message a second, asked for each 1.06 s, is always allowed; each 0.95 s, never twice in a
    row."""
    assert all(always(1_000, Move(1_060, speed_ppm, step_ms), 60))
    found = always(1_000, Move(940, speed_ppm, step_ms), 60)
    assert not any(first and second for first, second in pairwise(found))
    assert sum(found) == 30
