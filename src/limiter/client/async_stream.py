"""A CommitStream for asyncio: reads the caller's attempts ahead, gives replies as they come.

One task takes the attempts and one writes those of the present call; the caller's own waits for
replies. What is open and when it is asked again is the ledger's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from limiter import errors
from limiter.client import results
from limiter.client.faults import fault_of
from limiter.client.streams import Ledger, ended_early, is_silent
from limiter.v1.decision_service_pb2 import CommitRequest

__all__ = ["AsyncStream"]


class AsyncStream:
    """`open_call` opens a stream; `requests` are the caller's own."""

    def __init__(
        self,
        open_call: Callable[[], Any],
        requests: AsyncIterator[CommitRequest],
        ledger: Ledger,
    ) -> None:
        self._open_call = open_call
        self._requests = requests
        self._ledger = ledger
        self._changed = asyncio.Condition()
        self._is_exhausted = False
        self._callers_fault: BaseException | None = None
        self._call: Any = None
        self._replies: Any = None
        self._outbox: asyncio.Queue[CommitRequest | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    async def replies(self) -> AsyncIterator[results.Commit]:
        """One commit for each request, in order. What the caller's iterator raises comes last."""
        feeder = asyncio.create_task(self._feed())
        try:
            while await self._wait_until_open():
                try:
                    commit = await self._next_commit()
                except errors.LimiterError as fault:
                    self._drop_call()
                    await asyncio.sleep(self._ledger.pause_s(fault))
                else:
                    yield commit
            if self._callers_fault is not None:
                raise self._callers_fault
        finally:
            feeder.cancel()
            self._drop_call()

    async def _feed(self) -> None:
        """Takes the caller's requests, as far ahead as the window allows."""
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._ledger.has_room)
                request = await anext(self._requests, None)
                if request is None:
                    break
                async with self._changed:
                    self._ledger.add(request)
                    self._outbox.put_nowait(request)
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - raised where the caller sees it
            self._callers_fault = error
        async with self._changed:
            self._is_exhausted = True
            self._outbox.put_nowait(None)
            self._changed.notify_all()

    async def _wait_until_open(self) -> bool:
        """True once there is something to be answered; False once nothing more comes."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ledger.open or self._is_exhausted)
            return bool(self._ledger.open)

    async def _next_commit(self) -> results.Commit:
        if self._call is None:
            self._open()
        try:
            async with asyncio.timeout(self._ledger.try_timeout_s()):
                reply = await anext(self._replies, None)
        except TimeoutError:
            raise is_silent() from None
        except grpc.RpcError as error:
            raise fault_of(error) from error
        if reply is None:
            raise ended_early()
        async with self._changed:
            commit = self._ledger.settle(reply)
            self._changed.notify_all()
        return commit

    def _open(self) -> None:
        """Opens a call for all that is open."""
        self._outbox = asyncio.Queue()
        for request in self._ledger.open:
            self._outbox.put_nowait(request)
        if self._is_exhausted:
            self._outbox.put_nowait(None)
        self._call = self._open_call()
        # Unlike `read`, this gives what has arrived before the call broke.
        self._replies = aiter(self._call)
        self._writer = asyncio.create_task(_write(self._call, self._outbox))

    def _drop_call(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        if self._call is not None:
            self._call.cancel()
            self._call = None


async def _write(call: Any, outbox: asyncio.Queue[CommitRequest | None]) -> None:
    """Writes until there is nothing more, or until the call breaks, which the reader finds out."""
    try:
        while (request := await outbox.get()) is not None:
            await call.write(request)
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return
