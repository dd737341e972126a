"""Simulated time, and event loops that run in it.

In flow what is to be done and when; out flow the calls, in the order of their instants and, at one
instant, in the order in which they were asked for. Nothing here waits: time is where the next call
is.

Each process of the simulated machine has an event loop of its own, on which the real group commit,
alarms and calls run. A process that is killed takes its loop with it: nothing of it runs any more,
whatever was under way.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, TypeVarTuple, Unpack

from limiter import errors

Result = TypeVar("Result")
Ts = TypeVarTuple("Ts")

SECOND_US = 1_000_000


class Event:
    """Something that is to be done at an instant, unless it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Schedule:
    """All that is to be done, in microseconds since the simulation began."""

    def __init__(self) -> None:
        self.now_us = 0
        self.step_count = 0
        self._heap: list[tuple[int, int, Event]] = []
        self._order = itertools.count()

    def at(self, when_us: int, call: Callable[[], None]) -> Event:
        """Has it called at that instant, never from within this call."""
        event = Event(call)
        heapq.heappush(self._heap, (max(when_us, self.now_us), next(self._order), event))
        return event

    def after(self, delay_us: int, call: Callable[[], None]) -> Event:
        """Has it called so much later."""
        return self.at(self.now_us + delay_us, call)

    def sleep(self, duration_us: int) -> None:
        """The machine sleeps for so long, and nothing is done meanwhile."""
        self.now_us += duration_us
        self._heap = [(when_us + duration_us, order, each) for when_us, order, each in self._heap]

    def step(self, until_us: int) -> bool:
        """Does the next thing that is due by then; False, at that instant, when there is none."""
        while self._heap and self._heap[0][0] <= until_us:
            when_us, _, event = heapq.heappop(self._heap)
            call, event.call = event.call, None
            if call is not None:
                self.now_us = when_us
                self.step_count += 1
                call()
                return True
        self.now_us = until_us
        return False


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one process. `on_fault` is told of what callbacks raise."""

    def __init__(
        self,
        schedule: Schedule,
        dice: random.Random,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._schedule = schedule
        self._dice = dice
        # What other threads are doing.
        self._jobs: dict[int, Callable[[], object]] = {}
        self._job_count = itertools.count()
        self._on_fault = on_fault
        self._tasks: list[asyncio.Task[Any]] = []
        self.is_dead = False

    def kill(self) -> None:
        """Nothing runs on it any more; what other threads are doing is done or not."""
        if self.is_dead:
            return
        self.is_dead = True
        for job in self._jobs.values():
            if self._dice.random() < 0.5:
                # If it fails, nobody is left to be told.
                with suppress(errors.LimiterError, OSError):
                    job()

    def clear(self) -> None:
        """Takes apart what was under way when it was killed."""
        for task in self._tasks:
            if not task.done():
                coroutine = task.get_coro()
                assert coroutine is not None
                coroutine.close()
        self._tasks.clear()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this the loop is the running one."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def _run(self, handle: asyncio.Handle) -> None:
        if self.is_dead or handle.cancelled():
            return
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    # ---- what asyncio asks of a loop

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dead:
            self._schedule.after(0, lambda: self._run(handle))
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.is_dead:
            self._schedule.at(round(when * SECOND_US), lambda: self._run(handle))
        return handle

    def time(self) -> float:
        return self._schedule.now_us / SECOND_US

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # without what nobody here asks for
        self, coro: Coroutine[Any, Any, Result], **options: Any
    ) -> asyncio.Task[Result]:
        task = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Ts]], Result], *args: *Ts
    ) -> asyncio.Future[Result]:
        """Has it done by another thread: all at one instant, somewhat later."""
        future: asyncio.Future[Result] = self.create_future()
        number = next(self._job_count)
        self._jobs[number] = lambda: func(*args)

        def run() -> None:
            if self.is_dead:
                return
            del self._jobs[number]
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is told to who waits for it
                self.call_soon(_fail, future, error)
            else:
                self.call_soon(_resolve, future, result)

        self._schedule.after(self._dice.randrange(1, 5_000), run)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if not self.is_dead and fault is not None:
            self._on_fault(fault)


def _resolve(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
