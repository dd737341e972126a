"""Spans of calls by OpenTelemetry: the only module that knows of it.

What flows in: calls as they begin and end, with the `traceparent` that came with them. What flows
out: their spans, sent to a collector by OTLP over gRPC. Where to and how many is OpenTelemetry's
own matter, by its environment variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …);
unless they say otherwise a call is sampled as its caller's span is.

What always holds: a span names the method, the status and the decision, and nothing that a caller
sent; spans that cannot be sent are dropped, and no call waits for them. Where tracing is off
nothing of this is imported.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from limiter import __version__, bounds, errors
from limiter.decision_names import OUTCOMES, REASONS
from limiter.grpc_wire import Fields
from limiter.service.status import code_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["HOT_SERVICE", "Traces", "make_traces", "wanted"]

_log: Final = logging.getLogger(__name__)

HOT_SERVICE: Final = "limiter.v1.DecisionService"

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"

_OK: Final = 0
# What is told of a call whose client has gone.
_CANCELLED: Final = code_of(grpc.StatusCode.CANCELLED)


def wanted(flag: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether calls are traced: by the flag, or by OTEL_TRACES_EXPORTER=otlp.

    Raises InvalidArgument for an exporter that there is not.
    """
    exporter = environment.get(_EXPORTER, "").strip()
    if exporter not in {"", "none", "otlp"}:
        raise errors.InvalidArgument.for_field(
            "traces", f"{_EXPORTER}={exporter} is not there: spans are sent by otlp, or none are"
        )
    return flag or exporter == "otlp"


def make_traces() -> Traces:
    """Sends spans from now on. Raises FailedPrecondition where OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise errors.FailedPrecondition(
            "TRACES_NOT_INSTALLED",
            f"traces need OpenTelemetry ({error}): pip install 'limiter[traces]'",
        ) from error
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "limiter"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Makes the spans of one server with a provider of OpenTelemetry's."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("limiter", __version__)
        self._kind = SpanKind.SERVER
        self._context_of = TraceContextTextMapPropagator().extract

    # --- of hot calls under the native transport --------------------------------------------------

    def begin(self, method: str, parent: bytes | None) -> Span | None:
        """The span of a call of DecisionService that begins; None for one that is not sampled."""
        text = None if parent is None else parent.decode("latin-1")
        return self._begin(f"{HOT_SERVICE}/{method}", text)

    def decided(self, span: Span, outcome: int, reason: int) -> None:
        """The call's attempt is decided."""
        span.set_attribute("limiter.outcome", OUTCOMES.get(outcome, ""))
        span.set_attribute("limiter.reason", REASONS.get(reason, ""))

    def end(self, span: Span, trailers: Fields | None, is_answered: bool) -> None:
        """The call is over; without trailers all is well, if it was answered."""
        code = _OK if is_answered else _CANCELLED
        for name, value in trailers or ():
            if name == b"grpc-status":
                code = int(value)
        self._end(span, code)

    # --- of Python handlers -----------------------------------------------------------------------

    @contextmanager
    def span(self, method: str, context: Any) -> Iterator[None]:
        """The span of a call of a Python handler, given its full name and grpc's context."""
        parent = next(
            (
                value if isinstance(value, str) else value.decode("latin-1")
                for name, value in context.invocation_metadata() or ()
                if name == "traceparent"
            ),
            None,
        )
        span = self._begin(method, parent)
        if span is None:
            yield
            return
        code = _OK
        try:
            yield
            if context.cancelled():
                code = _CANCELLED
        except asyncio.CancelledError:
            code = _CANCELLED
            raise
        except BaseException:
            code = _number(context.code()) or code_of(grpc.StatusCode.UNKNOWN)
            raise
        finally:
            self._end(span, code)

    # --- all spans --------------------------------------------------------------------------------

    def _begin(self, method: str, parent: str | None) -> Span | None:
        from opentelemetry.context import Context

        context = Context() if parent is None else self._context_of({"traceparent": parent})
        service, _, name = method.rpartition("/")
        span = self._tracer.start_span(
            method,
            context,
            self._kind,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        return span if span.is_recording() else None

    def _end(self, span: Span, code: int) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("rpc.grpc.status_code", code)
        if code != _OK:
            span.set_status(StatusCode.ERROR)
        span.end()

    async def close(self) -> None:
        """Sends what has not gone out yet, if that does not take long."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            # The loop may have stopped waiting, and be gone.
            if not loop.is_closed():
                loop.call_soon_threadsafe(closed.set)

        # Not one of the loop's own threads, which it would wait for.
        threading.Thread(target=close, name="limiter-traces", daemon=True).start()
        try:
            await asyncio.wait_for(closed.wait(), bounds.TRACES_CLOSE_MS_MAX / 1000)
        except TimeoutError:
            _log.warning("the last spans could not be sent")


def _number(code: grpc.StatusCode | int | None) -> int:
    """A status code's number; 0 without one."""
    if code is None:
        return 0
    return code if isinstance(code, int) else code_of(code)
