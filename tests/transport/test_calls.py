"""What gRPC asks of a server: metadata, statuses, compression, deadlines, cancellation, sizes."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from limiter import bounds
from limiter.v1 import decision_service_pb2
from tests.integration.inside import serving
from tests.transport.raw import RawClient, connected, framed
from tests.transport.served import served

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 0, 1, 2, 3, 4
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13

COMMIT = "/limiter.v1.DecisionService/Commit"
STREAM = "/limiter.v1.DecisionService/CommitStream"


def commit() -> bytes:
    request = decision_service_pb2.CommitRequest()
    request.attempt.account = "a"
    request.attempt.contact = "c"
    return request.SerializeToString()


def method(channel: grpc.aio.Channel, path: str) -> Any:
    """A method whose messages are bytes."""
    return channel.unary_unary(path)


@asynccontextmanager
async def client_of(path: str, data_dir: Path) -> AsyncIterator[RawClient]:
    """A client of a server that has this method: a limiter, or one with Echo."""
    async with AsyncExitStack() as running:
        if path.startswith("/limiter"):
            inside = await running.enter_async_context(serving(data_dir, transport="native"))
            address = inside.server.address
        else:
            address = (await running.enter_async_context(served())).address
        yield await running.enter_async_context(connected(address))


async def test_metadata_goes_there_and_back() -> None:
    sent = (("word", "a, b"), ("raw-bin", bytes(range(256))), ("raw-bin", b""))

    async def mirror(request: bytes, context: Any) -> bytes:
        seen = [pair for pair in context.invocation_metadata() if pair[0] in {"word", "raw-bin"}]
        await context.send_initial_metadata(seen)
        context.set_trailing_metadata((("end-bin", b"\x00\xff"), ("end", "done")))
        return request

    async with served(Mirror=mirror) as running, grpc.aio.insecure_channel(running.address) as to:
        call = method(to, "/test.T/Mirror")(b"x", metadata=sent)
        assert await call == b"x"
        assert tuple(await call.initial_metadata()) == sent
        trailing = dict(await call.trailing_metadata())
        assert trailing == {"end-bin": b"\x00\xff", "end": "done"}


async def test_several_binary_values_in_one_field_are_several() -> None:
    async def count(request: bytes, context: Any) -> bytes:
        values = [value for key, value in context.invocation_metadata() if key == "raw-bin"]
        return b"|".join(values)

    async with served(Count=count) as running, connected(running.address) as client:
        reply = await client.ask("/test.T/Count", b"", ("raw-bin", "YQ,Yg=="))
        assert reply.body == framed(b"a|b")
        broken = await client.ask("/test.T/Count", b"", ("raw-bin", "*"))
        assert broken.status == INVALID_ARGUMENT


@pytest.mark.parametrize("message", ["50 % of it", "Ünïcödé ✓\n\ttab", "", "\x7f~%41"])
async def test_a_status_message_is_what_it_was(message: str) -> None:
    async def fail(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, message, (("x-bin", b"\x01"),))
        raise AssertionError

    async with served(Fail=fail) as running, grpc.aio.insecure_channel(running.address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(to, "/test.T/Fail")(b"")
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert caught.value.details() == message
        assert ("x-bin", b"\x01") in tuple(caught.value.trailing_metadata() or ())


async def test_a_message_travels_in_printable_ascii() -> None:
    async def fail(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, "50 % ✓\n")
        raise AssertionError

    async with served(Fail=fail) as running, connected(running.address) as client:
        reply = await client.ask("/test.T/Fail", b"")
        assert reply.headers["grpc-message"] == "50 %25 %E2%9C%93%0A"


@pytest.mark.parametrize(
    "pairs",
    [
        (("name", "not ascii: ✓"),),
        (("näme", "x"),),
        tuple((f"n{i}", "v") for i in range(bounds.METADATA_FIELDS_MAX + 1)),
    ],
    ids=["value", "name", "many"],
)
async def test_metadata_that_no_field_can_be_ends_the_call(pairs: Any) -> None:
    async def wrong(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(pairs)
        return request

    async with served(Wrong=wrong) as running, connected(running.address) as client:
        assert (await client.ask("/test.T/Wrong", b"")).status == INTERNAL


async def test_error_details_come_as_a_status() -> None:
    async with served() as running, connected(running.address) as client:
        reply = await client.ask("/test.T/Echo", b"x", ("grpc-encoding", "gzip"))
        assert reply.status == OK
        broken = await client.reply(await client.call("/test.T/Echo", framed(b"no gzip", 1)))
        assert broken.status == INVALID_ARGUMENT
        data = broken.headers["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(base64.b64decode(data + "=" * (-len(data) % 4)))
        assert status.code == INVALID_ARGUMENT


class TestCompression:
    @pytest.mark.parametrize("path", ["/test.T/Echo", COMMIT])
    async def test_unknown_encodings_are_refused(self, path: str, tmp_path: Path) -> None:
        async with client_of(path, tmp_path / "data") as client:
            reply = await client.ask(path, b"x", ("grpc-encoding", "br"))
            assert reply.status == UNIMPLEMENTED
            assert reply.headers["grpc-accept-encoding"] == "identity,gzip"

    async def test_gzip_is_read(self, tmp_path: Path) -> None:
        async with client_of(COMMIT, tmp_path / "data") as client:
            body = framed(gzip.compress(commit()), 1)
            gzipped = ("grpc-encoding", "gzip")
            stream = await client.call(COMMIT, body, gzipped)
            assert (await client.reply(stream)).status == OK
            # Twice: a stream, and one message of it that is not compressed.
            stream = await client.call(STREAM, body + framed(commit()), gzipped)
            assert (await client.reply(stream)).status == OK

    async def test_grpcs_own_compression_is_read(self) -> None:
        async with served() as running:
            channel = grpc.aio.insecure_channel(running.address, compression=grpc.Compression.Gzip)
            async with channel as to:
                assert await method(to, "/test.T/Echo")(b"a" * 10_000) == b"a" * 10_000

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (gzip.compress(b"x" * 100)[:-9], INVALID_ARGUMENT),
            (b"\x00" * 30, INVALID_ARGUMENT),
            (gzip.compress(bytes(bounds.MESSAGE_BYTES_MAX + 1)), RESOURCE_EXHAUSTED),
        ],
        ids=["cut", "other", "bomb"],
    )
    @pytest.mark.parametrize("path", ["/test.T/Echo", COMMIT])
    async def test_what_is_no_gzip(
        self, path: str, data: bytes, status: int, tmp_path: Path
    ) -> None:
        async with client_of(path, tmp_path / "data") as client:
            stream = await client.call(path, framed(data, 1), ("grpc-encoding", "gzip"))
            assert (await client.reply(stream)).status == status


class TestDeadlines:
    @pytest.mark.parametrize("path", [COMMIT, STREAM])
    async def test_past_it_nothing_is_decided(self, path: str, tmp_path: Path) -> None:
        async with serving(tmp_path / "data", transport="native") as inside:
            async with connected(inside.server.address) as client:
                reply = await client.ask(path, commit(), ("grpc-timeout", "1n"))
                assert reply.status == DEADLINE_EXCEEDED
                reply = await client.ask(path, commit(), ("grpc-timeout", "1H"))
                assert reply.status == OK
            # What was decided would have its place in the account's order.
            request = decision_service_pb2.CommitRequest.FromString(commit())
            assert (await inside.decisions.Commit(request)).account_sequence == 2

    async def test_a_stream_that_waits_ends_at_it(self, tmp_path: Path) -> None:
        async with client_of(COMMIT, tmp_path / "data") as client:
            stream = await client.call(STREAM, b"", ("grpc-timeout", "1m"), end=False)
            assert (await client.reply(stream)).status == DEADLINE_EXCEEDED

    async def test_a_handler_is_cancelled_at_it(self) -> None:
        cancelled = asyncio.Event()

        async def sleep(_request: bytes, _context: Any) -> bytes:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return b""

        async with served(Sleep=sleep) as running, connected(running.address) as client:
            reply = await client.ask("/test.T/Sleep", b"", ("grpc-timeout", "20m"))
            assert reply.status == DEADLINE_EXCEEDED
            assert cancelled.is_set()


async def test_a_cancelled_call_cancels_its_handler() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def sleep(_request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert context.cancelled()
            cancelled.set()
            raise
        return b""

    async with served(Sleep=sleep) as running, connected(running.address) as client:
        stream = await client.call("/test.T/Sleep", framed(b""))
        await asyncio.wait_for(started.wait(), 30)
        client.h2.reset_stream(stream)
        await client.push()
        await asyncio.wait_for(cancelled.wait(), 30)
        assert (await client.ask("/test.T/Echo", b"on")).body == framed(b"on")


class TestRequestsThatAreNone:
    @pytest.mark.parametrize(
        ("replace", "status"),
        [
            ({":method": "GET"}, "405"),
            ({"content-type": "text/html"}, "415"),
            ({"content-type": "application/grpcx"}, "415"),
            ({"filler": "x" * bounds.HEADER_LIST_BYTES_MAX}, "431"),
        ],
    )
    async def test_http_answers(self, replace: dict[str, str], status: str) -> None:
        async with served() as running, connected(running.address) as client:
            stream = await client.call("/test.T/Echo", framed(b""), replace=replace)
            assert (await client.reply(stream)).headers[":status"] == status
            assert (await client.ask("/test.T/Echo", b"on")).status == OK

    async def test_suffixes_and_parameters_are_grpc(self) -> None:
        async with served() as running, connected(running.address) as client:
            for kind in ("application/grpc+proto", "application/grpc;charset=utf-8"):
                stream = await client.call(
                    "/test.T/Echo", framed(b"x"), replace={"content-type": kind}
                )
                assert (await client.reply(stream)).status == OK

    @pytest.mark.parametrize("path", ["/test.T/None", "/none.S/Echo", "/"])
    async def test_unknown_methods(self, path: str) -> None:
        async with served() as running, connected(running.address) as client:
            assert (await client.ask(path, b"")).status == UNIMPLEMENTED

    @pytest.mark.parametrize("path", ["/test.T/Echo", COMMIT])
    @pytest.mark.parametrize(
        "body", [b"", framed(b"")[:4], framed(b"xyz")[:-1], framed(b"") * 2], ids=str
    )
    async def test_not_exactly_one_message(self, path: str, body: bytes, tmp_path: Path) -> None:
        async with client_of(path, tmp_path / "data") as client:
            reply = await client.reply(await client.call(path, body))
            assert reply.status == INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["/test.T/Echo", COMMIT, STREAM])
async def test_a_message_that_is_too_large_is_refused_at_its_size(
    path: str, tmp_path: Path
) -> None:
    head = b"\0" + (bounds.MESSAGE_BYTES_MAX + 1).to_bytes(4, "big")
    async with client_of(path, tmp_path / "data") as client:
        reply = await client.reply(await client.call(path, head, end=False))
        assert reply.status == RESOURCE_EXHAUSTED
        assert str(bounds.MESSAGE_BYTES_MAX) in reply.headers["grpc-message"]


async def test_the_largest_message_goes_through() -> None:
    message = bytes(bounds.MESSAGE_BYTES_MAX)
    async with served() as running:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(running.address, options) as to:
            assert await method(to, "/test.T/Echo")(message) == message
