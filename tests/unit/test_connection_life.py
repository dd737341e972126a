"""When a connection is asked, told and ended; time is a number here."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from limiter import bounds
from limiter.connection_life import Life

NOW_S = 1_000_000.0
GRACE_S = bounds.AGE_GRACE_MS_MAX / 1000


@dataclass
class Fake:
    """A connection that is well at NOW_S, and notes what is done to it."""

    opened_s: float = NOW_S
    active_s: float = NOW_S
    called_s: float = NOW_S
    unfinished_s: float = 0.0
    paused_s: float = 0.0
    closing_s: float = 0.0
    stream_count: int = 1
    greeted: bool = True
    done: list[str] = field(default_factory=list)

    def ping(self) -> None:
        self.done.append("ping")

    def announce_shutdown(self) -> None:
        self.done.append("announce")

    def shut_down(self, error_code: int = 0) -> None:
        self.done.append(f"shut down {error_code}")

    def abort(self) -> None:
        self.done.append("abort")


def life_of(fake: Fake) -> Life:
    return Life(fake, lambda each: fake.done.append(f"leave {each is fake}"))


@pytest.mark.parametrize(
    ("wrong", "allowed_ms"),
    [
        ({"greeted": False}, bounds.GREETING_MS_MAX),
        ({"unfinished_s": NOW_S}, bounds.FRAME_MS_MAX),
        ({"paused_s": NOW_S}, bounds.STALL_MS_MAX),
        ({"closing_s": NOW_S}, bounds.CLOSING_MS_MAX),
    ],
    ids=["greeting", "frame", "stall", "closing"],
)
def test_what_is_stuck_is_ended(wrong: dict[str, float], allowed_ms: int) -> None:
    fake = Fake(**wrong)  # type: ignore[arg-type]
    life = life_of(fake)
    fake.active_s = NOW_S + allowed_ms / 1000
    life.look(NOW_S + allowed_ms / 1000)
    assert fake.done == []
    life.look(NOW_S + allowed_ms / 1000 + 0.1)
    assert fake.done == ["abort"]


def test_who_has_nothing_to_ask_is_sent_away() -> None:
    fake = Fake(stream_count=0)
    life = life_of(fake)
    idle_s = NOW_S + bounds.IDLE_MS_MAX / 1000
    fake.active_s = idle_s
    life.look(idle_s)
    assert fake.done == []
    life.look(idle_s + 0.1)
    assert fake.done == ["shut down 0"]


def test_who_is_silent_is_asked_and_given_up() -> None:
    fake = Fake()
    life = life_of(fake)
    asked_s = NOW_S + bounds.QUIET_MS_MAX / 1000 + 0.1
    life.look(asked_s)
    life.look(asked_s + bounds.PING_MS_MAX / 1000)
    assert fake.done == ["ping"]
    life.look(asked_s + bounds.PING_MS_MAX / 1000 + 0.1)
    assert fake.done == ["ping", "abort"]


def test_who_answers_is_asked_again_later() -> None:
    fake = Fake()
    life = life_of(fake)
    quiet_s = bounds.QUIET_MS_MAX / 1000 + 0.1
    life.look(NOW_S + quiet_s)
    fake.active_s = NOW_S + quiet_s + 1
    life.look(NOW_S + 2 * quiet_s)
    assert fake.done == ["ping"]
    life.look(fake.active_s + quiet_s)
    assert fake.done == ["ping", "ping"]


def test_the_old_are_told_and_then_left() -> None:
    fake = Fake()
    life = life_of(fake)
    age_s = NOW_S + life._age_s + 0.1
    fake.active_s = age_s + GRACE_S
    life.look(NOW_S + 0.9 * bounds.AGE_MS_MAX / 1000)
    assert fake.done == []
    for later_s in (0, 1, 2, GRACE_S - 1):
        life.look(age_s + later_s)
    assert fake.done[:2] == ["announce", "shut down 0"]
    life.look(age_s + GRACE_S + 1)
    life.look(age_s + GRACE_S + 2)
    assert fake.done[-2:] == ["leave True", "abort"]


def test_they_do_not_all_leave_at_once() -> None:
    ages_s = {Life(Fake(), lambda _each: None)._age_s for _ in range(20)}
    assert len(ages_s) > 1
    assert max(ages_s) <= bounds.AGE_MS_MAX / 1000
