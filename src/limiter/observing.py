"""How a server is observed: by a page of metrics, by spans of its calls, or not at all.

What flows in: the parts of a server as they are put together, and what becomes of its state. What
flows out: the page and the spans, from `start` to `stop`.

What always holds: where nothing is asked for, calls are answered as if none of this were there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Final

import grpc

from limiter import metrics_endpoint, recovery
from limiter._activity import Activity
from limiter._hot_calls import HotCalls, hot_methods
from limiter.clock import Clock, SystemClock
from limiter.metrics_endpoint import MetricsEndpoint
from limiter.native import NativeServer
from limiter.observation import Held, Observation
from limiter.service.decision import DecisionService
from limiter.service.health import Health
from limiter.service.observed import Handlers, observed
from limiter.traces import HOT_SERVICE, Traces, make_traces

__all__ = ["Observing"]

_log: Final = logging.getLogger(__name__)


class Observing:
    """Observes one server. `metrics_port` says where metrics can be read, unless it is empty."""

    def __init__(
        self, metrics_port: str, is_traced: bool, health: Health, activity: Activity
    ) -> None:
        self._metrics_port = metrics_port
        self._is_traced = is_traced
        self._traces: Traces | None = None
        self._endpoint: MetricsEndpoint | None = None
        self._looking: asyncio.Task[None] | None = None
        self.observation = Observation(health, activity)

    @property
    def _is_measured(self) -> bool:
        return bool(self._metrics_port)

    def prepare(self) -> None:
        """Makes ready what handlers tell. Raises FailedPrecondition where that is not installed."""
        if self._is_traced:
            self._traces = make_traces()

    def attach_transport(
        self, server: grpc.aio.Server | NativeServer, decisions: HotCalls | DecisionService
    ) -> None:
        """Observes this server, and the hot calls under it."""
        self.observation.streams = decisions
        if isinstance(server, NativeServer):
            self.observation.transport = server
        if isinstance(decisions, HotCalls):
            if self._is_measured:
                methods = tuple(f"{HOT_SERVICE}/{method}" for method in hot_methods())
                decisions.observe(self.observation.observe_hot(methods))
            if self._traces is not None:
                decisions.trace(self._traces)
        elif self._is_measured:
            decisions.observe(
                partial(self.observation.call_answered, f"{HOT_SERVICE}/CommitStream")
            )

    def handlers(self, service: str, handlers: Handlers) -> Handlers:
        """The handlers of a service, so that they are observed."""
        calls = self.observation if self._is_measured else None
        return observed(service, handlers, calls, self._traces)

    def attach_state(self, held: Held, clock: Clock) -> None:
        """The server works on this now."""
        self.observation.held = held
        self.observation.clock = clock if isinstance(clock, SystemClock) else None

    def detach_state(self, *, has_failed: bool = False) -> None:
        """It works on nothing any more; `has_failed` when the journal could not be written."""
        self.observation.held = None
        self.observation.journal_failure_count += has_failed

    def recovered(self, recovered: recovery.Recovered, duration_s: float) -> None:
        """The journal was opened and replayed."""
        self.observation.recovered(recovered.event_count, duration_s)

    async def start(self) -> None:
        """Serves the page, if it is asked for. Raises FailedPrecondition when that cannot be."""
        if not self._is_measured:
            return
        self._endpoint = MetricsEndpoint(self.observation.reading)
        url = await self._endpoint.start(*metrics_endpoint.parse(self._metrics_port))
        self._looking = asyncio.get_running_loop().create_task(self.observation.look())
        _log.info("metrics are at %s", url)

    async def stop(self) -> None:
        """Ends all of it. Idempotent."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
        if self._endpoint is not None:
            await self._endpoint.stop()
            self._endpoint = None
        traces, self._traces = self._traces, None
        if traces is not None:
            await traces.close()
