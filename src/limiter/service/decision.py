"""DecisionService: bytes in, a decision, its group on disk, bytes out.

The hot methods have no serializers: their bytes go to the decider as they came and its bytes leave
as they are. What flows in: a request's bytes. What flows out: a reply's bytes, or a status.

What always holds:

- A request is decided in one step of the event loop, at one instant, in the order of arrival.
- The reply to an allowed commit leaves after everything appended up to it is durable; the one to a
  denial at once, its event being written without anybody waiting.
- When more is pending than the journal takes in a moment, a call is refused before any work.
- A client that goes away neither undoes nor interrupts its commit: what is decided is in the
  journal's pending group already.
- A stream's replies come in the order of its requests. While earlier groups are being synced it
  reads on, up to a window of decided requests without a reply. It is not refused under load but
  reads no further, which in HTTP/2 slows its client down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
from grpc.aio import EOF

from limiter import bounds, errors
from limiter._guard import Guard
from limiter.clock import Clock
from limiter.service.authorization import Gate
from limiter.service.status import abort
from limiter.v1 import decision_service_pb2

__all__ = ["SERVICE", "Committer", "Decider", "DecisionService", "Engine", "Pending"]

SERVICE: Final = decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"]

_Context = grpc.aio.ServicerContext[Any, Any]

_Reply = TypeVar("_Reply")


class Decider(Protocol):
    """Decides requests of the wire's form; see `limiter._hot.Decider`."""

    def check(self, request: bytes, now_ms: int, guard: Guard | None) -> bytes:
        """A CheckRequest to its CheckResponse."""

    def commit(self, request: bytes, now_ms: int, guard: Guard | None) -> tuple[bytes, bool]:
        """A CommitRequest to its CommitResponse, and whether that must wait to be durable."""

    def check_batch(self, request: bytes, now_ms: int, guard: Guard | None) -> bytes:
        """A CheckBatchRequest to its CheckBatchResponse."""

    def commit_batch(self, request: bytes, now_ms: int, guard: Guard | None) -> tuple[bytes, bool]:
        """A CommitBatchRequest to its CommitBatchResponse, and whether that must wait."""

    def get_usage(self, request: bytes, now_ms: int, guard: Guard | None) -> bytes:
        """A GetUsageRequest to its GetUsageResponse."""


class Pending(Protocol):
    """What has been appended and is not with the journal yet: the core."""

    @property
    def pending_bytes(self) -> int:
        """The size of the pending group."""


class Committer(Protocol):
    """Group commit; see `limiter.journal.GroupCommitter`."""

    def wait(self) -> asyncio.Future[None]:
        """Resolves once everything appended up to now is durable."""

    def kick(self) -> None:
        """Has everything appended up to now written soon."""


class Arrivals(Protocol):
    """Brings accounts into memory, by the numbers of their names; see `limiter.residence`."""

    def bring(self, account: int) -> Awaitable[None]:
        """Resolves once the account is there."""

    def when_here(self, account: int, waiter: Callable[[Exception | None], None]) -> None:
        """Calls back once the account is there, or with why it cannot be."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What decides: replaced as a whole when the state is recovered anew."""

    decider: Decider
    pending: Pending
    committer: Committer
    clock: Clock
    # Lets callers in; None where nobody is asked who he is.
    gate: Gate | None = None
    # Brings accounts into memory; None where they never leave it.
    arrivals: Arrivals | None = None

    async def patiently(self, decide: Callable[[], _Reply]) -> _Reply:
        """What a method of the decider says now, once the account that it needs is in memory."""
        while True:
            try:
                return decide()
            except errors.Away as away:
                assert self.arrivals is not None
                await self.arrivals.bring(away.account_id)

    def guard(self, context: Any) -> Guard | None:
        """What guards the calls of one context. Raises what its call is to end with."""
        return None if self.gate is None else self.gate.guard_of_context(context)


class DecisionService:
    """The hot methods. Answers UNAVAILABLE until it is attached to an engine."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._absence: errors.Unavailable = errors.Unavailable(
            "JOURNAL_UNAVAILABLE", "the server is starting"
        )
        self._is_draining = False
        # The tasks that read the open streams, to be ended when the server drains.
        self._readers: dict[asyncio.Task[None], _Stream] = {}
        self._looking: asyncio.Task[None] | None = None
        self._message_answered: Callable[[int], None] | None = None

    def attach(self, engine: Engine) -> None:
        """Decides with `engine` from now on."""
        self._engine = engine

    def detach(self, absence: errors.Unavailable) -> None:
        """Answers every call with `absence` from now on."""
        self._engine = None
        self._absence = absence

    def observe(self, message_answered: Callable[[int], None]) -> None:
        """Tells of each message of a CommitStream how long, in nanoseconds, its answer took."""
        self._message_answered = message_answered

    @property
    def stream_count(self) -> int:
        """CommitStreams that are open."""
        return len(self._readers)

    def drain(self) -> None:
        """Ends the open streams: what they have decided is answered, nothing more is read."""
        self._is_draining = True
        for reader, stream in self._readers.items():
            stream.ending = _draining()
            reader.cancel()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name, all of them, without serializers."""
        unary: dict[str, Callable[[bytes, _Context], Awaitable[bytes]]] = {
            "Check": self.check,
            "Commit": self.commit,
            "CheckBatch": self.check_batch,
            "CommitBatch": self.commit_batch,
            "GetUsage": self.get_usage,
        }
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(behaviour)
            for name, behaviour in unary.items()
        }
        handlers["CommitStream"] = grpc.stream_stream_rpc_method_handler(self.commit_stream)
        return handlers

    async def check(self, request: bytes, context: _Context) -> bytes:
        """Check: decides and changes nothing."""
        try:
            engine = self._admit()
            guard = engine.guard(context)
            return await engine.patiently(
                lambda: engine.decider.check(request, engine.clock.now_ms(), guard)
            )
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def commit(self, request: bytes, context: _Context) -> bytes:
        """Commit: decides, and answers once that is durable."""
        try:
            engine = self._admit()
            guard = engine.guard(context)
            reply, must_wait = await engine.patiently(
                lambda: engine.decider.commit(request, engine.clock.now_ms(), guard)
            )
            if must_wait:
                await engine.committer.wait()
            else:
                engine.committer.kick()
            return reply
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def check_batch(self, request: bytes, context: _Context) -> bytes:
        """CheckBatch: decides all recipients at one instant and changes nothing."""
        try:
            engine = self._admit()
            guard = engine.guard(context)
            return await engine.patiently(
                lambda: engine.decider.check_batch(request, engine.clock.now_ms(), guard)
            )
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def commit_batch(self, request: bytes, context: _Context) -> bytes:
        """CommitBatch: decides all recipients at one instant, and answers once that is durable."""
        try:
            engine = self._admit()
            guard = engine.guard(context)
            reply, must_wait = await engine.patiently(
                lambda: engine.decider.commit_batch(request, engine.clock.now_ms(), guard)
            )
            if must_wait:
                await engine.committer.wait()
            else:
                engine.committer.kick()
            return reply
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def get_usage(self, request: bytes, context: _Context) -> bytes:
        """GetUsage: reports counters and changes nothing."""
        try:
            engine = self._admit()
            guard = engine.guard(context)
            return await engine.patiently(
                lambda: engine.decider.get_usage(request, engine.clock.now_ms(), guard)
            )
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def commit_stream(self, requests: object, context: _Context) -> None:
        """CommitStream: decides each message as it comes and answers in order.

        One task reads and decides, this one waits for the groups and writes.
        """
        try:
            if self._is_draining:
                raise _draining()
            if len(self._readers) >= bounds.CONCURRENT_STREAMS_MAX:
                raise _overloaded("too many streams are open")
            stream = _Stream(self, context, self._message_answered)
            reader = asyncio.create_task(stream.read())
            reader.add_done_callback(stream.read_to_end)
            self._readers[reader] = stream
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
            try:
                await stream.write()
            finally:
                del self._readers[reader]
                reader.cancel()
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def _look(self) -> None:
        """Ends the streams of those who are not let in any more, as long as there are streams."""
        while self._readers:
            await asyncio.sleep(bounds.CREDENTIAL_LOOK_MS / 1000)
            for reader, stream in tuple(self._readers.items()):
                if self._engine is not None and not stream.may_go_on(self._engine):
                    reader.cancel()
        self._looking = None

    async def admit_patiently(self) -> Engine:
        """The engine, once it can take one more request. Raises Unavailable without one."""
        while True:
            try:
                return self._admit()
            except errors.ResourceExhausted:
                assert self._engine is not None
                await self._engine.committer.wait()

    def _admit(self) -> Engine:
        """The engine, if it can take one more call."""
        engine = self._engine
        if engine is None:
            raise self._absence.with_traceback(None)
        if engine.pending.pending_bytes > bounds.PENDING_JOURNAL_BYTES_MAX:
            raise _overloaded("too much is waiting for the journal")
        return engine


# A reply with the group that it waits for and when its request came, in ns, or what ends the stream
# (None: its client is done).
_Answer = tuple[bytes, asyncio.Future[None] | None, int]
_End = Exception | None


class _Stream:
    """One CommitStream: decided requests on their way from the reader to the writer."""

    def __init__(
        self,
        service: DecisionService,
        context: _Context,
        message_answered: Callable[[int], None] | None,
    ) -> None:
        self._service = service
        self._context = context
        self._message_answered = message_answered
        self._window = asyncio.Semaphore(bounds.STREAM_WINDOW_MAX)
        self._answers: asyncio.Queue[_Answer | _End] = asyncio.Queue()
        self._guard: Guard | None = None
        # What the reader ends with when it is cancelled; None if its client has gone.
        self.ending: errors.LimiterError | None = None

    def may_go_on(self, engine: Engine) -> bool:
        """Whether its caller is still let in; if not, that is what it is to end with."""
        try:
            self._guard = self._guard or engine.guard(self._context)
            if self._guard is not None:
                self._guard.renew(engine.clock.now_ms())
        except errors.LimiterError as error:
            self.ending = error
        return self.ending is None

    def read_to_end(self, reader: asyncio.Task[None]) -> None:
        """The reader is done. One that was cancelled before its first step has told nobody."""
        if reader.cancelled():
            self._answers.put_nowait(self.ending)

    async def read(self) -> None:
        """Decides requests until the client is done, one is refused, or the server drains.

        There is no await between a decision and its place in the queue, so that a reader that is
        cancelled has answered for all it decided.
        """
        end: _End = None
        try:
            while True:
                await self._window.acquire()
                request = await self._context.read()
                if request is EOF:
                    break
                begun_ns = 0 if self._message_answered is None else time.monotonic_ns()
                engine, (reply, must_wait) = await self._decide(request)
                if must_wait:
                    self._answers.put_nowait((reply, engine.committer.wait(), begun_ns))
                else:
                    engine.committer.kick()
                    self._answers.put_nowait((reply, None, begun_ns))
        except asyncio.CancelledError:
            if self.ending is None:
                raise
            end = self.ending
        except Exception as error:  # noqa: BLE001 - told to the client after the replies before it
            end = error
        self._answers.put_nowait(end)

    async def _decide(self, request: bytes) -> tuple[Engine, tuple[bytes, bool]]:
        """Decides one request as soon as there is room for it, and tells who did. Awaits nothing
        once it is decided."""
        while True:
            engine = await self._service.admit_patiently()
            self._guard = self._guard or engine.guard(self._context)
            try:
                return engine, await engine.patiently(partial(self._commit, engine, request))
            except errors.OverShare:
                await engine.committer.wait()

    def _commit(self, engine: Engine, request: bytes) -> tuple[bytes, bool]:
        return engine.decider.commit(request, engine.clock.now_ms(), self._guard)

    async def write(self) -> None:
        """Answers in order, each once it is durable; raises what ended the stream, if anything."""
        while True:
            answer = await self._answers.get()
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise answer
            reply, durable, begun_ns = answer
            if durable is not None:
                await durable
            await self._context.write(reply)
            if self._message_answered is not None:
                self._message_answered(time.monotonic_ns() - begun_ns)
            self._window.release()


def _draining() -> errors.Unavailable:
    return errors.Unavailable(
        "DRAINING", "the server is stopping: repeat what has no reply with the same request_id"
    )


def _overloaded(why: str) -> errors.ResourceExhausted:
    return errors.ResourceExhausted(
        "OVERLOADED", f"{why}; nothing was done", retry_after_ms=bounds.RETRY_AFTER_MS
    )
