"""Other servers and other people's load generators, beside which ours are measured.

In: an address of ours, or nothing. Out: calls a second. What is not installed says so by `Absent`,
with the name of its Debian package. Each server runs on a free port of 127.0.0.1 and is ended when
it is left.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.journal import bench_folder

__all__ = [
    "Absent",
    "h2load",
    "nghttpd",
    "redis_increments",
    "redis_server",
    "syncs_per_s",
]

CONNECTIONS: Final = 32
STREAMS: Final = 16
REDIS_CLIENTS: Final = 50

_PACKAGES: Final = {
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
}

# How long a server may take to listen, and a load to end.
_PATIENCE_S: Final = 120


class Absent(RuntimeError):
    """A program is not installed."""


def program(name: str) -> str:
    """Where a program is. Raises Absent."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise Absent(f"{name} is not installed (Debian: {_PACKAGES[name]})")
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def _serving(command: Sequence[str], port: int, folder: Path) -> Iterator[str]:
    """Runs a server until it is left; gives its address once it listens."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline_s = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def nghttpd() -> Iterator[str]:
    """A server of nghttp2's own with a file of five bytes; gives the file's URL."""
    server = program("nghttpd")
    port = free_port()
    with bench_folder() as name:
        folder = Path(name)
        (folder / "five").write_text("12345")
        with _serving([server, "--no-tls", "-d", str(folder), str(port)], port, folder) as address:
            yield f"http://{address}/five"


@contextmanager
def redis_server() -> Iterator[int]:
    """Redis without persistence; gives its port."""
    server = program("redis-server")
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with bench_folder() as name, _serving([server, *options], port, Path(name)):
        yield port


def redis_increments(port: int, count: int) -> float:
    """INCRs a second of so many, by 50 clients that wait for each answer."""
    command = [program("redis-benchmark"), "-p", str(port), "-t", "incr", "--csv"]
    command += ["-c", str(REDIS_CLIENTS), "-n", str(count)]
    printed = _printed(command)
    found = re.search(r'^"INCR","([\d.]+)"', printed, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"redis-benchmark printed no rate: {printed}")
    return float(found[1])


def h2load(url: str, count: int, message: bytes | None = None) -> float:
    """Calls a second of so many, on 32 connections with 16 streams each; gRPC calls where a message
    is given. Raises RuntimeError unless all of them had an answer."""
    load = program("h2load")
    command = [load, "-c", str(CONNECTIONS), "-m", str(STREAMS), "-n", str(count)]
    with bench_folder() as name:
        if message is not None:
            body = Path(name) / "body"
            body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
            command += ["-d", str(body), "-H", "content-type: application/grpc"]
            command += ["-H", "te: trailers"]
        printed = _printed([*command, url])
    rate = re.search(r"^finished in [^,]+, ([\d.]+) req/s", printed, re.MULTILINE)
    good = re.search(r"^status codes: (\d+) 2xx", printed, re.MULTILINE)
    if rate is None or good is None or int(good[1]) != count:
        raise RuntimeError(f"h2load had not {count} good answers from {url}: {printed}")
    return float(rate[1])


def _printed(command: Sequence[str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S
    ).stdout


def syncs_per_s(duration_s: float) -> float:
    """Blocks of 4 KiB a second that the disk takes one by one, each synced before the next."""
    block = bytes(4096)
    with bench_folder() as name:
        descriptor = os.open(Path(name) / "synced", os.O_CREAT | os.O_WRONLY)
        try:
            os.pwrite(descriptor, bytes(1 << 20), 0)
            os.fsync(descriptor)
            count = 0
            begun_s = time.monotonic()
            while time.monotonic() - begun_s < duration_s:
                os.pwrite(descriptor, block, count % 256 * 4096)
                os.fdatasync(descriptor)
                count += 1
            return count / (time.monotonic() - begun_s)
        finally:
            os.close(descriptor)
