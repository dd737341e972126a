"""Calls of Python handlers as they are observed: how long they take, and their spans.

What flows in: handlers as grpc takes them, without serializers or with. What flows out: the same,
which tell of each call.

What always holds: what is answered is what the handler answers, with its status; where nothing is
observed the handlers stay as they are and cost nothing more.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

__all__ = ["Calls", "Handlers", "Tracer", "observed"]

Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"


class Calls(Protocol):
    """Who is told of calls; see `limiter.observation`."""

    handled_count: int

    def call_answered(self, method: str, duration_ns: int) -> None:
        """A call has ended without an error."""


class Tracer(Protocol):
    """Makes spans; see `limiter.traces`."""

    def span(self, method: str, context: Any) -> Any:
        """A context manager: the span of a call, from its metadata on."""


def observed(
    service: str,
    handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
    calls: Calls | None,
    tracer: Tracer | None,
) -> Handlers:
    """The handlers of a service, by method; they tell `calls` and `tracer` where there are any."""
    if calls is None and tracer is None:
        return dict(handlers)
    return {
        name: _observed_one(_Observer(f"{service}/{name}", calls, tracer), handler)
        for name, handler in handlers.items()
    }


def _observed_one(
    observer: _Observer, handler: grpc.RpcMethodHandler[Any, Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _Whole(observer, handler.unary_unary).answer, **codec
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _Parts(observer, handler.unary_stream).answer, **codec
        )
    assert handler.stream_stream is not None
    return grpc.stream_stream_rpc_method_handler(
        _Whole(observer, handler.stream_stream, is_timed=False).answer, **codec
    )


@dataclass(frozen=True, slots=True)
class _Observer:
    """Observes the calls of one method."""

    method: str
    calls: Calls | None
    tracer: Tracer | None

    @contextmanager
    def call(self, context: Any, is_timed: bool) -> Iterator[None]:
        """One call."""
        if self.tracer is None:
            with self._counted(is_timed):
                yield
            return
        with self.tracer.span(self.method, context), self._counted(is_timed):
            yield

    @contextmanager
    def _counted(self, is_timed: bool) -> Iterator[None]:
        calls = self.calls
        if calls is None:
            yield
            return
        begun_ns = time.monotonic_ns()
        calls.handled_count += 1
        try:
            yield
            if is_timed:
                calls.call_answered(self.method, time.monotonic_ns() - begun_ns)
        finally:
            calls.handled_count -= 1


@dataclass(frozen=True, slots=True)
class _Whole:
    """A handler that is a coroutine."""

    observer: _Observer
    behaviour: Any
    is_timed: bool = True

    async def answer(self, request: Any, context: Any) -> Any:
        """The handler's answer."""
        with self.observer.call(context, self.is_timed):
            return await self.behaviour(request, context)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A handler that is an async generator. How long a stream is open says nothing."""

    observer: _Observer
    behaviour: Any

    async def answer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The handler's answers."""
        with self.observer.call(context, is_timed=False):
            async for reply in self.behaviour(request, context):
                yield reply
