"""`limiter.AsyncClient`: for programs on asyncio.

Each method asks what `exchanges` says; this module only carries it out: a deadline for every try,
pauses between them, faults as exceptions of `limiter.errors`. A client belongs to one event loop
and may be used by several of its tasks at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import grpc

from limiter import errors
from limiter.client import channels, exchanges, results
from limiter.client.async_stream import AsyncStream
from limiter.client.attempts import Attempt, AttemptFields, LimitLike, RecipientLike
from limiter.client.channels import Tls
from limiter.client.exchanges import BatchExchange, Exchange, View
from limiter.client.faults import fault_of, with_request_id
from limiter.client.patience import Patience, Retries
from limiter.client.streams import Ledger, ended_early
from limiter.v1 import decision_service_pb2, decision_service_pb2_grpc

__all__ = ["AsyncClient"]

Result = TypeVar("Result")

TIMEOUT_S: Final = 10.0
WINDOW_COUNT: Final = 256


class AsyncClient:
    """A connection to a server, made at the first call.

    `address` is that of LIMITER_ADDRESS, or else 127.0.0.1:50051, unless one is given.
    `timeout_s` is how long a call may take, its repeats included, unless the call says otherwise.
    `api_key` goes with every call; without `tls` only to this machine, unless `insecure`.

    Every method may raise the exceptions of `limiter.errors`: InvalidArgument, Unavailable,
    DeadlineExceeded, … A denial is none. A commit that failed has the `request_id` under which it
    may be repeated in the exception's `metadata`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        self._address = channels.address_or_default(address)
        if tls is None and api_key is not None and not insecure:
            channels.check_key_is_safe(self._address)
        self._tls = tls
        # Made in the event loop that it belongs to.
        self._channel: grpc.aio.Channel | None = None
        self._metadata = channels.metadata(api_key)
        self._timeout_s = timeout_s
        self._retries = retries or Retries()

    async def close(self) -> None:
        """Ends the connection and what is under way on it."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def check(
        self,
        account: str,
        *,
        inline_limits: Iterable[LimitLike] = (),
        view: View | None = None,
        timeout_s: float | None = None,
        **attempt: Unpack[AttemptFields],
    ) -> results.Decision:
        """What `commit` would say now. Changes nothing and promises nothing."""
        return await self._call(exchanges.check(account, attempt, inline_limits, view), timeout_s)

    async def commit(
        self,
        account: str,
        *,
        request_id: str | None = None,
        hold_duration: timedelta | None = None,
        inline_limits: Iterable[LimitLike] = (),
        view: View | None = None,
        timeout_s: float | None = None,
        **attempt: Unpack[AttemptFields],
    ) -> results.Commit:
        """Decides an attempt and counts it if it is allowed, once however often it is repeated.

        Give a `request_id` that another process would give too, to be safe beyond this call; ""
        means none, and no repeat. `hold_duration`: it lapses then unless it is confirmed.
        """
        exchange = exchanges.commit(
            account,
            attempt,
            inline_limits=inline_limits,
            view=view,
            request_id=request_id,
            hold_duration=hold_duration,
        )
        return await self._call(exchange, timeout_s)

    async def record(
        self,
        account: str,
        *,
        event_time: datetime | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **attempt: Unpack[AttemptFields],
    ) -> results.Commit:
        """Counts a message that has gone out already, whatever the limits say."""
        return await self._call(
            exchanges.record(account, attempt, request_id, event_time), timeout_s
        )

    async def check_batch(
        self,
        account: str,
        recipients: Iterable[RecipientLike],
        *,
        all_or_nothing: bool = False,
        exclude_duplicates: bool = False,
        exclude_opt_outs: bool = False,
        inline_limits: Iterable[LimitLike] = (),
        view: View | None = None,
        timeout_s: float | None = None,
        **shared: Unpack[AttemptFields],
    ) -> results.BatchResult:
        """What `commit_batch` would say now; at most 10,000 recipients."""
        exchange = exchanges.check_batch(
            account,
            recipients,
            shared,
            inline_limits=inline_limits,
            view=view,
            all_or_nothing=all_or_nothing,
            exclude_duplicates=exclude_duplicates,
            exclude_opt_outs=exclude_opt_outs,
        )
        return await self._call_batch(exchange, timeout_s)

    async def commit_batch(
        self,
        account: str,
        recipients: Iterable[RecipientLike],
        *,
        request_id: str | None = None,
        all_or_nothing: bool = False,
        exclude_duplicates: bool = False,
        exclude_opt_outs: bool = False,
        inline_limits: Iterable[LimitLike] = (),
        view: View | None = None,
        timeout_s: float | None = None,
        **shared: Unpack[AttemptFields],
    ) -> results.BatchResult:
        """Decides attempts to many recipients, in order.

        More than 10,000 go in several calls, each at an instant and with a timeout of its own; if
        one of them fails, repeat the whole under the exception's `request_id`. `all_or_nothing`
        takes one call.
        """
        exchange = exchanges.commit_batch(
            account,
            recipients,
            shared,
            inline_limits=inline_limits,
            view=view,
            request_id=request_id,
            all_or_nothing=all_or_nothing,
            exclude_duplicates=exclude_duplicates,
            exclude_opt_outs=exclude_opt_outs,
        )
        return await self._call_batch(exchange, timeout_s)

    def commit_stream(
        self,
        attempts: Iterable[Attempt] | AsyncIterable[Attempt],
        *,
        inline_limits: Iterable[LimitLike] = (),
        view: View | None = None,
        window_count: int = WINDOW_COUNT,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Commit]:
        """Commits attempts as they come; gives one commit for each, in order.

        A task takes up to `window_count` attempts ahead of their answers. If the connection
        breaks, what has no answer is repeated under its id. `timeout_s` is how long no answer may
        come. An attempt that is refused ends the stream with the exception of `commit`; what was
        taken after it has not been decided.
        """
        ledger = Ledger(self._timeout(timeout_s), self._retries, window_count)
        limits = tuple(inline_limits)

        async def requests() -> AsyncIterator[decision_service_pb2.CommitRequest]:
            async for attempt in _each(attempts):
                yield exchanges.stream_request(attempt, limits, view)

        return AsyncStream(self._open_stream, requests(), ledger).replies()

    async def usage(
        self, account: str, *, timeout_s: float | None = None, **template: Unpack[AttemptFields]
    ) -> results.Usage:
        """Every limit that would apply to the template, with its count."""
        return await self._call(exchanges.usage(account, template), timeout_s)

    async def watch_usage(
        self, account: str, *, timeout_s: float | None = None, **template: Unpack[AttemptFields]
    ) -> AsyncGenerator[results.UsageChange, None]:
        """The usage at once, then whenever it changes, and the moment capacity returns.

        Comes back when the connection breaks; `timeout_s` is how long that may take.
        """
        exchange = exchanges.watch_usage(account, template)
        patience: Patience | None = None
        while True:
            call = self._method(exchange.method)(exchange.request, metadata=self._metadata)
            try:
                async for reply in call:
                    patience = None
                    yield exchange.read(reply)
                fault: errors.LimiterError = ended_early()
            except grpc.RpcError as error:
                fault = fault_of(error)
            finally:
                call.cancel()
            patience = patience or Patience(self._timeout(timeout_s), self._retries)
            pause_s = patience.pause_s(fault, can_repeat=True)
            if pause_s is None:
                raise fault
            await asyncio.sleep(pause_s)

    async def confirm(
        self,
        account: str,
        *,
        commit_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> results.Commitment:
        """Makes a held commit count for good. Give one of the two ids."""
        return await self._call(exchanges.confirm(account, commit_id, request_id), timeout_s)

    async def cancel(
        self,
        account: str,
        *,
        commit_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> results.Commitment:
        """Takes back exactly what a commit counted, for a send that failed. Give one of the ids."""
        return await self._call(exchanges.cancel(account, commit_id, request_id), timeout_s)

    async def plan(
        self,
        account: str,
        recipients: Iterable[RecipientLike],
        *,
        spread_duration: timedelta | None = None,
        inline_limits: Iterable[LimitLike] = (),
        timeout_s: float | None = None,
        **shared: Unpack[AttemptFields],
    ) -> results.Plan:
        """When each recipient may be written to under all limits, nothing else being sent."""
        exchange = exchanges.plan(account, recipients, shared, inline_limits, spread_duration)
        return await self._call(exchange, timeout_s)

    async def restrictions(
        self,
        account: str,
        *,
        campaign: str = "",
        contact: str = "",
        limit_id: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Restriction]:
        """The attempts that were denied, oldest first; pages are fetched as they are needed."""
        page_token = ""
        while True:
            exchange = exchanges.list_restrictions(
                account,
                campaign=campaign,
                contact=contact,
                limit_id=limit_id,
                start_time=start_time,
                end_time=end_time,
                page_token=page_token,
            )
            page, page_token = await self._call(exchange, timeout_s)
            for each in page:
                yield each
            if not page_token:
                return

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _method(self, name: str) -> Any:
        """The method of that name of the stub; connects at the first call."""
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self._address, channels.OPTIONS)
                if self._tls is None
                else grpc.aio.secure_channel(
                    self._address, self._tls.credentials(), self._tls.options()
                )
            )
            self._stub = decision_service_pb2_grpc.DecisionServiceStub(self._channel)
        return getattr(self._stub, name)

    async def _call(self, exchange: Exchange[Result], timeout_s: float | None) -> Result:
        """Carries it out, again and again where that is safe and may help."""
        patience = Patience(self._timeout(timeout_s), self._retries)
        method = self._method(exchange.method)
        while True:
            try:
                reply = await method(
                    exchange.request,
                    timeout=patience.try_timeout_s(can_repeat=exchange.can_repeat),
                    metadata=self._metadata,
                )
            except grpc.RpcError as error:
                fault = with_request_id(fault_of(error), exchange.request_id)
                pause_s = patience.pause_s(fault, can_repeat=exchange.can_repeat)
                if pause_s is None:
                    raise fault from error
                await asyncio.sleep(pause_s)
            else:
                return exchange.read(reply)

    async def _call_batch(
        self, exchange: BatchExchange, timeout_s: float | None
    ) -> results.BatchResult:
        return exchange.together([await self._call(each, timeout_s) for each in exchange.calls])

    def _open_stream(self) -> Any:
        return self._method("CommitStream")(metadata=self._metadata)


async def _each(attempts: Iterable[Attempt] | AsyncIterable[Attempt]) -> AsyncIterator[Attempt]:
    if isinstance(attempts, AsyncIterable):
        async for attempt in attempts:
            yield attempt
    else:
        for attempt in attempts:
            yield attempt
