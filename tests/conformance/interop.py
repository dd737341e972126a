"""gRPC's own test service, on a native server in a process of its own.

Run as `python -m tests.conformance.interop STUBS [CERTIFICATE KEY]`: STUBS is the folder with what
is generated of proto/. Prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from limiter.native import NativeServer

# What the tests send to be echoed.
INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"


class TestService:
    """The methods as gRPC's interop-test-descriptions ask for them."""

    __test__ = False

    def __init__(self, messages: Any) -> None:
        self._messages = messages

    async def EmptyCall(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the API's names
        return request

    async def UnaryCall(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _echo(request, context)
        return self._messages.SimpleResponse(payload=self._payload(request.response_size))

    async def StreamingOutputCall(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[Any]:
        await _echo(request, context)
        for reply in request.response_parameters:
            await asyncio.sleep(reply.interval_us / 1e6)
            yield self._messages.StreamingOutputCallResponse(payload=self._payload(reply.size))

    async def StreamingInputCall(  # noqa: N802
        self, requests: AsyncIterator[Any], _context: Any
    ) -> Any:
        size = 0
        async for request in requests:
            size += len(request.payload.body)
        return self._messages.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        async for request in requests:
            async for reply in self.StreamingOutputCall(request, context):
                yield reply

    def _payload(self, size: int) -> Any:
        return self._messages.Payload(body=bytes(size))


async def _echo(request: Any, context: Any) -> None:
    metadata = dict(context.invocation_metadata())
    if INITIAL in metadata:
        await context.send_initial_metadata(((INITIAL, metadata[INITIAL]),))
    if TRAILING in metadata:
        context.set_trailing_metadata(((TRAILING, metadata[TRAILING]),))
    if request.HasField("response_status"):
        codes = {code.value[0]: code for code in grpc.StatusCode}
        status = request.response_status
        await context.abort(codes[status.code], status.message)


async def main(stubs: str, *pair: str) -> None:
    """Serves until it is killed."""
    sys.path.insert(0, stubs)
    messages = importlib.import_module("grpc_testing_stubs.test_pb2")
    services = importlib.import_module("grpc_testing_stubs.test_pb2_grpc")
    server = NativeServer()
    services.add_TestServiceServicer_to_server(TestService(messages), server)
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        context.set_alpn_protocols(["h2"])
        port = server.add_secure_port("127.0.0.1:0", context)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
