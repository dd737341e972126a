"""One call of a Python handler under the native transport: a stream with grpc.aio's context.

In: the request's messages, its end, its cancellation. Out: initial metadata, messages, a status.
The handlers are those that grpc.aio runs: coroutines and async generators, with messages as
arguments or by `read` and `write`.

What always holds: a call ends with exactly one status; a handler is cancelled when its client is
gone or its deadline has passed; it reads and writes no faster than its client does.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, nullcontext
from typing import Any, Final, NoReturn

import grpc
from grpc.aio import EOF, AbortError

from limiter import bounds, errors, tls
from limiter.grpc_wire import Faults, Fields, Metadata, encoded_metadata, trailers
from limiter.service.status import code_of

__all__ = ["Call"]

# How often a handler that writes faster than its client reads looks whether there is room.
_ROOM_INTERVAL_S: Final = 0.005


class Call:
    """A call, for its connection (`receive`, `half_close`, `cancel`) and as the handler's context.

    `connection` is a `limiter._http2.Connection`; `timeout_s` is what is left of the deadline, None
    without one.
    """

    def __init__(
        self,
        connection: Any,
        stream_id: int,
        handler: grpc.RpcMethodHandler[Any, Any],
        metadata: Metadata,
        *,
        timeout_s: float | None,
        faults: Faults,
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._handler = handler
        self._metadata = metadata
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._faults = faults
        self._messages: deque[bytes] = deque()
        self._half_closed = False
        self._broken: errors.LimiterError | None = None
        self._arrived = asyncio.Event()
        self._initial: Fields = []
        self._started = False
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Sequence[tuple[str, str | bytes]] = ()
        self._trailing_fields: Fields = []
        self._done = False
        self._cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []
        self._task = asyncio.get_running_loop().create_task(self._run())
        # Not at the end of `_run`: a task that is cancelled before its first step never runs.
        self._task.add_done_callback(self._over)

    # --- what the connection tells ----------------------------------------------------------------

    def receive(self, flag: int, is_gzip: bool, message: bytes) -> None:
        """A message has come; `flag` says whether it is compressed."""
        try:
            if flag:
                size = len(message)
                message = self._faults.inflated(is_gzip, message)
                # What is taken back later is what the client sent.
                self._connection.took(self._stream_id, size)
        except errors.LimiterError as error:
            self._broken = error
        else:
            self._messages.append(message)
        self._arrived.set()

    def half_close(self, is_whole: bool) -> None:
        """The client sends no more; `is_whole` unless it stopped within a message."""
        if not is_whole:
            self._broken = errors.InvalidArgument(
                "MALFORMED_REQUEST", "the request ends within a message"
            )
        self._half_closed = True
        self._arrived.set()

    def cancel(self) -> None:
        """The stream is gone."""
        if not self._done:
            self._cancelled = True
            self._task.cancel()

    # --- the handler's context --------------------------------------------------------------------

    def invocation_metadata(self) -> Metadata:
        """What the client sent before its messages."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())

    def peer(self) -> str:
        """Who calls, as gRPC writes it."""
        host, port = self._connection.peer[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def peer_identities(self) -> Sequence[bytes] | None:
        """The names in the client's certificate; None where it has shown none."""
        names = tls.peer_names(self._connection.peer_certificate)
        return tuple(name.encode() for name in names) or None

    def auth_context(self) -> dict[str, list[bytes]]:
        """What TLS says of the client, by grpc's names; empty without TLS."""
        return tls.auth_context(self._connection.peer_certificate, self._connection.is_tls)

    def cancelled(self) -> bool:
        """Whether the client has gone."""
        return self._cancelled

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Called with this context when the call has ended."""
        self._callbacks.append(callback)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the call ends with, unless it is aborted."""
        self._code = code

    def set_details(self, details: str) -> None:
        """The message of that status."""
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        """The status that was set."""
        return self._code

    def details(self) -> str:
        """The message that was set."""
        return self._details

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Goes out with the status. Raises ValueError for what no header field can be."""
        self._trailing = tuple(metadata)
        self._trailing_fields = encoded_metadata(self._trailing)

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What goes out with the status."""
        return self._trailing

    def set_compression(self, compression: grpc.Compression) -> None:
        """Replies are not compressed, which a client must accept."""

    def disable_next_message_compression(self) -> None:
        """Replies are not compressed."""

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Goes out at once, before all replies. Raises ValueError for what no field can be."""
        self._initial = encoded_metadata(metadata)
        self._start(None)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """Ends the call with this status."""
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNKNOWN, "aborted with status OK"
        self._code, self._details = code, details
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        raise AbortError("Locally aborted.")

    async def read(self) -> Any:
        """The next request, or `grpc.aio.EOF`. Raises LimiterError for a broken one."""
        while not self._messages:
            if self._broken is not None:
                raise self._broken
            if self._half_closed:
                return EOF
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._connection.took(self._stream_id, len(message))
        deserialize = self._handler.request_deserializer
        return message if deserialize is None else deserialize(message)

    async def write(self, reply: Any) -> None:
        """Sends a reply; waits while the client has too much to read."""
        serialize = self._handler.response_serializer
        waiting = self._start(reply if serialize is None else serialize(reply))
        while waiting > bounds.STREAM_UNREAD_BYTES_MAX:
            await asyncio.sleep(_ROOM_INTERVAL_S)
            waiting = self._connection.send(self._stream_id, None, None)

    # --- the call's life --------------------------------------------------------------------------

    def _start(self, message: bytes | None) -> int:
        headers: Fields | None = None
        if not self._started:
            self._started = True
            headers = self._initial
        waiting: int = self._connection.send(self._stream_id, headers, message)
        return waiting

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self.time_remaining()):
                await self._answer()
            code = self._code or grpc.StatusCode.OK
            ending = self._trailers(code)
        except AbortError:
            assert self._code is not None
            ending = self._trailers(self._code)
        except TimeoutError:
            ending = self._faults.deadline_exceeded()
        except asyncio.CancelledError:
            ending = trailers(code_of(grpc.StatusCode.CANCELLED), "cancelled")
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            ending = self._faults.trailers_of(error)
        self._done = True
        self._connection.end(self._stream_id, self._initial, ending)

    def _over(self, _task: asyncio.Task[None]) -> None:
        self._done = True
        for callback in self._callbacks:
            callback(self)

    def _trailers(self, code: grpc.StatusCode) -> Fields:
        return trailers(code_of(code), self._details) + self._trailing_fields

    async def _answer(self) -> None:
        handler = self._handler
        if handler.request_streaming:
            behaviour = (
                handler.stream_stream if handler.response_streaming else handler.stream_unary
            )
            request: Any = self._requests()
        else:
            behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
            request = await self._only_request()
        assert behaviour is not None
        answer: Any = behaviour(request, self)  # type: ignore[arg-type]
        if inspect.isawaitable(answer):
            reply = await answer
            if not handler.response_streaming and self._code in {None, grpc.StatusCode.OK}:
                await self.write(reply)
            return
        # One that is not a generator has nothing to close.
        closing = aclosing(answer) if hasattr(answer, "aclose") else nullcontext()
        async with closing:
            async for reply in answer:
                await self.write(reply)

    async def _only_request(self) -> Any:
        request = await self.read()
        if request is EOF or await self._next_is_there():
            raise errors.InvalidArgument(
                "MALFORMED_REQUEST", "a call of this method takes exactly one message"
            )
        return request

    async def _next_is_there(self) -> bool:
        while not self._messages and not self._half_closed and self._broken is None:
            self._arrived.clear()
            await self._arrived.wait()
        if self._broken is not None:
            raise self._broken
        return bool(self._messages)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not EOF:
            yield request
