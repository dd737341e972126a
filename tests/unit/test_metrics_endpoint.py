"""The page's address: who reads it, and who does not get to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from limiter import bounds, errors, listening, metrics, metrics_endpoint
from limiter.metrics_endpoint import MetricsEndpoint


def reading() -> metrics.Reading:
    return {"limiter_serving": [((), 1.0)]}


@asynccontextmanager
async def served(read: object = reading) -> AsyncIterator[int]:
    """The port of an endpoint."""
    endpoint = MetricsEndpoint(read)  # type: ignore[arg-type]
    url = await endpoint.start("127.0.0.1", 0)
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/metrics")
    try:
        yield int(url.split(":")[2].split("/")[0])
    finally:
        await endpoint.stop()


async def said(port: int, request: bytes) -> bytes:
    """What is answered, up to where the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_the_page_is_read() -> None:
    async with served() as port:
        answer = await said(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"Content-Type: text/plain" in head
        assert b"\nlimiter_serving 1.0\n" in body
        asked = b"GET /metrics?x=1 HTTP/1.1\r\naccept: application/openmetrics-text\r\n\r\n"
        assert b"Content-Type: application/openmetrics-text" in await said(port, asked)
        head = await said(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x00\xff\r\n\r\n", b"404"),
    ],
)
async def test_nothing_else_is_there(request_bytes: bytes, status: bytes) -> None:
    async with served() as port:
        assert (await said(port, request_bytes)).startswith(b"HTTP/1.1 " + status)


async def test_who_says_too_much_or_hangs_up_is_hung_up_on() -> None:
    async with served() as port:
        flood = b"GET /metrics HTTP/1.1\r\nx: " + b"y" * bounds.METRICS_REQUEST_BYTES_MAX * 2
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(flood)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /met")
        writer.close()
        await writer.wait_closed()
        assert b"200 OK" in await said(port, b"GET /metrics HTTP/1.0\r\n\r\n")


async def test_who_is_slow_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "METRICS_REQUEST_MS_MAX", 20)
    async with served() as port:
        assert await said(port, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "METRICS_CONNECTIONS_MAX", 2)
    async with served() as port:
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        # Their turn comes before that of whoever connects later.
        for _, writer in waiting:
            writer.write(b"GET")
        await asyncio.sleep(0.05)
        third, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await third.read() == b""
        writer.close()
        for reader, writer in waiting:
            writer.write(b" /metrics HTTP/1.1\r\n\r\n")
            assert b"200 OK" in await reader.read()
            writer.close()


async def test_a_fault_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> metrics.Reading:
        raise RuntimeError("broken")

    async with served(broken) as port:
        answer = await said(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500")
    assert "metrics cannot be read" in caplog.text


async def test_a_port_in_use_is_refused_by_its_flag() -> None:
    async with served() as port:
        with pytest.raises(errors.FailedPrecondition, match="--metrics-port") as caught:
            await MetricsEndpoint(reading).start("127.0.0.1", port)
        assert caught.value.reason == "PORT_IN_USE"


async def test_an_address_that_others_reach_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening.Address, "is_loopback", property(lambda _: False))
    with caplog.at_level(logging.WARNING):
        async with served():
            pass
    assert "can be read by whoever reaches 127.0.0.1" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9464", ("127.0.0.1", 9464)), ("0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80))],
)
def test_ports_and_addresses_are_understood(text: str, expected: tuple[str, int]) -> None:
    assert metrics_endpoint.parse(text) == expected


@pytest.mark.parametrize("text", ["x", "-1", "1:2:3", "host:", "65536", "host:port"])
def test_others_are_not(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="metrics_port"):
        metrics_endpoint.parse(text)
