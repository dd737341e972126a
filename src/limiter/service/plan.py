"""DecisionService's Plan: when each of many recipients may be written to.

What flows in: a PlanRequest's bytes, as they came. What flows out: a PlanResponse's bytes.

What always holds: a plan is made in slices of the event loop that are shorter than a decision may
be kept waiting, however many plans are made at once; a client that goes away ends his plan; the
request is read in a thread of its own, since a long one takes longer than a slice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from limiter import bounds, errors, kinds, zones
from limiter._core import Core
from limiter._planner import Planner
from limiter.v1 import attempt_pb2, plan_pb2

__all__ = ["PlanServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

# How long all plans together may keep the event loop from everything else, and the steps after
# which one looks at the time.
_SLICE_S: Final = 0.0004
_STEPS_AT_ONCE: Final = 128


class PlanServicer:
    """Makes plans from one shard's core; `now_ms` is the clock."""

    # The methods whose requests and replies are bytes; see `limiter.service.status`.
    TAKES_BYTES = frozenset({"Plan"})

    def __init__(self, core: Core, require_policy: bool, now_ms: Callable[[], int]) -> None:
        self._core = core
        self._require_policy = require_policy
        self._now_ms = now_ms
        # Plans in the making, and those that are being cleared away.
        self._count = 0
        self._clearing: set[asyncio.Task[None]] = set()

    async def Plan(  # noqa: N802 - the method's name in the API
        self, request: bytes, context: _Context, check: Callable[[Message], None]
    ) -> bytes:
        """When each recipient may be written to; `check` raises unless the caller may ask."""
        if self._count >= bounds.PLANS_MAX:
            raise errors.ResourceExhausted(
                "OVERLOADED",
                f"{bounds.PLANS_MAX} plans are being made, which is the ceiling; come back later",
                retry_after_ms=bounds.PLAN_RETRY_AFTER_MS,
            )
        planner = Planner(
            self._core, kinds.compile_inline, zones.zone, self._require_policy, request
        )
        self._count += 1
        decoding = asyncio.ensure_future(asyncio.to_thread(planner.decode))
        try:
            # Who goes away meanwhile does not end the thread.
            await asyncio.shield(decoding)
            check(_template(planner))
            await self._in_slices(lambda: planner.run(_STEPS_AT_ONCE, self._now_ms()))
        finally:
            clearing = asyncio.get_running_loop().create_task(self._clear(planner, decoding))
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)
        return planner.take()

    async def _clear(self, planner: Planner, decoding: asyncio.Future[None]) -> None:
        """Frees what a plan needed; only then is there room for another one."""
        try:
            # Nothing may be freed under the thread that reads the request; its fault was told.
            await asyncio.gather(decoding, return_exceptions=True)
            await self._in_slices(lambda: planner.clear(_STEPS_AT_ONCE))
            await asyncio.to_thread(planner.release)
        finally:
            self._count -= 1

    async def _in_slices(self, work: Callable[[], bool]) -> None:
        """Calls `work` until it says that it is done, a slice in each turn of the event loop."""
        while True:
            end_s = time.perf_counter() + _SLICE_S / self._count
            while time.perf_counter() < end_s:
                if work():
                    return
            await asyncio.sleep(0)


def _template(planner: Planner) -> plan_pb2.PlanRequest:
    """As much of the request as says whom it reaches."""
    return plan_pb2.PlanRequest(
        attempt=attempt_pb2.Attempt(
            account=planner.account, resource=planner.resource, campaign=planner.campaign
        )
    )
