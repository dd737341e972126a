"""Server reflection: what the API is, for whoever may call it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Final

from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from limiter.service.status import Gate, abort

__all__ = ["NAME", "add_reflection"]

NAME: Final = reflection.SERVICE_NAME


class _Servicer(reflection.aio.ReflectionServicer):
    """The library's servicer behind the gate."""

    def __init__(self, names: Iterable[str], gate: Gate) -> None:
        super().__init__(names)
        self._gate = gate

    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802 - the API's name
        self, requests: AsyncIterable[Any], context: Any
    ) -> AsyncIterator[Any]:
        try:
            visit = self._gate.enter(f"/{NAME}/ServerReflectionInfo", context)
            # The library's types say that it is a coroutine.
            replies: Any = super().ServerReflectionInfo(requests, context)
            async for reply in replies:
                visit.renew()
                yield reply
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)


def add_reflection(server: Any, names: Iterable[str], gate: Gate) -> None:
    """Registers the service with a server of either transport; `names` are all its services."""
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
        _Servicer(names, gate), server
    )
