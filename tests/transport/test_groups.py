"""A reply to a commit leaves once its own group is durable, whatever was waited for before it."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from limiter import errors, kinds, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter._hot_calls import HotCalls, hot_methods
from limiter._http2 import Connection
from limiter._spread import Spread
from limiter.clock import DrivenClock
from limiter.grpc_wire import Faults
from limiter.native import NativeServer
from limiter.policy import PolicyStore
from limiter.service.decision import Engine
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.transport.raw import framed


class Committer:
    """Hands out futures that the test settles."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[None]] = []

    def wait(self) -> asyncio.Future[None]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def kick(self) -> None:
        raise AssertionError("nothing was denied")


class Pipe:
    """asyncio's side of a connection: keeps what is written to the client."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Wire:
    """A client and a server whose bytes pass at once, outside any event loop's turn."""

    def __init__(self) -> None:
        store = PolicyStore()
        self.core = Core(bytes(32), store.bind, kinds.define_kind)
        store.connect(self.core)
        self.committer = Committer()
        self.times = Spread([1], len(hot_methods()))
        self.hot = hot = HotCalls(Faults())
        hot.observe(self.times)
        decider: Any = Decider(self.core, kinds.compile_inline, zones.zone)
        committer: Any = self.committer
        hot.attach(Engine(decider, self.core, committer, DrivenClock(1_800_000_000_000), None))
        self._pipe = Pipe()
        self._server = Connection(NativeServer(hot), hot)
        pipe: Any = self._pipe
        self._server.connection_made(pipe)
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self._client = h2.connection.H2Connection(config)
        self._client.initiate_connection()
        self._ended: set[int] = set()
        self._pass_on()

    def commit(self, request_id: str) -> int:
        """Sends a Commit, which the server has decided when this returns; its stream."""
        attempt = attempt_pb2.Attempt(account="a", contact="c")
        request = decision_service_pb2.CommitRequest(attempt=attempt, request_id=request_id)
        stream_id = self._client.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/limiter.v1.DecisionService/Commit",
            ":authority": "limiter",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self._client.send_headers(stream_id, [*fields.items()])
        body = framed(request.SerializeToString())
        self._client.send_data(stream_id, body, end_stream=True)
        self._pass_on()
        return stream_id

    async def answered(self) -> set[int]:
        """The streams that have their replies, once everything that is due has run."""
        for _ in range(5):
            await asyncio.sleep(0)
        self._pass_on()
        return self._ended

    def _pass_on(self) -> None:
        self._server.data_received(self._client.data_to_send())
        written, self._pipe.written = self._pipe.written, b""
        for event in self._client.receive_data(written):
            if isinstance(event, h2.events.StreamEnded):
                self._ended.add(event.stream_id)


@pytest.fixture
async def wire() -> Wire:
    return Wire()


async def test_a_commit_does_not_join_those_who_wait_for_nothing_new(wire: Wire) -> None:
    first = wire.commit("r1")
    wire.core.take_group()
    # The repeat waits for the group that is being written, and appends nothing.
    repeat = wire.commit("r1")
    on_disk, nothing_new = wire.committer.asked
    on_disk.set_result(None)
    nothing_new.set_result(None)
    # Before anybody was told, one more commit comes, which nobody has written.
    fresh = wire.commit("r2")
    assert await wire.answered() == {first, repeat}
    (own,) = wire.committer.asked[2:]
    own.set_result(None)
    assert await wire.answered() == {first, repeat, fresh}


async def test_the_commits_of_one_group_share_it(wire: Wire) -> None:
    repeat_of = wire.commit("r1")
    others = {wire.commit(f"r{number}") for number in range(2, 6)}
    assert await wire.answered() == set()
    (group,) = wire.committer.asked
    group.set_result(None)
    assert await wire.answered() == {repeat_of, *others}


async def test_how_long_commits_took_is_told_once_they_are_answered(wire: Wire) -> None:
    row = hot_methods().index("Commit")
    for number in range(3):
        wire.commit(f"r{number}")
    assert sum(wire.times.counts(row)) == 0
    wire.core.take_group()
    wire.committer.asked[0].set_result(None)
    await wire.answered()
    assert sum(wire.times.counts(row)) == 3
    assert wire.times.total(row) > 0
    wire.commit("failed")
    wire.committer.asked[1].set_exception(errors.Unavailable("JOURNAL_UNAVAILABLE", "lost"))
    await wire.answered()
    assert sum(wire.times.counts(row)) == 3
    others = set(range(len(hot_methods()))) - {row}
    assert [sum(wire.times.counts(other)) for other in others] == [0] * len(others)


async def test_there_is_a_row_for_each_method(wire: Wire) -> None:
    with pytest.raises(ValueError, match="rows"):
        wire.hot.observe(Spread([1], 2))
