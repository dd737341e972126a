"""Whole servers whose wall clock is stepped while they serve, or is wrong when they start.

What a server says of the time is held against the boot-time clock, read before the call and after
it; so nothing here hangs on how fast a machine is.
"""

from __future__ import annotations

import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from limiter import bounds
from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2
from tests.clock.shim import WallClock, compile_shim
from tests.integration import transports
from tests.integration.process import PATIENCE_S, ServerProcess
from tests.integration.requests import assign, cap, commit_request

DAY_MS: Final = bounds.DAY_MS
YEAR_MS: Final = 365 * DAY_MS


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def wall(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """What the servers that are started from now on take for the time."""
    wall = WallClock(shim, tmp_path)
    for name, value in wall.environment.items():
        monkeypatch.setenv(name, value)
    return wall


@pytest.fixture(params=transports.TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    with transports.served_by(request.param):
        yield request.param


def serving(data_dir: Path, **settings: Any) -> ServerProcess:
    return ServerProcess(data_dir, clock="system", **settings)


def boot_ms() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000


class Times:
    """When a server says that it decided, against when it really did."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, float]] = []

    def commit(self, server: ServerProcess, contact: str) -> decision_pb2.Decision:
        before_ms = boot_ms()
        decision = server.decisions.Commit(commit_request("a", contact)).decision
        self.seen.append((before_ms, decision.decide_time.ToMilliseconds(), boot_ms()))
        return decision

    def check(self) -> None:
        """Between any two decisions as much time passed by the server's clock as in truth, but for
        5 %, and it never went back."""
        for later, (before_ms, decided_ms, after_ms) in enumerate(self.seen):
            for first_before_ms, first_decided_ms, first_after_ms in self.seen[:later]:
                passed_ms = decided_ms - first_decided_ms
                assert 0.95 * (before_ms - first_after_ms) - 2 <= passed_ms
                assert passed_ms <= 1.05 * (after_ms - first_before_ms) + 2
                assert passed_ms >= 0


def metric(server: ServerProcess, name: str) -> float:
    url = server.log.split("metrics are at ")[1].split('"')[0]
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class TestStepped:
    def test_time_goes_on_as_if_nothing_had_happened(
        self, wall: WallClock, tmp_path: Path, transport: str, rng: random.Random
    ) -> None:
        times = Times()
        with serving(tmp_path / "data", transport=transport) as server:
            assign(server, "a", cap(1_000_000))
            for number in range(60):
                way = rng.randrange(4)
                if way == 0:
                    wall.set_off(rng.randrange(-DAY_MS, DAY_MS))
                elif way == 1:
                    wall.set_off(rng.choice((-DAY_MS, DAY_MS)))
                elif way == 2:
                    wall.stand()
                decision = times.commit(server, f"c{number}")
                assert decision.outcome == decision_pb2.OUTCOME_ALLOWED
        times.check()

    @pytest.mark.parametrize("offset_ms", [DAY_MS, -DAY_MS])
    def test_a_limit_does_not_open_by_a_step(
        self, wall: WallClock, tmp_path: Path, offset_ms: int
    ) -> None:
        times = Times()
        with serving(tmp_path / "data") as server:
            assign(server, "a", cap(1, seconds=3_600))
            first = times.commit(server, "first")
            opens_ms = first.decide_time.ToMilliseconds() + bounds.HOUR_MS
            for _ in range(3):
                wall.set_off(offset_ms)
                second = times.commit(server, "second")
                assert second.outcome == decision_pb2.OUTCOME_DENIED
                assert second.retry_time.ToMilliseconds() == opens_ms
                # Who is told to wait is told by the same clock: not for a day, nor not at all.
                assert second.decide_time.ToMilliseconds() < opens_ms
                wall.set_off(0)
        times.check()

    def test_steps_are_counted_and_told(self, wall: WallClock, tmp_path: Path) -> None:
        forward = 'limiter_clock_steps_total{direction="forward"}'
        backward = 'limiter_clock_steps_total{direction="backward"}'
        with serving(tmp_path / "data", metrics_port="127.0.0.1:0") as server:
            assert metric(server, forward) == metric(server, backward) == 0
            wall.set_off(DAY_MS)
            wait_until(lambda: metric(server, forward) == 1)
            # The service's clock is behind the machine's, and nears it slowly.
            offset_s = metric(server, "limiter_clock_offset_seconds")
            assert -86_400 <= offset_s < -86_400 + PATIENCE_S
            wall.set_off(0)
            wait_until(lambda: metric(server, backward) == 1)
            assert abs(metric(server, "limiter_clock_offset_seconds")) < PATIENCE_S
            assert "the machine's clock was stepped" in server.log

    @pytest.mark.parametrize("transport", transports.TRANSPORTS)
    def test_what_waits_for_the_time_goes_on_while_the_clock_stands(
        self, wall: WallClock, tmp_path: Path, transport: str
    ) -> None:
        """A hold lapses by itself, a watcher is told of it, and a limit opens again."""
        with serving(tmp_path / "data", transport=transport) as server:
            assign(server, "a", cap(1, seconds=1))
            wall.set_off(-DAY_MS)
            wall.stand()
            held = commit_request("a", "first")
            held.hold_duration.FromMilliseconds(300)
            assert server.decisions.Commit(held).decision.outcome == decision_pb2.OUTCOME_ALLOWED
            template = attempt_pb2.Attempt(account="a")
            watched = server.decisions.WatchUsage(
                decision_service_pb2.WatchUsageRequest(attempt=template), timeout=PATIENCE_S
            )
            used = [next(watched).limit_statuses[0].used_count]
            while used[-1]:
                used.append(next(watched).limit_statuses[0].used_count)
            watched.cancel()
            assert used[-1] == 0
            second = server.decisions.Commit(commit_request("a", "second")).decision
            assert second.outcome == decision_pb2.OUTCOME_ALLOWED
            wait_until(
                lambda: (
                    server.decisions.Commit(commit_request("a", "third")).decision.outcome
                    == decision_pb2.OUTCOME_ALLOWED
                )
            )

    def test_a_stream_goes_on(self, wall: WallClock, tmp_path: Path, transport: str) -> None:
        with serving(tmp_path / "data", transport=transport) as server:
            assign(server, "a", cap(1_000_000))

            def requests() -> Iterator[decision_service_pb2.CommitRequest]:
                for number in range(200):
                    wall.set_off((number % 3 - 1) * DAY_MS)
                    yield commit_request("a", f"c{number}")

            decided_ms = [
                reply.decision.decide_time.ToMilliseconds()
                for reply in server.decisions.CommitStream(requests(), timeout=PATIENCE_S)
            ]
            assert len(decided_ms) == 200
            assert decided_ms == sorted(decided_ms)
            assert decided_ms[-1] - decided_ms[0] < 2 * PATIENCE_S * 1000


class TestWrongAtTheStart:
    def leave_data(self, data_dir: Path) -> int:
        """Leaves a folder with one full limit; when that was, by its own account."""
        with serving(data_dir) as server:
            assign(server, "a", cap(1, seconds=3_600))
            decision = server.decisions.Commit(commit_request("a", "first")).decision
            assert decision.outcome == decision_pb2.OUTCOME_ALLOWED
            return decision.decide_time.ToMilliseconds()

    def refused(self, data_dir: Path) -> str:
        """What a server says that does not start."""
        server = serving(data_dir)
        try:
            assert server.wait() == 3
            assert server.ready_line == ""
            return server.log
        finally:
            server.close()

    def test_an_hour_behind(self, wall: WallClock, tmp_path: Path) -> None:
        last_ms = self.leave_data(tmp_path / "data")
        wall.set_off(-bounds.HOUR_MS)
        said = self.refused(tmp_path / "data")
        assert "FAILED_PRECONDITION CLOCK_IMPLAUSIBLE" in said
        assert "0.04 days behind the last recorded instant" in said
        assert "start with --accept-clock if it is right" in said
        times = Times()
        with serving(tmp_path / "data", accept_clock=True) as server:
            # Time goes on from the last recorded instant, and does go on.
            for number in range(10):
                decision = times.commit(server, f"c{number}")
                assert decision.outcome == decision_pb2.OUTCOME_DENIED
                assert decision.decide_time.ToMilliseconds() >= last_ms
                assert decision.retry_time.ToMilliseconds() == last_ms + bounds.HOUR_MS
                time.sleep(0.01)
            times.check()
            assert times.seen[-1][1] >= last_ms + 85
        # What was decided meanwhile is in the journal: the clock is still an hour behind it.
        assert "0.04 days behind" in self.refused(tmp_path / "data")
        wall.set_off(0)
        with serving(tmp_path / "data") as server:
            decision = server.decisions.Commit(commit_request("a", "last")).decision
            assert decision.outcome == decision_pb2.OUTCOME_DENIED

    def test_a_year_ahead(self, wall: WallClock, tmp_path: Path) -> None:
        last_ms = self.leave_data(tmp_path / "data")
        wall.set_off(YEAR_MS)
        said = self.refused(tmp_path / "data")
        assert "FAILED_PRECONDITION CLOCK_IMPLAUSIBLE" in said
        assert "365.00 days ahead of the last recorded instant" in said
        assert "all that was counted until then leaves its windows" in said
        times = Times()
        with serving(tmp_path / "data", accept_clock=True) as server:
            decision = times.commit(server, "next year")
            assert decision.outcome == decision_pb2.OUTCOME_ALLOWED
            assert decision.decide_time.ToMilliseconds() >= last_ms + YEAR_MS
            assert times.commit(server, "too many").outcome == decision_pb2.OUTCOME_DENIED
        times.check()
        # Back in the present: the journal is a year ahead now.
        wall.set_off(0)
        assert "days behind the last recorded instant" in self.refused(tmp_path / "data")
        with serving(tmp_path / "data", accept_clock=True) as server:
            decision = server.decisions.Commit(commit_request("a", "still too many")).decision
            assert decision.outcome == decision_pb2.OUTCOME_DENIED
            assert decision.decide_time.ToMilliseconds() >= last_ms + YEAR_MS

    def test_a_year_ahead_without_data_is_believed(self, wall: WallClock, tmp_path: Path) -> None:
        wall.set_off(YEAR_MS)
        with serving(tmp_path / "data") as server:
            decision = server.decisions.Check(
                decision_service_pb2.CheckRequest(
                    attempt=attempt_pb2.Attempt(account="a", contact="c")
                )
            ).decision
            assert abs(decision.decide_time.ToMilliseconds() - wall.now_ms) < PATIENCE_S * 1000

    def test_before_1970(self, wall: WallClock, tmp_path: Path) -> None:
        wall.set_off(-time.time_ns() // 1_000_000 - DAY_MS)
        assert "outside the years 1970 to 2100" in self.refused(tmp_path / "data")


def test_the_shim_changes_what_a_server_sees_and_nothing_else(wall: WallClock) -> None:
    before_ms = time.time_ns() // 1_000_000
    wall.set_off(DAY_MS)
    assert wall.now_ms - before_ms >= DAY_MS
    assert time.time_ns() // 1_000_000 - before_ms < PATIENCE_S * 1000
    wall.stand()
    stood_ms = wall.now_ms
    time.sleep(0.002)
    assert wall.now_ms == stood_ms
