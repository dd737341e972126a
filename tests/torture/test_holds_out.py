"""The native transport holds out: millions of calls, clients that misbehave, bytes at random.

`make holds-out` runs this. LIMITER_CALLS says how many calls are made, LIMITER_FUZZ_SECONDS for how
long random bytes are sent.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.process import ServerProcess
from tests.torture import blast
from tests.torture.blast import GREETING, Blaster, request
from tests.transport.raw import (
    CONTINUATION,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    UNKNOWN,
    frame,
)

pytestmark = [pytest.mark.torture, pytest.mark.timeout(7_200)]

CALLS = int(os.environ.get("LIMITER_CALLS", "1000000"))
FUZZ_S = float(os.environ.get("LIMITER_FUZZ_SECONDS", "90"))
CONNECTIONS = 10_000

# What a server's memory may grow by, whatever comes.
GROWTH_BYTES_MAX = 48 * 1024 * 1024


class Watched:
    """A server whose memory is watched, and a neighbour who must always be answered."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._process = psutil.Process(server.process.pid)
        self._neighbour = Blaster(server.address)
        for _ in range(100):
            self._neighbour.ask(500)
        self._before = self._process.memory_info().rss

    def check(self) -> None:
        assert self._neighbour.ask(10) > 0
        growth = self._process.memory_info().rss - self._before
        assert growth < GROWTH_BYTES_MAX, f"grew by {growth / 2**20:.0f} MiB"

    def close(self) -> None:
        self.check()
        self._neighbour.close()
        log = self.server.log
        assert "Traceback" not in log, log
        assert "level=error" not in log, log


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ServerProcess(tmp_path / "data", transport="native") as server:
        watched = Watched(server)
        yield watched
        watched.close()


def connect(server: ServerProcess) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=blast.PATIENCE_S)


def slam(client: socket.socket) -> None:
    """Closes as a machine that was switched off and on again does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_many_calls_leave_nothing_behind(watched: Watched) -> None:
    made = 0
    while made < CALLS:
        client = Blaster(watched.server.address)
        for _ in range(min(CALLS - made, blast.CALLS_PER_CONNECTION) // 500):
            client.ask(500)
            made += 500
        client.close()
        watched.check()


def test_connections_that_are_abandoned_half_way(watched: Watched) -> None:
    chance = random.Random(1)
    story = GREETING + b"".join(request(stream_id) for stream_id in range(1, 21, 2))
    held: list[socket.socket] = []
    for number in range(CONNECTIONS):
        client = connect(watched.server)
        client.sendall(story[: chance.randrange(len(story))])
        held.append(client)
        if len(held) == 400:
            for each in held:
                (slam if chance.random() < 0.5 else socket.socket.close)(each)
            held.clear()
        if number % 1_000 == 0:
            watched.check()
    for each in held:
        each.close()


def test_clients_that_do_not_read_and_clients_that_dawdle(watched: Watched) -> None:
    story = GREETING + b"".join(request(stream_id) for stream_id in range(1, 1_001, 2))
    deaf = []
    for _ in range(200):
        client = connect(watched.server)
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with suppress(BlockingIOError):
            client.send(story)
        deaf.append(client)
    slow = [connect(watched.server) for _ in range(200)]
    for position in range(200):
        for client in slow:
            client.sendall(story[position : position + 1])
        if position % 20 == 0:
            watched.check()
    for client in deaf + slow:
        client.close()


def test_clients_that_cancel_everything(watched: Watched) -> None:
    for number in range(300):
        client = connect(watched.server)
        story = GREETING
        for stream_id in range(1, 1_201, 2):
            story += request(stream_id)[: None if number % 2 else -1]
            story += frame(RST_STREAM, 0, stream_id, (8).to_bytes(4, "big"))
        with suppress(ConnectionError):
            client.sendall(story)
            client.recv(1)
        client.close()
        if number % 30 == 0:
            watched.check()


def mutated(chance: random.Random, story: bytes) -> bytes:
    """The story with a few bytes, or whole frames, that are not its own."""
    data = bytearray(story)
    for _ in range(chance.randrange(1, 12)):
        place = chance.randrange(len(GREETING) if chance.random() < 0.9 else 0, len(data))
        match chance.randrange(5):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randrange(1, 30)]
            case 2:
                data[place:place] = chance.randbytes(chance.randrange(1, 30))
            case 3:
                data[place:place] = data[place : place + chance.randrange(1, 200)]
            case _:
                kinds = (*range(10), CONTINUATION, PING, PRIORITY, SETTINGS, UNKNOWN)
                data[place:place] = frame(
                    chance.choice(kinds),
                    chance.randrange(256),
                    chance.randrange(30),
                    chance.randbytes(chance.choice((0, 1, 4, 5, 6, 8, 40))),
                )
        if not data:
            break
    return bytes(data)


def test_bytes_at_random(watched: Watched) -> None:
    seed = int(os.environ.get("LIMITER_FUZZ_SEED", "20261124"))
    print(f"seed {seed}")
    chance = random.Random(seed)
    story = GREETING + b"".join(request(stream_id) for stream_id in range(1, 13, 2))
    until_s = time.monotonic() + FUZZ_S
    rounds = 0
    while time.monotonic() < until_s:
        client = connect(watched.server)
        data = mutated(chance, story) if chance.random() < 0.9 else chance.randbytes(300)
        cut = chance.randrange(len(data) + 1)
        with suppress(ConnectionError, TimeoutError):
            client.sendall(data[:cut])
            client.sendall(data[cut:])
            client.settimeout(0.002)
            client.recv(65_536)
        (slam if chance.random() < 0.3 else socket.socket.close)(client)
        rounds += 1
        if rounds % 200 == 0:
            watched.check()
    assert rounds > 100
