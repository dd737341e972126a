"""DecisionService's WatchUsage: who watches what, and when each is told.

In flow templates, the core's word that an account has changed, and the alarms of instants at which
something changes by itself. Out flow responses, to each watcher one at once and then one for each
change.

What always holds:

- a watcher is told how things stand when he is told, not how they stood when they changed: several
  changes are one message, and who reads slowly finds the newest state behind what is on its way;
- he is told at most once in `bounds.WATCH_INTERVAL_MS`, but at once when an attempt like his
  template may go by the mere course of time;
- a commit in an account that nobody watches costs one test. One in a watched account notes the
  account's number, and everything else is done later, a few watchers at a time;
- watchers outlive the loss of the state and see the recovered one. Who may no longer see it,
  because his key has ended, is told so within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import grpc

from limiter import bounds, errors
from limiter._core import Core
from limiter._hot import Decider
from limiter._watch import Watch
from limiter.alarms import Alarm, Alarms
from limiter.clock import Clock
from limiter.service import authorization
from limiter.v1 import decision_service_pb2

__all__ = ["WatchServicer", "Watching"]

# Watchers that look, and whose keys are looked at, in one step of the event loop.
_LOOKS_AT_ONCE: Final = 8
_NOTES_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class _State:
    """What is looked at; replaced as a whole when the state is recovered anew."""

    core: Core
    decider: Decider
    clock: Clock
    alarms: Alarms


class _Watcher:
    """Somebody who watches a template, given as a WatchUsageRequest's bytes."""

    __slots__ = (
        *("alarm", "due_s", "fault", "is_called", "is_stale", "request", "told", "visit"),
        *("wake", "watch"),
    )

    def __init__(self, request: bytes, visit: authorization.Visit | None) -> None:
        self.request = request
        self.visit = visit
        self.watch: Watch | None = None
        # Set when there may be something to tell.
        self.wake = asyncio.Event()
        # Whether something has changed since the last look, and before when he is not told again.
        self.is_stale = True
        self.is_called = False
        self.due_s = 0.0
        # What he was told last, but for its time.
        self.told: bytes | None = None
        self.fault: errors.LimiterError | None = None
        self.alarm: Alarm | None = None


class Watching:
    """All watchers of a server, over all the states that it has. Belongs to its event loop."""

    def __init__(self) -> None:
        self._state: _State | None = None
        self._watchers: dict[_Watcher, str] = {}
        self._of_account: dict[int, set[_Watcher]] = {}
        self._of_connection: Counter[str] = Counter()
        self._changed: set[int] = set()
        self._spreading = False
        self._ready: deque[_Watcher] = deque()
        self._sweeping: asyncio.Task[None] | None = None
        self._drained: errors.Unavailable | None = None

    @property
    def count(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def attach(self, core: Core, decider: Decider, clock: Clock, alarms: Alarms) -> None:
        """Looks at this state from now on. The core is to tell `changed`."""
        self._state = _State(core, decider, clock, alarms)
        self._of_account.clear()
        self._changed.clear()
        for watcher in self._watchers:
            watcher.watch = None
            # He may have been called while there was nothing to look at.
            watcher.is_called = False
            if watcher.visit is not None:
                try:
                    watcher.visit.come_again()
                except errors.LimiterError as error:
                    self._end(watcher, error)
                    continue
            self._call(watcher)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    def detach(self) -> None:
        """There is no state for a while; what was told last stands."""
        self._state = None

    def drain(self) -> None:
        """Ends all watches, and lets nobody begin one."""
        self._drained = errors.Unavailable("DRAINING", "the server is stopping: watch again later")
        for watcher in self._watchers:
            self._end(watcher, self._drained)

    async def close(self) -> None:
        """Lets go of everything; to be called after `drain`."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))
            self._sweeping = None

    def changed(self, account: int) -> None:
        """Something in the account of that number has changed, or in any if it is 0."""
        self._changed.add(account)
        if not self._spreading:
            self._spreading = True
            asyncio.get_running_loop().create_task(self._spread())

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The responses to one WatchUsageRequest. Raises what ends the stream."""
        watcher = self._enter(request, context)
        try:
            while True:
                if watcher.fault is not None:
                    raise watcher.fault.with_traceback(None)
                response = self._look(watcher)
                if response is not None:
                    yield response
                    continue
                watcher.wake.clear()
                await watcher.wake.wait()
        finally:
            self._leave(watcher)

    # --- coming and going -------------------------------------------------------------------------

    def _enter(self, request: bytes, context: Any) -> _Watcher:
        if self._drained is not None:
            raise self._drained.with_traceback(None)
        connection = context.peer()
        if len(self._watchers) >= bounds.WATCHERS_MAX:
            raise _too_many(f"{bounds.WATCHERS_MAX:,} streams of this method are open")
        if self._of_connection[connection] >= bounds.CONNECTION_WATCHERS_MAX:
            raise _too_many(
                f"{bounds.CONNECTION_WATCHERS_MAX:,} streams of this method are open on this"
                " connection"
            )
        watcher = _Watcher(request, authorization.visit())
        self._watchers[watcher] = connection
        self._of_connection[connection] += 1
        # Also where nobody asks for the next response any more.
        context.add_done_callback(lambda _context: self._leave(watcher))
        return watcher

    def _leave(self, watcher: _Watcher) -> None:
        connection = self._watchers.pop(watcher, None)
        if connection is None:
            return
        self._of_connection[connection] -= 1
        if not self._of_connection[connection]:
            del self._of_connection[connection]
        self._disarm(watcher)
        watch, state = watcher.watch, self._state
        if watch is None or state is None:
            return
        others = self._of_account.get(watch.account, set())
        others.discard(watcher)
        if not others:
            self._of_account.pop(watch.account, None)
            watch.leave()

    def _end(self, watcher: _Watcher, fault: errors.LimiterError) -> None:
        watcher.fault = fault
        watcher.wake.set()

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, watcher: _Watcher) -> bytes | None:
        """What he is to be told now, if anything."""
        state = self._state
        if state is None or not watcher.is_stale or time.monotonic() < watcher.due_s:
            return None
        if watcher.watch is None:
            watcher.watch = Watch(state.decider, watcher.request)
        watch = watcher.watch
        watch.look(state.clock.now_ms())
        watcher.is_stale = watcher.is_called = False
        self._of_account.setdefault(watch.account, set()).add(watcher)
        self._arm(watcher, watch, state)
        if watch.state == watcher.told:
            return None
        watcher.told = watch.state
        watcher.due_s = time.monotonic() + bounds.WATCH_INTERVAL_MS / 1000
        return watch.state + watch.time

    def _arm(self, watcher: _Watcher, watch: Watch, state: _State) -> None:
        self._disarm(watcher)

        def ring() -> None:
            watcher.alarm = None
            watcher.is_stale = True
            if watch.retry_ms == watch.next_ms:
                # It may go now, and that is what he waits for.
                self._call_now(watcher)
            else:
                self._call(watcher)

        watcher.alarm = state.alarms.set(watch.next_ms, ring)

    def _disarm(self, watcher: _Watcher) -> None:
        if watcher.alarm is not None and self._state is not None:
            self._state.alarms.cancel(watcher.alarm)
        watcher.alarm = None

    # --- telling ----------------------------------------------------------------------------------

    def _call(self, watcher: _Watcher) -> None:
        """Has him look, once he may be told again."""
        watcher.is_stale = True
        if watcher.is_called:
            return
        watcher.is_called = True
        wait_s = watcher.due_s - time.monotonic()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._call_now, watcher)
        else:
            self._call_now(watcher)

    def _call_now(self, watcher: _Watcher) -> None:
        # The loop's timers are not as exact as the clock that `due_s` is of.
        watcher.due_s = 0.0
        self._ready.append(watcher)
        if len(self._ready) == 1:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for _ in range(min(_LOOKS_AT_ONCE, len(self._ready))):
            self._ready.popleft().wake.set()
        if self._ready:
            asyncio.get_running_loop().call_soon(self._wake_some)

    async def _spread(self) -> None:
        """Calls the watchers of what has changed, a few in one go."""
        done = 0
        while self._changed:
            account = self._changed.pop()
            watchers = self._of_account.get(account, ()) if account else self._watchers
            for watcher in tuple(watchers):
                self._call(watcher)
                done += 1
                if done % _NOTES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._spreading = False

    async def _sweep(self) -> None:
        """Ends the watches of those whose keys have ended."""
        while True:
            await asyncio.sleep(bounds.CREDENTIAL_LOOK_MS / 1000)
            for number, watcher in enumerate(tuple(self._watchers)):
                if number % _NOTES_AT_ONCE == _NOTES_AT_ONCE - 1:
                    await asyncio.sleep(0)
                if self._state is None or watcher.visit is None:
                    continue
                try:
                    watcher.visit.renew()
                except errors.LimiterError as error:
                    self._end(watcher, error)


class WatchServicer:
    """WatchUsage, by the server's watching."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    def WatchUsage(  # noqa: N802 - the method's name in the API
        self,
        request: decision_service_pb2.WatchUsageRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[bytes]:
        """What GetUsage would say, at once and whenever that changes."""
        return self._watching.watch(request.SerializeToString(), context)


def _too_many(why: str) -> errors.ResourceExhausted:
    return errors.ResourceExhausted(
        "TOO_MANY_WATCHERS",
        f"{why}, which is the ceiling; end some that are not needed, or watch fewer templates",
    )
