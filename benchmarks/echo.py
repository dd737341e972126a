"""An empty grpc.aio server: what a call costs when nothing is done. Prints its address."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop

__all__ = ["METHOD", "serve", "serving"]

METHOD: Final = "/limiter.benchmarks.Echo/Echo"


async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """The request's bytes."""
    return request


async def serve() -> None:
    """Serves until SIGTERM."""
    server = grpc.aio.server()
    _, service, name = METHOD.split("/")
    server.add_registered_method_handlers(
        service, {name: grpc.unary_unary_rpc_method_handler(echo)}
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(f"echo serving on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    await server.stop(None)


@contextmanager
def serving() -> Iterator[str]:
    """Such a server in a process of its own; gives its address."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), str(root / "src")])
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


if __name__ == "__main__":
    uvloop.run(serve())
