"""Both kinds of client behind one face, so that one test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

import limiter


class Face(Protocol):
    """What tests use: the methods of `limiter.Client`, untyped."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def __getattr__(self, name: str) -> Any: ...


class Waiting:
    """An AsyncClient and an event loop of its own, to be called like a Client."""

    def __init__(self, address: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = limiter.AsyncClient(address, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **fields: Any) -> Any:
            found = method(*arguments, **fields)
            if isinstance(found, AsyncIterator):
                return self._each(found)
            return self._loop.run_until_complete(found)

        return call

    def _each(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        """One item after the other, ended when the caller has had enough."""
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(items.aclose())  # type: ignore[attr-defined]


KINDS: dict[str, Any] = {"Client": limiter.Client, "AsyncClient": Waiting}
