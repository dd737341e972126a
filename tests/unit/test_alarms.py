"""Alarms under a clock that is moved by hand, and under one that runs."""

from __future__ import annotations

import asyncio
import random
from functools import partial

from limiter.alarms import Alarm, Alarms
from limiter.clock import DrivenClock, SystemClock

START_MS = 1_800_000_000_000


async def test_what_is_due_rings_in_order_within_the_move() -> None:
    clock = DrivenClock(START_MS)
    alarms = Alarms(clock)
    rung: list[int] = []
    for after_ms in (30, 10, 20, 10):
        alarms.set(START_MS + after_ms, partial(rung.append, after_ms))
    clock.set_ms(START_MS + 9)
    assert rung == []
    clock.set_ms(START_MS + 20)
    assert rung == [10, 10, 20]
    clock.set_ms(START_MS + 30)
    assert rung == [10, 10, 20, 30]


async def test_one_that_is_cancelled_is_silent_and_one_that_fails_does_not_silence_others() -> None:
    clock = DrivenClock(START_MS)
    alarms = Alarms(clock)
    rung: list[str] = []

    def fail() -> None:
        alarms.cancel(others.pop())
        raise ValueError("an alarm that fails")

    alarms.set(START_MS + 1, fail)
    others: list[Alarm] = [alarms.set(START_MS + 1, lambda: rung.append("cancelled"))]
    alarms.set(START_MS + 1, lambda: rung.append("rings"))
    clock.set_ms(START_MS + 1)
    assert rung == ["rings"]


async def test_what_is_due_already_rings_soon() -> None:
    alarms = Alarms(DrivenClock(START_MS))
    rung = asyncio.Event()
    alarms.set(START_MS, rung.set)
    assert not rung.is_set()
    await asyncio.wait_for(rung.wait(), 30)


async def test_cancelled_alarms_are_swept_out() -> None:
    chance = random.Random(5)
    clock = DrivenClock(START_MS)
    alarms = Alarms(clock)
    rung: list[int] = []
    for number in range(5_000):
        at_ms = START_MS + 1 + chance.randrange(1_000)
        alarm = alarms.set(at_ms, partial(rung.append, number))
        if number % 50:
            alarms.cancel(alarm)
            alarms.cancel(alarm)
    assert len(alarms._heap) < 500
    clock.set_ms(START_MS + 2_000)
    assert sorted(rung) == list(range(0, 5_000, 50))


async def test_nothing_rings_early_under_the_system_clock() -> None:
    clock = SystemClock()
    alarms = Alarms(clock)
    early: list[int] = []
    done = asyncio.Event()
    start_ms = clock.now_ms()

    def ring(at_ms: int) -> None:
        early.extend([at_ms] if clock.now_ms() < at_ms else [])
        if at_ms == start_ms + 60:
            done.set()

    for after_ms in (60, 5, 20, 0):
        alarms.set(start_ms + after_ms, partial(ring, start_ms + after_ms))
    await asyncio.wait_for(done.wait(), 30)
    assert early == []


async def test_nothing_rings_after_the_end() -> None:
    clock = DrivenClock(START_MS)
    alarms = Alarms(clock)
    rung: list[int] = []
    alarms.set(START_MS + 1, lambda: rung.append(1))
    alarms.close()
    clock.set_ms(START_MS + 1)
    assert rung == []
