"""A server of the native transport with handlers of the test's own, in the test's event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from limiter._http2 import Connection
from limiter.native import NativeServer

Behaviour = Callable[[Any, Any], Awaitable[bytes]]


class Served:
    """The running server, for tests that look at it from inside."""

    def __init__(self, server: NativeServer, port: int) -> None:
        self.server = server
        self.address = f"127.0.0.1:{port}"

    @property
    def connections(self) -> list[Connection]:
        return list(self.server._connections)


@asynccontextmanager
async def served(ssl_context: Any = None, /, **behaviours: Behaviour) -> AsyncIterator[Served]:
    """Serves unary methods of bytes under /test.T/; more can be registered before a call."""
    server = NativeServer()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(behaviour)
        for name, behaviour in {"Echo": echo, **behaviours}.items()
    }
    server.add_registered_method_handlers("test.T", handlers)
    if ssl_context is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", ssl_context)
    await server.start()
    try:
        yield Served(server, port)
    finally:
        await server.stop(1)


async def echo(request: bytes, _context: Any) -> bytes:
    return request
