"""Counters of new kinds, filled behind the calls.

What flows in: the core, which says when there is something to fill. What flows out: filled
counters, and for each assignment whether those of its policy are.

What always holds: the event loop is kept for one short step at a time; between two of them every
call that is there goes on. Until an account's counters are filled the limits of before bind there,
so nothing waits for this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from limiter import bounds, errors
from limiter._core import Core
from limiter.logs import told
from limiter.model import Assignment
from limiter.policy import PolicyStore

__all__ = ["Rebuilding"]

_log: Final = logging.getLogger(__name__)


class Rebuilding:
    """Fills the counters of one core, as a task of the event loop that it is made on."""

    def __init__(self, core: Core, policies: PolicyStore) -> None:
        self._rebuild = core.rebuild
        self._policies = policies
        self._work = asyncio.Event()
        self._rebuild.wake_by(self._work.set)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def is_under_way(self, assignment: Assignment) -> bool:
        """Whether some limits of the assignment do not bind everywhere yet."""
        account = assignment.scope.account
        if not account:
            # Most rounds are over in one step. Until one is, not every account has been looked at.
            self._step()
            if self._rebuild.in_round:
                return True
        return self._rebuild.is_under_way(account, self._policies.definitions_of(assignment.policy))

    async def close(self) -> None:
        """Ends the task; what is not filled then is filled at the next start."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._step():
                # The other calls first.
                await asyncio.sleep(0)
                self._work.set()

    def _step(self) -> bool:
        """One step; whether there is more to do."""
        try:
            return self._rebuild.some(bounds.REBUILD_EVENTS_A_STEP)
        except errors.LimiterError as error:
            # That account keeps the limits of before; the others are not held up.
            _log.error("a counter cannot be rebuilt: %s", told(error))
            return True
