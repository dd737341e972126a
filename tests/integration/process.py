"""A server in a process of its own, as people run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from limiter.v1 import (
    decision_service_pb2_grpc,
    policy_service_pb2_grpc,
    test_clock_service_pb2_grpc,
)
from tests.integration import transports
from tests.integration.forking import Forked, Nursery

# The first instant of the driven clocks: 2027-01-15T08:00:00Z.
START_MS = 1_800_000_000_000

# How long a slow machine may take to start or stop a server.
PATIENCE_S = 60

# Serves with the argument's settings.
_PROGRAM = """
import json, sys
from tests.integration.forking import run
sys.exit(run(json.loads(sys.argv[1])))
"""
_ROOT: Final = Path(__file__).resolve().parents[2]


def filled(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a test's server: a free port, a driven clock, the transport under test."""
    return {
        "listen": "127.0.0.1:0",
        "clock": "driven",
        "transport": transports.current(),
        **settings,
    }


class ServerProcess:
    """Starts a server and waits until it serves; `settings` are those of `server.Config`.

    With a driven clock that starts at START_MS unless told otherwise; as a child of the nursery if
    there is one. As a context manager it ends with SIGTERM and checks that the exit code is 0,
    unless the server has ended before.
    """

    def __init__(self, data_dir: Path, nursery: Nursery | None = None, /, **settings: Any) -> None:
        settings = self.settings = {"data_dir": data_dir, **filled(settings)}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self.process: subprocess.Popen[str] | Forked
        if nursery is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(settings, default=str)],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )
        else:
            self.process = nursery.start(settings, self._log)
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        self._channel: grpc.Channel | None = None

    @property
    def address(self) -> str:
        assert self.ready_line.startswith("limiter serving on "), self.log
        return self.ready_line.split()[-1]

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address)
        return self._channel

    @property
    def decisions(self) -> decision_service_pb2_grpc.DecisionServiceStub:
        return decision_service_pb2_grpc.DecisionServiceStub(self.channel)

    @property
    def policies(self) -> policy_service_pb2_grpc.PolicyServiceStub:
        return policy_service_pb2_grpc.PolicyServiceStub(self.channel)

    @property
    def test_clock(self) -> test_clock_service_pb2_grpc.TestClockServiceStub:
        return test_clock_service_pb2_grpc.TestClockServiceStub(self.channel)

    @property
    def log(self) -> str:
        """What the server has written to standard error so far."""
        self._log.seek(0)
        return self._log.read()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once the server has ended."""
        return self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        """Ends the server as an operator does; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends the server as a power cut does."""
        self.process.kill()
        self.wait()

    def rest_of_output(self) -> str:
        """What else the server printed, once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def close(self) -> None:
        """Lets go of everything; ends the server if it still runs."""
        if self._channel is not None:
            self._channel.close()
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._channel is not None:
                self._channel.close()
            if self.process.poll() is None and kind is None:
                assert self.terminate() == 0, self.log
        finally:
            self.close()
