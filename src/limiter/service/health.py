"""`grpc.health.v1.Health`: whether the server decides, under its own name and each service's.

What flows in: the server's state. What flows out: the same to whoever asks or watches.

What always holds: all names have the same status, since all services stand on the same journal; and
a watch does not outlive the serving, so that it cannot hold up a server that drains.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from limiter import errors
from limiter.service.status import abort

__all__ = ["Health"]

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

# What a watcher gets to read the last status before its watch ends.
_LAST_WORD_S: Final = 0.1


class Health:
    """The health of the server as a whole and of the services called `names`.

    Not serving until told otherwise.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = ("", *names)
        self._servicer = health_aio.HealthServicer()
        self._drained = asyncio.Event()
        self._is_serving = False

    @property
    def is_serving(self) -> bool:
        """What everybody is told."""
        return self._is_serving and not self._drained.is_set()

    async def set_serving(self, is_serving: bool) -> None:
        """Tells everybody; without effect once the server drains."""
        self._is_serving = is_serving
        status = _SERVING if is_serving else _NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, status)

    async def drain(self) -> None:
        """Not serving, for good; ends all watches."""
        await self._servicer.enter_graceful_shutdown()
        self._drained.set()

    def add_to(self, server: Any) -> None:
        """Registers the service with a server of either transport."""
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self), server)

    async def check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        """The status of one service; NOT_FOUND for one that there is not."""
        return await self._servicer.Check(request, context)

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """The status of one service, now and whenever it changes, until the server drains."""
        watching = asyncio.ensure_future(self._servicer.Watch(request, context))
        drained = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait((watching, drained), return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                await asyncio.wait((watching,), timeout=_LAST_WORD_S)
        finally:
            drained.cancel()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await abort(context, errors.Unavailable("DRAINING", "the server is stopping"))


class _Servicer(health_pb2_grpc.HealthServicer):
    """The service's methods under their own names."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(  # noqa: N802 - the method's name in the API
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> Any:
        return await self._health.check(request, context)

    async def Watch(  # noqa: N802 - the method's name in the API
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> None:
        await self._health.watch(request, context)
