"""The native transport: grpc.aio's Server over our own HTTP/2, for the same handlers.

In: handlers as grpc's generated code registers them, and the hot methods. Out: bound ports, and
calls answered on them until the server stops.

A stop has two steps, as gRPC's own has: clients are asked to send no more, and what they sent
before they knew is still answered; then each connection closes when its last call has ended, and
what takes longer than the grace is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc

from limiter import bounds, listening
from limiter._http2 import Connection, HotHandler, open_stream_count
from limiter._http2_session import flood_count
from limiter.connection_life import Life
from limiter.grpc_wire import Faults, Fields, decoded_metadata
from limiter.native_call import Call

__all__ = ["NativeServer"]

_log: Final = logging.getLogger(__name__)

# How often connections are looked at for having nothing to say.
_SWEEP_INTERVAL_S: Final = 1.0

# What a client gets to learn that it should send no more calls.
_NOTICE_S: Final = 0.05

_BACKLOG: Final = 1024

# Connections that are looked at in one go.
_SWEEP_SLICE: Final = 256

# Files that are no connections: the journal, logs, listening sockets.
_OTHER_FILES: Final = 64


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """What a generic handler is asked with; see grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


class NativeServer(Faults):
    """A gRPC server. `hot` answers the methods that are no Python handler's.

    Has the methods of grpc.aio.Server that generated code and this service use. Belongs to the
    event loop that it is started on.
    """

    def __init__(self, hot: HotHandler | None = None) -> None:
        self._hot = HotHandler() if hot is None else hot
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._sockets: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._listening: list[asyncio.Server] = []
        self._connections: dict[Connection, Life] = {}
        self._is_crowded = False
        self._call_count = 0
        self._refused_count = 0
        self._sweeping: tuple[asyncio.Task[None], ...] = ()
        self._stopped = asyncio.Event()
        # Set while there is no connection.
        self._nobody = asyncio.Event()
        self._nobody.set()

    @property
    def connections_max(self) -> int:
        """How many clients there may be at once, as far as the process may open so many files."""
        files_max, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(bounds.CONNECTIONS_MAX, max(1, files_max - _OTHER_FILES))

    @property
    def connection_count(self) -> int:
        """Clients that are connected."""
        return len(self._connections)

    @property
    def refused_count(self) -> int:
        """Connections that were closed so far because there were too many."""
        return self._refused_count

    @property
    def flood_count(self) -> int:
        """Connections that were ended so far for more control frames than an honest client sends,
        by all servers of the process."""
        return flood_count()

    @property
    def call_count(self) -> int:
        """Calls that are under way, in all servers of the process."""
        return open_stream_count()

    # --- registering ------------------------------------------------------------------------------

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Handlers of a service by method."""
        for method, handler in handlers.items():
            self._methods[f"/{service}/{method}"] = handler

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Handlers that are asked, in order, for methods that are not registered."""
        self._generic.extend(handlers)

    def add_insecure_port(self, address: str) -> int:
        """Binds `IP:PORT`, port 0 for any free one; returns the port. Raises RuntimeError."""
        return self._bind(address, None)

    def add_secure_port(self, address: str, context: ssl.SSLContext) -> int:
        """The same with TLS; the context negotiates `h2`."""
        return self._bind(address, context)

    def _bind(self, address: str, context: ssl.SSLContext | None) -> int:
        bound = listening.bound_socket(address, _BACKLOG)
        self._sockets.append((bound, context))
        return int(bound.getsockname()[1])

    # --- serving ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Answers calls from now on."""
        loop = asyncio.get_running_loop()
        for bound, context in self._sockets:
            handshake_s = bounds.GREETING_MS_MAX / 1000 if context else None
            self._listening.append(
                await loop.create_server(
                    lambda: cast("asyncio.BaseProtocol", Connection(self, self._hot)),
                    sock=bound,
                    ssl=context,
                    backlog=_BACKLOG,
                    ssl_handshake_timeout=handshake_s,
                )
            )
        self._sweeping = (loop.create_task(self._sweep()), loop.create_task(self._look()))

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, waits up to `grace` seconds for those under way, cuts off the rest.
        Idempotent."""
        for bound, _context in self._sockets:
            if not self._listening:
                bound.close()
        for server in self._listening:
            server.close()
        self._listening.clear()
        self._sockets.clear()
        for sweeping in self._sweeping:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping
        self._sweeping = ()
        for connection in tuple(self._connections):
            self._hot.leave(connection)
            connection.announce_shutdown()
        if grace and not self._nobody.is_set():
            await self._gone_within(min(_NOTICE_S, grace))
        for connection in tuple(self._connections):
            connection.shut_down()
        if grace:
            await self._gone_within(grace)
        for connection in tuple(self._connections):
            connection.abort()
        await self._nobody.wait()
        self._stopped.set()

    async def _gone_within(self, timeout_s: float) -> None:
        """Returns when all clients have gone, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody.wait(), timeout_s)

    async def wait_for_termination(self) -> None:
        """Returns once the server has stopped."""
        await self._stopped.wait()

    async def _sweep(self) -> None:
        """Ends what is over time, a few connections at once so that calls are not held up."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            for number, (connection, life) in enumerate(tuple(self._connections.items())):
                if number % _SWEEP_SLICE == _SWEEP_SLICE - 1:
                    await asyncio.sleep(0)
                now_s = time.monotonic()
                connection.sweep(now_s)
                life.look(now_s)

    async def _look(self) -> None:
        """Ends the streams of those who are not let in any more, in slices too."""
        while True:
            await asyncio.sleep(bounds.CREDENTIAL_LOOK_MS / 1000)
            if not self._hot.has_streams():
                continue
            for number, connection in enumerate(tuple(self._connections)):
                if number % _SWEEP_SLICE == _SWEEP_SLICE - 1:
                    await asyncio.sleep(0)
                self._hot.look(connection)

    # --- what connections ask ---------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections[connection] = Life(connection, self._hot.leave)
        self._nobody.clear()
        if len(self._connections) > self.connections_max:
            if not self._is_crowded:
                _log.warning("too many connections: new ones are closed until others are")
            self._is_crowded = True
            self._refused_count += 1
            connection.abort()

    def closed(self, connection: Connection) -> None:
        """A client has gone."""
        self._connections.pop(connection, None)
        if len(self._connections) < self.connections_max:
            self._is_crowded = False
        if not self._connections:
            self._nobody.set()

    def open_call(
        self,
        connection: Connection,
        stream_id: int,
        path: bytes,
        fields: Fields,
        timeout_s: float | None,
    ) -> Call | None:
        """Starts a call of a Python handler; None when it is answered already."""
        try:
            method = path.decode("latin-1")
            metadata = decoded_metadata(fields)
            handler = self._handler_of(method, metadata)
            if handler is None:
                connection.end(stream_id, None, self.unknown_method(method))
                return None
            if timeout_s is not None and timeout_s <= 0:
                connection.end(stream_id, None, self.deadline_exceeded())
                return None
            if self._call_count >= bounds.CONCURRENT_CALLS_MAX:
                connection.end(stream_id, None, self.too_many())
                return None
            call = Call(connection, stream_id, handler, metadata, timeout_s=timeout_s, faults=self)
            self._call_count += 1
            call.add_done_callback(self._call_ended)
            return call
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            connection.end(stream_id, None, self.trailers_of(error))
            return None

    def _call_ended(self, _call: Call) -> None:
        self._call_count -= 1

    def _handler_of(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]]
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = self._methods.get(method)
        if handler is not None:
            return handler
        details = _CallDetails(method, metadata)
        for generic in self._generic:
            handler = generic.service(details)  # type: ignore[arg-type]
            if handler is not None:
                return handler
        return None
