"""What a client cannot do to the server: flood it, sit on it, or hold up its neighbours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h2.errors
import h2.settings
import pytest

from limiter import bounds
from limiter.v1 import decision_service_pb2
from tests.integration.inside import serving
from tests.transport import raw
from tests.transport.raw import RawClient, connected, frame, framed
from tests.transport.served import Served, served

PROTOCOL_ERROR = int(h2.errors.ErrorCodes.PROTOCOL_ERROR)
CALM = int(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
FLOOD = 3 * bounds.CONTROL_FRAMES_MAX
ECHO = "/test.T/Echo"
STREAM = "/limiter.v1.DecisionService/CommitStream"
COMMIT = "/limiter.v1.DecisionService/Commit"
RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = 8, 4


def commit(contact: str = "c") -> bytes:
    request = decision_service_pb2.CommitRequest()
    request.attempt.account = "a"
    request.attempt.contact = contact
    return request.SerializeToString()


FLOODS: dict[str, Callable[[RawClient, int], bytes]] = {
    "ping": lambda _client, _stream: frame(raw.PING, 0, 0, b"12345678"),
    "settings": lambda _client, _stream: frame(raw.SETTINGS, 0, 0),
    "priority": lambda _client, stream: frame(raw.PRIORITY, 0, stream + 2, b"\0\0\0\0\x01"),
    "empty data": lambda _client, stream: frame(raw.DATA, 0, stream),
    "unknown": lambda _client, _stream: frame(raw.UNKNOWN, 0, 0, b"x"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_the_connection_and_nobody_elses(kind: str) -> None:
    async with (
        served() as running,
        connected(running.address) as neighbour,
        connected(running.address) as client,
    ):
        stream = await client.call(ECHO, b"", end=False)
        before = running.server.flood_count
        await client.push(FLOODS[kind](client, stream) * FLOOD)
        assert await client.until_closed() == CALM
        assert running.server.flood_count == before + 1
        assert (await neighbour.ask(ECHO, b"on")).body == framed(b"on")


@pytest.mark.parametrize("code", [0, 8], ids=["no error", "cancel"])
async def test_rapid_resets_end_the_connection(code: int) -> None:
    async def wait(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with served(Wait=wait) as running:
        async with connected(running.address) as client:
            for _ in range(FLOOD):
                stream = await client.call("/test.T/Wait", framed(b""))
                client.h2.reset_stream(stream, code)
                await client.push()
                if client.is_closed:
                    break
            assert await client.until_closed() == CALM
        await nothing_left(running)


async def test_who_takes_answers_may_cancel_and_ping() -> None:
    """As clients do that measure the path by pings and hedge their calls."""
    async with served() as running, connected(running.address) as client:
        for _ in range(bounds.CONTROL_FRAMES_MAX):
            assert (await client.ask(ECHO, b"x")).status == 0
            stream = await client.call(ECHO, framed(b""))
            client.h2.reset_stream(stream)
            client.h2.ping(b"12345678")
            await client.push()
        await client.until(lambda: client.pongs == bounds.CONTROL_FRAMES_MAX)


async def test_a_header_without_end_ends_the_connection() -> None:
    async with served() as running, connected(running.address) as client:
        await client.push(frame(raw.HEADERS, 0, 1, b""))
        for _ in range(100):
            await client.push(frame(raw.CONTINUATION, 0, 1, b"\x00\x01a\x01b"))
        assert await client.until_closed() is not None


async def test_what_is_no_http2_is_closed() -> None:
    async with served() as running:
        for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + bytes(300)):
            async with connected(running.address, greet=False) as client:
                await client.push(junk)
                await client.until_closed()


async def test_streams_beyond_the_maximum_end_the_connection() -> None:
    async def wait(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with served(Wait=wait) as running, connected(running.address) as client:
        await client.call("/test.T/Wait", framed(b""))
        await client.until(
            lambda: (
                client.h2.remote_settings.max_concurrent_streams == bounds.CONNECTION_STREAMS_MAX
            )
        )
        # The library would keep to what the server has said.
        settings = client.h2.remote_settings._settings
        settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS][0] = 2**31 - 1
        for _ in range(bounds.CONNECTION_STREAMS_MAX):
            await client.call("/test.T/Wait", framed(b""))
        assert await client.until_closed() == PROTOCOL_ERROR


async def test_connections_beyond_the_maximum_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CONNECTIONS_MAX", 3)
    async with served() as running:
        async with connected(running.address) as a, connected(running.address) as b:
            assert (await a.ask(ECHO, b"")).status == (await b.ask(ECHO, b"")).status == 0
            async with connected(running.address) as c, connected(running.address) as d:
                assert (await c.ask(ECHO, b"")).status == 0
                await d.until_closed()
            assert (await a.ask(ECHO, b"")).status == 0
        await nothing_left(running)
        async with connected(running.address) as client:
            assert (await client.ask(ECHO, b"")).status == 0


async def test_calls_beyond_the_maximum_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CONCURRENT_CALLS_MAX", 1)
    go_on = asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        await go_on.wait()
        return request

    async with served(Wait=wait) as running, connected(running.address) as client:
        first = await client.call("/test.T/Wait", framed(b""))
        assert (await client.ask("/test.T/Wait", b"")).status == RESOURCE_EXHAUSTED
        go_on.set()
        assert (await client.reply(first)).status == 0
        assert (await client.ask("/test.T/Wait", b"")).status == 0


async def test_who_does_not_read_a_stream_costs_little(tmp_path: Path) -> None:
    """The server stops deciding when replies wait, and goes on when they are read."""
    requests = 20_000
    async with serving(tmp_path / "data", transport="native") as inside:
        address = inside.server.address
        async with connected(address) as client, connected(address) as neighbour:
            client.gives_room = False
            stream = await client.call(STREAM, b"", end=False)
            body = framed(commit())
            # More than the windows hold stays with the client: send only what it may.
            sending = asyncio.create_task(client.send(stream, body * requests, end=True))
            await asyncio.sleep(0)
            for _ in range(200):
                assert (await neighbour.ask(COMMIT, commit("n"))).status == 0
                for connection in inside.server._server._connections:  # type: ignore[union-attr]
                    assert connection.unsent_bytes < 4 * bounds.STREAM_UNREAD_BYTES_MAX
            client.gives_room = True
            taken = len(client.replies[stream].body)
            client.h2.acknowledge_received_data(taken, stream)
            await client.push()
            await sending
            reply = await client.reply(stream)
            assert reply.status == 0
            assert count_messages(reply.body) == requests


async def test_parts_of_requests_have_a_bound(tmp_path: Path) -> None:
    size = bounds.MESSAGE_BYTES_MAX
    head = b"\0" + size.to_bytes(4, "big")
    async with serving(tmp_path / "data", transport="native") as inside:
        address = inside.server.address
        async with connected(address) as client, connected(address) as neighbour:
            while not any(reply.is_over for reply in client.replies.values()):
                await client.call(COMMIT, head + bytes(size - 1), end=False)
            (refused,) = (each for each in client.replies.values() if each.is_over)
            assert refused.status == RESOURCE_EXHAUSTED
            assert (await neighbour.ask(COMMIT, commit())).status == 0
            # What is given up makes room.
            for stream, reply in client.replies.items():
                if not reply.is_over:
                    client.h2.reset_stream(stream)
            await client.push()
            assert (await client.ask(COMMIT, commit())).status == 0


async def test_a_request_that_stays_unfinished_ends() -> None:
    async with served() as running, connected(running.address) as client:
        stream = await client.call(ECHO, framed(b"abc")[:-1], end=False)
        assert (await client.ask(ECHO, b"on")).status == 0
        (connection,) = running.connections
        now_s = time.monotonic()
        connection.sweep(now_s + bounds.UNFINISHED_MS_MAX / 1000 - 1)
        assert not client.replies[stream].is_over
        connection.sweep(now_s + bounds.UNFINISHED_MS_MAX / 1000 + 1)
        assert (await client.reply(stream)).status == DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "pieces",
    [
        [raw.PREFACE[:5]],
        [raw.PREFACE, frame(raw.SETTINGS, 0, 0)[:4]],
        [raw.PREFACE + frame(raw.SETTINGS, 0, 0), frame(raw.PING, 0, 0, b"12345678")[:-1]],
        [raw.PREFACE + frame(raw.SETTINGS, 0, 0), frame(raw.HEADERS, 0, 1, b"\x82")],
    ],
    ids=["preface", "head", "payload", "header"],
)
async def test_what_is_unfinished_is_seen(pieces: list[bytes]) -> None:
    async with served() as running, connected(running.address, greet=False) as client:
        for piece in pieces:
            for each in piece:
                await client.push(bytes((each,)))
        await come_true(lambda: bool(running.connections and running.connections[0].unfinished_s))


async def test_nothing_is_unfinished_between_frames() -> None:
    async with served() as running, connected(running.address) as client:
        assert (await client.ask(ECHO, b"x" * 100_000)).status == 0
        (connection,) = running.connections
        assert connection.unfinished_s == 0
        assert connection.unread_bytes == connection.unsent_bytes == 0


async def test_a_ping_is_answered() -> None:
    async with served() as running, connected(running.address) as client:
        client.h2.ping(b"12345678")
        await client.push()
        await client.until(lambda: client.pongs == 1)
        # And asked.
        (connection,) = running.connections
        before_s = connection.active_s
        connection.ping()
        async with asyncio.timeout(raw.PATIENCE_S):
            while connection.active_s == before_s:
                await client.ask(ECHO, b"")


def count_messages(body: bytes) -> int:
    count = offset = 0
    while offset < len(body):
        offset += 5 + int.from_bytes(body[offset + 1 : offset + 5], "big")
        count += 1
    assert offset == len(body)
    return count


async def come_true(is_so: Callable[[], bool]) -> None:
    """Returns once it is so."""
    async with asyncio.timeout(raw.PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - what the server does has no event
            await asyncio.sleep(0.001)


async def nothing_left(running: Served) -> None:
    """Returns once the server has forgotten all clients, which have gone."""
    await come_true(lambda: not running.connections)
    assert running.server._call_count == 0
