"""A CommitStream for threads: reads the caller's attempts ahead, gives replies as they come.

One thread takes the attempts and hands them to gRPC, the caller's own waits for replies, and one
more ends a call that does not answer. What is open and when it is asked again is the ledger's
business; every touch of it is under one lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from limiter import errors
from limiter.client import results
from limiter.client.faults import fault_of
from limiter.client.streams import Ledger, ended_early, is_silent
from limiter.v1.decision_service_pb2 import CommitRequest

__all__ = ["BlockingStream"]

_Outbox = queue.SimpleQueue[CommitRequest | None]


class BlockingStream:
    """`open_call` opens a stream for an iterator of requests; `requests` are the caller's own."""

    def __init__(
        self,
        open_call: Callable[[Iterator[CommitRequest]], Any],
        requests: Iterator[CommitRequest],
        ledger: Ledger,
    ) -> None:
        self._open_call = open_call
        self._requests = requests
        self._ledger = ledger
        self._changed = threading.Condition()
        # The rest is guarded by it, the ledger too.
        self._is_exhausted = False
        self._is_closed = False
        self._callers_fault: BaseException | None = None
        self._call: Any = None
        self._outbox: _Outbox = queue.SimpleQueue()
        # Until when the next reply has to come, while it is waited for.
        self._reply_due_s: float | None = None
        self._was_silent = False

    def replies(self) -> Iterator[results.Commit]:
        """One commit for each request, in order. What the caller's iterator raises comes last."""
        for target in (self._feed, self._watch):
            threading.Thread(target=target, name="limiter-stream", daemon=True).start()
        try:
            while self._wait_until_open():
                try:
                    commit = self._next_commit()
                except errors.LimiterError as fault:
                    self._recover(fault)
                else:
                    yield commit
            if self._callers_fault is not None:
                raise self._callers_fault
        finally:
            self._close()

    def _feed(self) -> None:
        """Takes the caller's requests, as far ahead as the window allows."""
        fault: BaseException | None = None
        try:
            while self._wait_for_room() and (request := next(self._requests, None)) is not None:
                with self._changed:
                    self._ledger.add(request)
                    self._outbox.put(request)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised where the caller sees it
            fault = error
        finally:
            with self._changed:
                self._callers_fault = fault
                self._is_exhausted = True
                self._outbox.put(None)
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """True once one more may be sent; False once the caller has had enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._ledger.has_room or self._is_closed)
            return not self._is_closed

    def _watch(self) -> None:
        """Ends a call whose reply is overdue: gRPC has no deadline for one reply."""
        with self._changed:
            while not self._is_closed:
                due_s = self._reply_due_s
                left_s = None if due_s is None else due_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    self._was_silent = True
                    self._reply_due_s = None
                    self._call.cancel()
                else:
                    self._changed.wait(left_s)

    def _wait_until_open(self) -> bool:
        """True once there is something to be answered; False once nothing more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._ledger.open or self._is_exhausted)
            return bool(self._ledger.open)

    def _next_commit(self) -> results.Commit:
        call = self._expect_reply()
        try:
            reply = next(call, None)
        except grpc.RpcError as error:
            raise (is_silent() if self._was_silent else fault_of(error)) from error
        with self._changed:
            self._reply_due_s = None
            if reply is None:
                raise ended_early()
            commit = self._ledger.settle(reply)
            self._changed.notify_all()
            return commit

    def _expect_reply(self) -> Any:
        """The call that the next reply comes on; opens one, with all that is open, if need be."""
        with self._changed:
            if self._call is None:
                self._was_silent = False
                self._outbox = queue.SimpleQueue()
                for request in self._ledger.open:
                    self._outbox.put(request)
                if self._is_exhausted:
                    self._outbox.put(None)
                self._call = self._open_call(iter(self._outbox.get, None))
            self._reply_due_s = time.monotonic() + self._ledger.try_timeout_s()
            self._changed.notify_all()
            return self._call

    def _recover(self, fault: errors.LimiterError) -> None:
        """Lets go of the call and waits for the next try; raises what cannot be mended."""
        with self._changed:
            self._drop_call()
            pause_s = self._ledger.pause_s(fault)
        time.sleep(pause_s)

    def _drop_call(self) -> None:
        self._reply_due_s = None
        # Ends gRPC's own thread, which waits for the next request of this call.
        self._outbox.put(None)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._drop_call()
            self._changed.notify_all()
