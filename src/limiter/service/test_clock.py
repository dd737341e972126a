"""TestClockService: the hand that moves a driven clock. Served only when the clock is driven."""

from __future__ import annotations

from typing import Any

import grpc

from limiter import bounds, errors
from limiter.clock import DrivenClock
from limiter.v1 import test_clock_service_pb2 as pb2

__all__ = ["TestClockServicer"]


class TestClockServicer:
    """Reads and moves one driven clock. Faults are raised as LimiterError."""

    # The name is the service's; test runners are not to collect it.
    __test__ = False

    def __init__(self, clock: DrivenClock) -> None:
        self._clock = clock

    async def Get(  # noqa: N802 - the method's name in the API
        self,
        request: pb2.GetTestClockRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb2.TestClock:
        """The time that the clock shows."""
        return self._reply()

    async def Set(  # noqa: N802 - the method's name in the API
        self,
        request: pb2.SetTestClockRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb2.TestClock:
        """Moves the clock forward to the request's instant, or leaves it where it is."""
        if not request.HasField("current_time"):
            raise errors.InvalidArgument.for_field(
                "current_time", "is required", reason="MISSING_FIELD"
            )
        instant = request.current_time
        if not 0 <= instant.nanos < 1_000_000_000 or instant.nanos % 1_000_000:
            raise errors.InvalidArgument.for_field(
                "current_time", "must be in whole milliseconds, nanos from 0 to 999,000,000"
            )
        # Compared in seconds: the product of an absurd value would still be exact, but not useful.
        if not 0 <= instant.seconds <= bounds.INSTANT_MS_MAX // 1000:
            raise errors.InvalidArgument.for_field(
                "current_time", "must lie between the years 1970 and 2100"
            )
        self._clock.set_ms(instant.seconds * 1000 + instant.nanos // 1_000_000)
        return self._reply()

    def _reply(self) -> pb2.TestClock:
        reply = pb2.TestClock()
        reply.current_time.FromMilliseconds(self._clock.now_ms())
        return reply
