"""Servers that are there at once: children of one process that has imported everything.

What flows in: the settings of a server. What flows out: a process that serves, with standard output
and standard error of its own, and later its exit code. A server is what `limiter serve` makes of
the same settings; it only has not read its modules from disk itself.

This module is also what the process runs that has the children. It reads a request from a socket
at a time: the settings as JSON, with three descriptors (what the server prints, what it logs,
and a socket on which its process id and later its exit code are told). Between it and each server
stands a keeper that waits for the server to end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any, Final, Self

from limiter import errors, server

__all__ = ["Forked", "Nursery", "run"]

_ROOT: Final = Path(__file__).resolve().parents[2]

# Settings are a few flags.
_REQUEST_BYTES_MAX: Final = 65_536

_PATHS: Final = {"data_dir", "tls_cert", "tls_key", "tls_client_ca"}


def run(settings: dict[str, Any]) -> int:
    """Serves with a Config's settings; returns the exit code. A fault is one line on standard
    error. `mend_delay_s`, which is no setting, is how soon a journal that failed is tried again."""
    settings = {name: Path(value) if name in _PATHS else value for name, value in settings.items()}
    if "mend_delay_s" in settings:
        delay_s = settings.pop("mend_delay_s")
        server._MEND_DELAY_S = server._MEND_DELAY_S_MAX = delay_s  # type: ignore[misc]
    try:
        server.serve(server.Config(**settings))
    except errors.LimiterError as error:
        print(f"{error.code} {error.reason}: {error.message}", file=sys.stderr)
        return 3
    return 0


class Forked:
    """One server, as far as a Popen would be asked about it."""

    def __init__(self, news: socket.socket, output: IO[str]) -> None:
        self._news = news
        self.stdout = output
        self.pid = int(self._line())
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended; at most so many seconds."""
        exit_code = self._ended(timeout)
        if exit_code is None:
            raise subprocess.TimeoutExpired(f"server {self.pid}", timeout)
        return exit_code

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float) -> int | None:
        if self._exit_code is None and select.select([self._news], [], [], timeout)[0]:
            self._exit_code = int(self._line())
            self._news.close()
        return self._exit_code

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            # No more than the line: the next one is asked for when it has come.
            part = self._news.recv(1)
            assert part, "whoever waits for the server is gone"
            line += part
        return line.decode()


class Nursery:
    """The process that has servers for children; `environment` is what they live in. A server that
    was not ended outlives it."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.forking", str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                env={**(environment or os.environ), "PYTHONWARNINGS": "error"},
            )

    def start(self, settings: dict[str, Any], log: IO[str]) -> Forked:
        """A server with these settings of `server.Config`, which logs there."""
        news, their_news = socket.socketpair()
        reading, writing = os.pipe()
        with their_news:
            descriptors = [writing, log.fileno(), their_news.fileno()]
            request = json.dumps(settings, default=str).encode()
            socket.send_fds(self._requests, [request], descriptors)
        os.close(writing)
        return Forked(news, os.fdopen(reading, "r"))

    def close(self) -> None:
        """Ends the process. Idempotent."""
        self._requests.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _keep(settings: dict[str, Any], output: int, log: int, news: int) -> None:
    """Has a server for a child, and tells of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.dup2(output, 1)
        os.dup2(log, 2)
        for descriptor in (output, log, news):
            os.close(descriptor)
        exit_code = 1
        try:
            exit_code = run(settings)
        except BaseException:  # noqa: BLE001 - told as the interpreter would
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    os.close(output)
    os.write(news, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(news, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    """Has children until nobody asks any more."""
    # Keepers are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES_MAX, 3)
            if not request:
                return
            if os.fork() == 0:
                requests.close()
                try:
                    _keep(json.loads(request), *descriptors)
                finally:
                    os._exit(1)
            for descriptor in descriptors:
                os.close(descriptor)


if __name__ == "__main__":
    main()
