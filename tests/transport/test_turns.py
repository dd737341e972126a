"""One account's flood and another account's calls: who is served when, without a clock.

A turn of the loop is made to take no time at all, so that whatever comes lines up, and each turn
serves the least that it can. The bytes pass outside of any socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from limiter import bounds, kinds, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter._hot_calls import HotCalls
from limiter._http2 import Connection
from limiter._http2_turns import Turns
from limiter.clock import DrivenClock
from limiter.grpc_wire import Faults
from limiter.journal import GroupCommitter
from limiter.native import NativeServer
from limiter.policy import PolicyStore
from limiter.service.decision import Engine
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.transport.raw import PATIENCE_S, framed
from tests.unit.memory_journal import MemoryJournal

PATH = "/limiter.v1.DecisionService/"


class Pipe:
    """asyncio's side of a connection."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Service:
    """What serves all clients of a test."""

    def __init__(self) -> None:
        store = PolicyStore()
        self.core = Core(bytes(32), store.bind, kinds.define_kind)
        store.connect(self.core)
        self.hot = HotCalls(Faults())
        decider: Any = Decider(self.core, kinds.compile_inline, zones.zone)
        self.committer = GroupCommitter(
            MemoryJournal(), self.core, shard=0, tail=0, tail_checksum=0, on_failure=_unexpected
        )
        clock = DrivenClock(1_800_000_000_000)
        self.hot.attach(Engine(decider, self.core, self.committer, clock, None))
        self.server = NativeServer(self.hot)

    @property
    def turns(self) -> Turns:
        return self.hot.turns

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Turns of the loop, until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110 - turns are what it is about
                await asyncio.sleep(0)

    async def everything(self) -> None:
        """Returns when nobody waits any more and all that was decided is answered."""
        await self.until(lambda: self.turns.waiting_count == 0)
        await self.committer.wait()
        await asyncio.sleep(0)


def _unexpected(failure: Exception) -> None:
    raise failure


class Client:
    """One connection, whose account has been decided for once."""

    def __init__(self, service: Service, account: str) -> None:
        self.account = account
        self.pipe = Pipe()
        self.server_side = Connection(service.server, service.hot)
        pipe: Any = self.pipe
        self.server_side.connection_made(pipe)
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self.replies: dict[int, int] = {}
        self._rests: dict[int, bytes] = {}
        self.push()

    def commits(self, count: int) -> None:
        """Sends so many Commits at once."""
        for number in range(count):
            self._open("Commit", self._request(number), is_whole=True)
        self.push()

    def stream(self, count: int) -> None:
        """Opens a CommitStream and sends so many Commits on it."""
        messages = b"".join(self._request(number) for number in range(count))
        self._open("CommitStream", messages, is_whole=False)
        self.push()

    def _request(self, number: int) -> bytes:
        attempt = attempt_pb2.Attempt(account=self.account, contact=f"c{number}")
        return framed(decision_service_pb2.CommitRequest(attempt=attempt).SerializeToString())

    def _open(self, method: str, body: bytes, *, is_whole: bool) -> None:
        stream_id = self._h2.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": PATH + method,
            ":authority": "limiter",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self._h2.send_headers(stream_id, [*fields.items()])
        for start in range(0, len(body), 16_384):
            self._h2.send_data(stream_id, body[start : start + 16_384])
        if is_whole:
            self._h2.end_stream(stream_id)

    def push(self) -> None:
        """What is to be sent comes to the server at once."""
        self.server_side.data_received(self._h2.data_to_send())

    def take(self) -> None:
        """What the server has written comes to the client."""
        written, self.pipe.written = self.pipe.written, b""
        for event in self._h2.receive_data(written):
            if isinstance(event, h2.events.DataReceived):
                self._count(event.stream_id, event.data)
                self._h2.acknowledge_received_data(len(event.data), event.stream_id)
        room = self._h2.data_to_send()
        if room:
            self.server_side.data_received(room)

    def _count(self, stream_id: int, data: bytes) -> None:
        rest = self._rests.get(stream_id, b"") + data
        while len(rest) >= 5 and len(rest) >= (size := 5 + int.from_bytes(rest[1:5], "big")):
            rest = rest[size:]
            self.replies[stream_id] = self.replies.get(stream_id, 0) + 1
        self._rests[stream_id] = rest

    def message_count(self) -> int:
        """Replies of all streams together."""
        self.take()
        return sum(self.replies.values())


@pytest.fixture
async def service() -> Any:
    service = Service()
    yield service
    await service.committer.close()


async def known(service: Service, account: str) -> Client:
    """A client whose account the server knows, as of every client after its first call."""
    client = Client(service, account)
    client.commits(1)
    await service.everything()
    assert client.message_count() == 1
    return client


def is_reading(client: Client) -> bool:
    """Whether the server reads what the client sends."""
    return client.pipe.is_reading


def slow(service: Service) -> None:
    """From now on a turn takes no time: each serves one part of one lane."""
    service.turns.turn_s = service.turns.part_s = 0.0


async def turns_until_decided(service: Service, account: str) -> int:
    """How many turns of the loop pass until something more is decided for an account."""
    before = service.core.last_events(account)
    for number in range(1_000):
        if service.core.last_events(account) != before:
            return number
        await asyncio.sleep(0)
    raise AssertionError("it is never decided")


async def replies(service: Service, client: Client, count: int) -> None:
    """Returns once a client has so many replies, and fails if it gets more."""
    async with asyncio.timeout(PATIENCE_S):
        while client.message_count() < count:
            await service.everything()
    assert client.message_count() == count


async def test_while_little_comes_nobody_waits(service: Service) -> None:
    client = await known(service, "a")
    service.turns.turn_s = 1e9
    client.commits(10)
    assert service.turns.waiting_count == service.turns.kept_bytes == 0


@pytest.mark.parametrize("connection_count", [1, 20])
async def test_a_flood_of_one_account_lets_another_go_between(
    service: Service, connection_count: int
) -> None:
    flood = [await known(service, "a") for _ in range(connection_count)]
    quiet = await known(service, "b")
    slow(service)
    for client in flood:
        client.commits(800 // connection_count)
    quiet.commits(1)
    # One part of the flood, then the other account.
    appended = service.core.appended
    assert await turns_until_decided(service, "b") == 2
    assert 0 < service.core.appended - appended < 400
    assert service.turns.waiting_count > 0
    for client in flood:
        await replies(service, client, 1 + 800 // connection_count)
    await replies(service, quiet, 2)
    await service.everything()
    assert service.turns.kept_bytes == service.turns.waiting_count == 0


async def test_a_stream_that_sends_much_lets_another_account_go_between(service: Service) -> None:
    flood = await known(service, "a")
    quiet = await known(service, "b")
    slow(service)
    flood.stream(800)
    quiet.commits(1)
    # Its bytes lie before its messages: they take a turn of their own.
    appended = service.core.appended
    assert await turns_until_decided(service, "b") == 2
    assert 0 < service.core.appended - appended < 400
    await replies(service, flood, 801)


async def test_streams_of_one_connection_take_turns(service: Service) -> None:
    client = await known(service, "a")
    slow(service)
    for _ in range(3):
        client.stream(200)
    await service.until(lambda: service.core.appended >= 400)
    await service.committer.wait()
    await asyncio.sleep(0)
    client.take()
    # None has all of its replies while another has few.
    fewest, _, most = sorted(client.replies[stream_id] for stream_id in (3, 5, 7))
    assert fewest > most / 4
    await replies(service, client, 601)


async def test_who_sends_too_much_is_read_no_further_for_the_moment(service: Service) -> None:
    client = await known(service, "a")
    slow(service)
    client.stream(3_000)
    assert service.turns.kept_bytes <= bounds.CONNECTION_KEPT_BYTES
    assert is_reading(client)
    client.stream(3_000)
    assert service.turns.kept_bytes > bounds.CONNECTION_KEPT_BYTES
    assert not is_reading(client)
    await service.until(lambda: service.turns.kept_bytes == 0)
    assert is_reading(client)
    await replies(service, client, 6_001)


async def test_who_does_not_read_does_not_go_on_until_he_has(service: Service) -> None:
    client = await known(service, "a")
    slow(service)
    client.commits(5)
    client.server_side.pause_writing()
    for _ in range(5):
        await asyncio.sleep(0)
    assert service.turns.kept_bytes > 0
    assert client.message_count() == 1
    client.server_side.resume_writing()
    await service.everything()
    assert client.message_count() == 6
    assert client.pipe.is_reading


async def test_what_a_client_that_has_gone_had_sent_is_forgotten(service: Service) -> None:
    client = await known(service, "a")
    slow(service)
    client.commits(500)
    client.server_side.connection_lost(None)
    assert service.turns.kept_bytes == 0
    await service.everything()
    assert service.turns.waiting_count == 0
