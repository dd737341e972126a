"""PolicyService's SimulatePolicy: a draft tried on what an account has attempted.

What flows in: a draft, an account and a span of time; what the core remembers of the account. What
flows out: what the draft would have denied. Nothing changes, and only so many simulations run at
once; each goes on for a fraction of a millisecond, then lets decisions go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from limiter import bounds, errors, model
from limiter._core import Core
from limiter.policy import PolicyStore
from limiter.service.conversion import ms_from_timestamp
from limiter.simulation import HistorySimulation, Span
from limiter.v1 import simulation_pb2

__all__ = ["SimulationServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

# How long a simulation keeps the event loop at once.
_SLICE_S: Final = 0.000_3


class SimulationServicer:
    """Simulates over the history of one core, whose policies are `store`. `durable` waits until
    everything appended up to now is durable and raises Unavailable."""

    def __init__(
        self, core: Core, store: PolicyStore, durable: Callable[[], Awaitable[None]]
    ) -> None:
        self._core = core
        self._store = store
        self._durable = durable
        self._running_count = 0

    async def SimulatePolicy(  # noqa: N802 - the method's name in the API
        self, request: simulation_pb2.SimulatePolicyRequest, context: _Context
    ) -> simulation_pb2.SimulatePolicyResponse:
        """Tries a draft over recorded history."""
        if not request.HasField("policy"):
            raise model.missing("policy", "which draft is to be tried?")
        model.check_account(request.account, "account")
        span = _span_of(request)
        if self._running_count >= bounds.SIMULATIONS_MAX:
            raise errors.ResourceExhausted(
                "TOO_MANY_SIMULATIONS",
                f"{bounds.SIMULATIONS_MAX} simulations are running, which is the ceiling; try again"
                " once one of them has ended",
                retry_after_ms=bounds.SECOND_MS,
            )
        zone = self._store.account(f"accounts/{request.account}").zone
        try:
            simulation = HistorySimulation(self._core, request.policy, request.account, zone, span)
        except errors.InvalidArgument as error:
            raise _about_draft(error) from None
        self._running_count += 1
        try:
            # Compiling the draft was a slice of its own.
            await asyncio.sleep(0)
            await _in_slices(simulation.step)
            # Python's own code may be interrupted anywhere.
            response = await asyncio.to_thread(simulation.response)
            await _in_slices(simulation.release)
            # What is told of commits is not taken back by a crash.
            await self._durable()
        finally:
            self._running_count -= 1
        return response


async def _in_slices(step: Callable[[], bool]) -> None:
    """Takes steps until there are no more, and lets others go on in between."""
    while True:
        end_s = time.perf_counter() + _SLICE_S
        while time.perf_counter() < end_s:
            if step():
                return
        await asyncio.sleep(0)


def _span_of(request: simulation_pb2.SimulatePolicyRequest) -> Span:
    start_ms = _instant(request, "start_time", bounds.INSTANT_MS_MIN)
    end_ms = _instant(request, "end_time", bounds.INSTANT_MS_MAX + 1)
    if start_ms >= end_ms:
        raise errors.InvalidArgument.for_field("end_time", "must be later than start_time")
    return Span(start_ms, end_ms)


def _instant(request: simulation_pb2.SimulatePolicyRequest, field: str, unset_ms: int) -> int:
    if not request.HasField(field):  # type: ignore[arg-type]
        return unset_ms
    timestamp: Timestamp = getattr(request, field)
    instant_ms = ms_from_timestamp(timestamp)
    if (
        not 0 <= timestamp.nanos < 1_000_000_000
        or not bounds.INSTANT_MS_MIN <= instant_ms <= bounds.INSTANT_MS_MAX
    ):
        raise errors.InvalidArgument.for_field(field, "must lie in the years 1970 to 2100")
    return instant_ms


def _about_draft(error: errors.InvalidArgument) -> errors.InvalidArgument:
    """The same, by the path that the draft has in the request."""

    def renamed(text: str) -> str:
        return text.replace("policies[0]", "policy")

    return errors.InvalidArgument(
        error.reason,
        renamed(error.message),
        violations=[
            errors.FieldViolation(renamed(each.field), each.description)
            for each in error.violations
        ],
        metadata={key: renamed(value) for key, value in error.metadata.items()},
    )
