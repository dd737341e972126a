"""The hot methods over real gRPC, with a decider that does as the request's bytes say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from limiter import bounds, errors
from limiter._guard import Guard
from limiter.clock import DrivenClock
from limiter.journal import GroupCommitter, read_groups
from limiter.service.decision import SERVICE, DecisionService, Engine
from tests.unit.memory_journal import ListSource, MemoryJournal


class Decider:
    """Appends each commit to the source. A request that starts with `-` is denied, with `!` bad,
    with `#` more than anybody foresaw."""

    def __init__(self, source: ListSource) -> None:
        self.source = source
        self.pending_bytes = 0

    def check(self, request: bytes, now_ms: int, guard: Guard | None = None) -> bytes:
        return self._reply(request, now_ms)

    def commit(self, request: bytes, now_ms: int, guard: Guard | None = None) -> tuple[bytes, bool]:
        reply = self._reply(request, now_ms)
        self.source.append(request + b";")
        return reply, not request.startswith(b"-")

    check_batch = check
    commit_batch = commit
    get_usage = check

    def _reply(self, request: bytes, now_ms: int) -> bytes:
        if request.startswith(b"!"):
            raise errors.InvalidArgument.for_field("attempt", "is required")
        if request.startswith(b"#"):
            raise ZeroDivisionError("secret")
        return b"%b@%d" % (request, now_ms)


class Harness:
    """The service on a port, with a journal whose syncs the test may hold back."""

    def __init__(self, journal: MemoryJournal, committer: GroupCommitter, source: ListSource):
        self.journal = journal
        self.committer = committer
        self.decider = Decider(source)
        self.source = source
        self.service = DecisionService()
        self.engine = Engine(self.decider, self.decider, committer, DrivenClock(1_000))
        self.service.attach(self.engine)
        self.failures: list[errors.Unavailable] = []
        self.channel: Any = None

    def call(self, method: str, request: bytes) -> Any:
        """Starts a unary call."""
        return self.channel.unary_unary(f"/{SERVICE.full_name}/{method}")(request)

    def stream(self) -> Any:
        return self.channel.stream_stream(f"/{SERVICE.full_name}/CommitStream")()

    def journalled(self) -> bytes:
        return b"".join(group.events for group in read_groups(self.journal, 0))

    @property
    def decided_count(self) -> int:
        return sum(map(len, self.source.taken)) + len(self.source.pending)

    async def decided(self, count: int) -> None:
        """Returns once so many commits have been decided."""
        async with asyncio.timeout(10):
            while self.decided_count < count:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.001)

    async def begun(self) -> None:
        """Returns once one more append is under way."""
        await asyncio.to_thread(self.journal.wait_for_append)


@asynccontextmanager
async def serving(*, gated: bool = False) -> AsyncIterator[Harness]:
    journal, source = MemoryJournal(gated=gated), ListSource()
    failures: list[errors.Unavailable] = []
    committer = GroupCommitter(
        journal, source, shard=0, tail=0, tail_checksum=0, on_failure=failures.append
    )
    harness = Harness(journal, committer, source)
    harness.failures = failures
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE.full_name, harness.service.handlers()),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        harness.channel = channel
        yield harness
    await server.stop(None)
    if gated:
        journal.let_through(1_000)
    await committer.close()


async def fault(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def reason_of(error: grpc.aio.AioRpcError) -> str:
    return detail_of(error, error_details_pb2.ErrorInfo()).reason  # type: ignore[no-any-return]


def detail_of(error: grpc.aio.AioRpcError, detail: Any) -> Any:
    """The detail of that type."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    for each in status.details:
        if each.Unpack(detail):
            return detail
    raise AssertionError(f"no {detail.DESCRIPTOR.name} in {status}")


UNARY = ["Check", "Commit", "CheckBatch", "CommitBatch", "GetUsage"]
COMMITS = ["Commit", "CommitBatch"]


def test_every_hot_method_is_handled() -> None:
    handlers = DecisionService().handlers()
    assert set(handlers) == {*UNARY, "CommitStream"}
    for name, handler in handlers.items():
        method = SERVICE.methods_by_name[name]
        assert handler.request_streaming == method.client_streaming
        assert handler.response_streaming == method.server_streaming
        assert handler.request_deserializer is None
        assert handler.response_serializer is None


@pytest.mark.parametrize("method", UNARY)
class TestUnary:
    async def test_bytes_go_in_and_out_with_one_instant(self, method: str) -> None:
        async with serving() as harness:
            assert await harness.call(method, b"\x00\xffabc") == b"\x00\xffabc@1000"
            assert await harness.call(method, b"") == b"@1000"

    async def test_a_bad_request_is_a_status(self, method: str) -> None:
        async with serving() as harness:
            error = await fault(harness.call(method, b"!"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(error) == "INVALID_FIELD"
            bad = detail_of(error, error_details_pb2.BadRequest())
            assert bad.field_violations[0].field == "attempt"
            assert await harness.call(method, b"next") == b"next@1000"
        assert b"!" not in harness.journalled()

    async def test_the_unforeseen_is_hidden(self, method: str) -> None:
        async with serving() as harness:
            error = await fault(harness.call(method, b"#"))
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in str(error)
            assert await harness.call(method, b"next") == b"next@1000"

    async def test_overload_is_refused_before_any_work(self, method: str) -> None:
        async with serving() as harness:
            harness.decider.pending_bytes = bounds.PENDING_JOURNAL_BYTES_MAX + 1
            error = await fault(harness.call(method, b"request"))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "OVERLOADED"
            retry = detail_of(error, error_details_pb2.RetryInfo())
            assert 0 < retry.retry_delay.ToMilliseconds() < 10_000
            assert harness.source.pending == []
            harness.decider.pending_bytes = bounds.PENDING_JOURNAL_BYTES_MAX
            assert await harness.call(method, b"request") == b"request@1000"

    async def test_without_an_engine_it_is_unavailable(self, method: str) -> None:
        async with serving() as harness:
            harness.service.detach(errors.Unavailable("JOURNAL_UNAVAILABLE", "disk is gone"))
            error = await fault(harness.call(method, b"request"))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == "disk is gone"
            assert reason_of(error) == "JOURNAL_UNAVAILABLE"
            harness.service.attach(harness.engine)
            assert await harness.call(method, b"request") == b"request@1000"


@pytest.mark.parametrize("method", COMMITS)
class TestCommits:
    async def test_an_allowed_commit_waits_for_its_group(self, method: str) -> None:
        async with serving(gated=True) as harness:
            call = harness.call(method, b"a")
            await harness.begun()
            done, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.05)
            assert not done
            assert harness.journalled() == b""
            harness.journal.let_through()
            assert await call == b"a@1000"
            assert harness.journalled() == b"a;"

    async def test_a_denial_does_not_wait_and_is_written(self, method: str) -> None:
        async with serving(gated=True) as harness:
            assert await harness.call(method, b"-a") == b"-a@1000"
            await harness.begun()
            assert harness.journalled() == b""
        assert harness.journalled() == b"-a;"

    async def test_a_client_that_goes_away_is_counted(self, method: str) -> None:
        async with serving(gated=True) as harness:
            stays = harness.call(method, b"stays")
            gone = harness.call(method, b"gone")
            await harness.begun()
            # Both may be in one group or the second in the next.
            await harness.decided(2)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            await asyncio.sleep(0.02)
            harness.journal.let_through(2)
            assert await stays == b"stays@1000"
        assert sorted(harness.journalled().split(b";")) == [b"", b"gone", b"stays"]

    async def test_many_calls_share_a_sync(self, method: str) -> None:
        async with serving(gated=True) as harness:
            first = harness.call(method, b"first")
            await harness.begun()
            calls = [harness.call(method, b"%d" % number) for number in range(100)]
            await harness.decided(101)
            harness.journal.let_through(2)
            assert await first == b"first@1000"
            assert sorted(await asyncio.gather(*calls)) == sorted(
                b"%d@1000" % number for number in range(100)
            )
            assert harness.journal.append_count == 2

    async def test_a_journal_that_fails_is_unavailable(self, method: str) -> None:
        async with serving() as harness:
            harness.journal.fault = OSError(28, "No space left on device")
            error = await fault(harness.call(method, b"a"))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(error) == "JOURNAL_UNAVAILABLE"
            assert len(harness.failures) == 1
            again = await fault(harness.call(method, b"b"))
            assert again.code() is grpc.StatusCode.UNAVAILABLE
            assert harness.journal.append_count == 1


class TestStream:
    async def test_replies_come_in_order(self) -> None:
        async with serving() as harness:
            stream = harness.stream()
            requests = [b"%s%d" % (b"-" if number % 3 else b"", number) for number in range(300)]
            for request in requests:
                await stream.write(request)
            await stream.done_writing()
            assert [reply async for reply in stream] == [request + b"@1000" for request in requests]
            assert await stream.code() is grpc.StatusCode.OK
        assert harness.journalled() == b"".join(request + b";" for request in requests)

    async def test_it_reads_on_during_a_sync_and_answers_after_it(self) -> None:
        async with serving(gated=True) as harness:
            stream = harness.stream()
            for number in range(50):
                await stream.write(b"%d" % number)
            await harness.begun()
            await harness.decided(50)
            read = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0.05)
            assert not read.done()
            harness.journal.let_through(100)
            assert await read == b"0@1000"
            for number in range(1, 50):
                assert await stream.read() == b"%d@1000" % number
            assert harness.journal.append_count <= 3
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

    async def test_a_denial_waits_for_its_turn(self) -> None:
        async with serving(gated=True) as harness:
            stream = harness.stream()
            await stream.write(b"allowed")
            await stream.write(b"-denied")
            read = asyncio.ensure_future(stream.read())
            await harness.begun()
            await asyncio.sleep(0.05)
            assert not read.done()
            harness.journal.let_through(2)
            assert await read == b"allowed@1000"
            assert await stream.read() == b"-denied@1000"
            stream.cancel()

    async def test_the_window_bounds_what_is_decided_ahead(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "STREAM_WINDOW_MAX", 10)
        async with serving(gated=True) as harness:
            stream = harness.stream()
            for number in range(30):
                await stream.write(b"%d" % number)
            await harness.begun()
            await asyncio.sleep(0.1)
            assert harness.decided_count == 10
            harness.journal.let_through(1_000)
            for number in range(30):
                assert await stream.read() == b"%d@1000" % number
            stream.cancel()

    @pytest.mark.parametrize(
        ("bad", "code"),
        [(b"!", grpc.StatusCode.INVALID_ARGUMENT), (b"#", grpc.StatusCode.INTERNAL)],
    )
    async def test_a_bad_message_ends_it_after_the_replies_before_it(
        self, bad: bytes, code: grpc.StatusCode
    ) -> None:
        async with serving() as harness:
            stream = harness.stream()
            for request in (b"1", b"-2", b"3", bad, b"4"):
                await stream.write(request)
            replies = [await stream.read() for _ in range(3)]
            assert replies == [b"1@1000", b"-2@1000", b"3@1000"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is code
            assert reason_of(caught.value) in {"INVALID_FIELD", "INTERNAL"}
        assert harness.journalled() == b"1;-2;3;"

    async def test_a_client_that_goes_away_keeps_what_was_decided(self) -> None:
        async with serving(gated=True) as harness:
            stream = harness.stream()
            for number in range(20):
                await stream.write(b"%d" % number)
            await harness.begun()
            await harness.decided(20)
            stream.cancel()
            await asyncio.sleep(0.05)
            harness.journal.let_through(1_000)
            other = harness.call("Commit", b"other")
            assert await other == b"other@1000"
            assert harness.service._readers == {}
        assert harness.journalled().split(b";")[:20] == [b"%d" % number for number in range(20)]

    async def test_load_slows_it_down_instead_of_ending_it(self) -> None:
        async with serving() as harness:
            harness.decider.pending_bytes = bounds.PENDING_JOURNAL_BYTES_MAX + 1
            stream = harness.stream()
            await stream.write(b"patient")
            read = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0.05)
            assert not read.done()
            assert harness.source.pending == []
            harness.decider.pending_bytes = 0
            assert await read == b"patient@1000"
            stream.cancel()

    async def test_a_journal_that_fails_ends_it(self) -> None:
        async with serving() as harness:
            stream = harness.stream()
            await stream.write(b"1")
            assert await stream.read() == b"1@1000"
            harness.journal.fault = OSError(28, "No space left on device")
            await stream.write(b"2")
            with pytest.raises(grpc.aio.AioRpcError, match="No space left") as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_draining_answers_what_was_decided(self) -> None:
        async with serving(gated=True) as harness:
            idle, busy = harness.stream(), harness.stream()
            for number in range(20):
                await busy.write(b"%d" % number)
            await idle.write(b"-denied")
            assert await idle.read() == b"-denied@1000"
            await harness.begun()
            await harness.decided(21)
            harness.service.drain()
            harness.journal.let_through(1_000)
            for number in range(20):
                assert await busy.read() == b"%d@1000" % number
            for stream in (idle, busy, harness.stream()):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stream.read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert reason_of(caught.value) == "DRAINING"

    async def test_too_many_streams_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "CONCURRENT_STREAMS_MAX", 2)
        async with serving() as harness:
            streams = [harness.stream() for _ in range(2)]
            for stream in streams:
                await stream.write(b"-")
                assert await stream.read() == b"-@1000"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await harness.stream().read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(caught.value) == "OVERLOADED"
            await streams[0].done_writing()
            assert await streams[0].read() is grpc.aio.EOF
            again = harness.stream()
            await again.write(b"-")
            assert await again.read() == b"-@1000"
