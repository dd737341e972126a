"""A client that speaks HTTP/2 frame by frame, and may say whatever it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

# How long a slow machine may take to answer.
PATIENCE_S: Final = 30.0

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types of frames, for those that are written by hand.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING = 0, 1, 2, 3, 4, 6
CONTINUATION, UNKNOWN = 9, 0xFA

Field = tuple[str, str]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame as it travels."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def framed(message: bytes, flag: int = 0) -> bytes:
    """One gRPC message as it travels."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


@dataclass
class Reply:
    """What has come on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The gRPC status, wherever it came."""
        return int({**self.headers, **self.trailers}["grpc-status"])

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None


class RawClient:
    """One connection. What is sent is not checked; what comes is read by `until` and `reply`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.replies: dict[int, Reply] = {}
        self.pongs = 0
        self.goaway: int | None = None
        self.is_closed = False
        # Off for a client that reads what comes and never says so.
        self.gives_room = True
        self._reader = reader
        self._writer = writer

    async def greet(self) -> None:
        self.h2.initiate_connection()
        await self.push()

    async def push(self, extra: bytes = b"") -> None:
        """Sends what the protocol has to say, then these bytes."""
        try:
            self._writer.write(self.h2.data_to_send() + extra)
            await self._writer.drain()
        except ConnectionError:
            self.is_closed = True

    async def call(
        self,
        path: str,
        body: bytes | None = None,
        *extra: Field,
        end: bool = True,
        replace: dict[str, str] | None = None,
    ) -> int:
        """Begins a call, with this body unless it is None; returns its stream."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "limiter",
            "content-type": "application/grpc",
            "te": "trailers",
            **(replace or {}),
        }
        stream_id = self.h2.get_next_available_stream_id()
        self.replies[stream_id] = Reply()
        has_body = body is not None
        self.h2.send_headers(stream_id, [*fields.items(), *extra], end_stream=end and not has_body)
        await self.push()
        if body is not None:
            await self.send(stream_id, body, end=end)
        return stream_id

    async def send(self, stream_id: int, body: bytes, *, end: bool = False) -> None:
        """Sends part of a body, as fast as the server lets it."""
        while body:
            room = min(self.h2.local_flow_control_window(stream_id), 16_384)
            if room <= 0:
                await self.until(
                    lambda: (
                        self.replies[stream_id].is_over
                        or self.h2.local_flow_control_window(stream_id) > 0
                    )
                )
                if self.replies[stream_id].is_over:
                    return
                continue
            self.h2.send_data(stream_id, body[:room])
            body = body[room:]
            await self.push()
        if end:
            self.h2.end_stream(stream_id)
            await self.push()

    async def reply(self, stream_id: int) -> Reply:
        """What came on a stream, once it is over."""
        reply = self.replies[stream_id]
        await self.until(lambda: reply.is_over)
        return reply

    async def ask(self, path: str, message: bytes, *extra: Field) -> Reply:
        """A whole unary call."""
        return await self.reply(await self.call(path, framed(message), *extra))

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Reads until it is so; fails if the connection ends before."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                assert not self.is_closed, f"closed; GOAWAY says {self.goaway}"
                await self._read()

    async def until_closed(self) -> int | None:
        """Reads until the server has closed; returns what its GOAWAY said, None without one."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_closed:
                await self._read()
        return self.goaway

    async def _read(self) -> None:
        try:
            data = await self._reader.read(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.is_closed = True
            return
        for event in self.h2.receive_data(data):
            self._take(event)
        await self.push()

    def _take(self, event: h2.events.Event) -> None:
        reply = self.replies.get(getattr(event, "stream_id", 0) or 0, Reply())
        match event:
            case h2.events.ResponseReceived():
                reply.headers.update(_text(event.headers))
            case h2.events.TrailersReceived():
                reply.trailers.update(_text(event.headers))
            case h2.events.DataReceived():
                reply.body += event.data
                size = event.flow_controlled_length
                if self.gives_room and size:
                    self.h2.acknowledge_received_data(size, event.stream_id)
            case h2.events.StreamEnded():
                reply.ended = True
            case h2.events.StreamReset():
                reply.reset = int(event.error_code)
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)
            case _:
                pass

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def _text(fields: object) -> dict[str, str]:
    assert isinstance(fields, list)
    return {str(name): str(value) for name, value in fields}


@asynccontextmanager
async def connected(address: str, *, greet: bool = True) -> AsyncIterator[RawClient]:
    """A client of a server at HOST:PORT."""
    host, _, port = address.rpartition(":")
    client = RawClient(*await asyncio.open_connection(host, int(port)))
    if greet:
        await client.greet()
    try:
        yield client
    finally:
        await client.close()
