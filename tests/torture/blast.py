"""Requests as plain bytes, many at once, on blocking sockets; and what comes back, counted."""

from __future__ import annotations

import socket
from typing import Final

from limiter.v1 import decision_service_pb2
from tests.transport.raw import DATA, HEADERS, PREFACE, SETTINGS, frame, framed

# What a slow machine may take to answer.
PATIENCE_S: Final = 60

END_STREAM, END_HEADERS = 0x1, 0x4
WINDOW_UPDATE: Final = 8
GOAWAY: Final = 7

# Stream ids have 31 bits and are odd: a connection is good for so many calls.
CALLS_PER_CONNECTION: Final = 1_000_000


def literal(name: str, value: str) -> bytes:
    """A header field that no table remembers, so that each block stands alone."""
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


HEAD: Final = b"".join(
    literal(name, value)
    for name, value in {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/limiter.v1.DecisionService/Check",
        ":authority": "limiter",
        "content-type": "application/grpc",
        "te": "trailers",
    }.items()
)


def check_message() -> bytes:
    request = decision_service_pb2.CheckRequest()
    request.attempt.account = "a"
    request.attempt.contact = "c"
    return request.SerializeToString()


BODY: Final = framed(check_message())

# The largest windows there are: the client reads all that comes.
GREETING: Final = (
    PREFACE
    + frame(SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff")
    + frame(WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
)


def request(stream_id: int) -> bytes:
    """A whole call of Check."""
    head = frame(HEADERS, END_HEADERS, stream_id, HEAD)
    return head + frame(DATA, END_STREAM, stream_id, BODY)


class Blaster:
    """One connection that asks again and again."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.socket.sendall(GREETING)
        self._stream_id = 1
        self._unread = b""

    def ask(self, count: int) -> int:
        """Asks so often, at once, and waits for all answers; returns how many bytes they have."""
        ids = range(self._stream_id, self._stream_id + 2 * count, 2)
        self._stream_id += 2 * count
        self.socket.sendall(b"".join(request(stream_id) for stream_id in ids))
        ended = size = 0
        while ended < count:
            more_ended, more_size = self._read()
            ended += more_ended
            size += more_size
        if size:
            self.socket.sendall(frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big")))
        return size

    def _read(self) -> tuple[int, int]:
        """Streams that have ended, and bytes of bodies, in what comes next."""
        received = self.socket.recv(262_144)
        assert received, "the server has closed"
        data = self._unread + received
        ended = size = offset = 0
        while len(data) - offset >= 9:
            length = int.from_bytes(data[offset : offset + 3], "big")
            if len(data) - offset - 9 < length:
                break
            kind, flags = data[offset + 3], data[offset + 4]
            assert kind != GOAWAY, data[offset : offset + 9 + length]
            if kind == DATA:
                size += length
            ended += kind in {DATA, HEADERS} and flags & END_STREAM
            offset += 9 + length
        self._unread = data[offset:]
        return ended, size

    def close(self) -> None:
        self.socket.close()
