"""The address at which metrics are read: a small HTTP server for one page.

What flows in: GET requests, one to a connection. What flows out: the page of the moment.

What always holds: the reading is taken on the event loop, which takes less than a millisecond; it
is made into a page in a thread, one at a time. A client that is slow, or one of too many, is hung
up on. Nothing else of the server can be reached here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from limiter import bounds, errors, listening, metrics

__all__ = ["MetricsEndpoint", "parse"]

_log: Final = logging.getLogger(__name__)

_PATH: Final = "/metrics"


def parse(text: str) -> tuple[str, int]:
    """Host and port of `PORT` (on this machine alone) or `HOST:PORT`. Raises InvalidArgument."""
    listen = text if ":" in text else f"127.0.0.1:{text}"
    try:
        return listening.parse(listen)
    except errors.InvalidArgument:
        raise errors.InvalidArgument.for_field(
            "metrics_port", f"must be PORT or HOST:PORT, such as 9464, not {text!r}"
        ) from None


class MetricsEndpoint:
    """Serves what `read` gives, from `start` to `stop`. Belongs to one event loop."""

    def __init__(self, read: Callable[[], metrics.Reading]) -> None:
        self._read = read
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._making = asyncio.Lock()

    async def start(self, host: str, port: int) -> str:
        """Serves at this address, port 0 for any free one; returns the page's URL.

        Raises FailedPrecondition when it cannot be had.
        """
        addresses = await listening.resolve(host, port)
        try:
            port = listening.bind(self._bind, addresses, flag="--metrics-port")
        except BaseException:
            await self.stop()
            raise
        for bound in self._sockets:
            self._servers.append(
                await asyncio.start_server(
                    self._meet, sock=bound, limit=bounds.METRICS_REQUEST_BYTES_MAX
                )
            )
        exposed = [each for each in addresses if not each.is_loopback]
        if exposed:
            _log.warning("metrics can be read by whoever reaches %s: they ask for no key", host)
        return f"http://{listening.join(host, port)}{_PATH}"

    async def stop(self) -> None:
        """Hangs up on everybody. Idempotent."""
        for server in self._servers:
            server.close()
        for bound in self._sockets:
            bound.close()
        self._servers.clear()
        self._sockets.clear()
        clients = tuple(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _bind(self, address: str) -> int:
        bound = listening.bound_socket(address)
        self._sockets.append(bound)
        return int(bound.getsockname()[1])

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has connected."""
        if len(self._clients) >= bounds.METRICS_CONNECTIONS_MAX:
            writer.close()
            return
        client = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that hangs up, says too much or takes too long has no answer.
            with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(bounds.METRICS_REQUEST_MS_MAX / 1000):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(request))
                    await writer.drain()
        except Exception:  # noqa: BLE001 - a fault here is no reason to stop deciding
            _log.exception("metrics cannot be read")
            writer.write(_response("500 Internal Server Error", b"see the log\n"))
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        first, *fields = request.decode("latin-1").split("\r\n")
        method, _, target = first.partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        if path != _PATH:
            return _response("404 Not Found", f"metrics are at {_PATH}\n".encode())
        if method not in {"GET", "HEAD"}:
            return _response("405 Method Not Allowed", b"GET it\n")
        accept = ""
        for field in fields:
            name, _, value = field.partition(":")
            if name.lower() == "accept":
                accept = value.strip()
        async with self._making:
            body, content_type = await asyncio.to_thread(metrics.page, self._read(), accept)
        return _response("200 OK", body, content_type, is_head=method == "HEAD")


def _response(
    status: str,
    body: bytes,
    content_type: str = "text/plain; charset=utf-8",
    *,
    is_head: bool = False,
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return head if is_head else head + body
