"""A server inside the test's own process and event loop: quick to start, and open to faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter import errors
from limiter.server import Config, Server
from limiter.v1 import (
    access_service_pb2_grpc,
    decision_service_pb2_grpc,
    policy_service_pb2_grpc,
    test_clock_service_pb2_grpc,
)
from tests.integration.process import filled


class Inside:
    """A running server and its clients."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.decisions = decision_service_pb2_grpc.DecisionServiceStub(channel)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(channel)
        self.test_clock = test_clock_service_pb2_grpc.TestClockServiceStub(channel)


@asynccontextmanager
async def serving(data_dir: Path, **settings: Any) -> AsyncIterator[Inside]:
    """Serves with a driven clock unless told otherwise."""
    settings = filled(settings)
    server = Server(Config(data_dir=data_dir, **settings))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Inside(server, channel)
    finally:
        await server.stop()


async def refused(data_dir: Path, **settings: Any) -> errors.LimiterError:
    """Why a server does not start; nothing of it is left."""
    settings = filled(settings)
    server = Server(Config(data_dir=data_dir, **settings))
    with pytest.raises(errors.LimiterError) as caught:
        await server.start()
    await server.stop()
    return caught.value
