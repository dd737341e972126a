"""Lives of a whole server on a disk that fails once, or for a while.

What flows in: what fails, a folder, a nursery of servers behind the disk's shim and the shim's
control. What flows out: what was felt, or an AssertionError that says what went wrong.

A life starts with a new folder. Clients send all the time until something fails; then the disk
works again, the server must come back by itself, what is unknown is retried under the same request
ids, and the server is compared with the ledger: at once, and after it was killed and started again.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.crash.audit import audited
from tests.crash.ledger import Ledger
from tests.crash.load import Clients, Load, connected
from tests.disk.shim import Control
from tests.integration.forking import Nursery
from tests.integration.process import PATIENCE_S, ServerProcess

__all__ = ["Fault", "Faults", "until_serving"]

_ACCOUNTS: Final = ["a0", "a1", "a2", "a3"]

# How soon a server tries its journal again, and how often health is asked for.
_MEND_DELAY_S: Final = 0.05
_LOOK_S: Final = 0.002

# Operations on the disk after those that fail, until it is taken that nobody notices.
_MORE_OPERATIONS: Final = 20

# What servers are told besides, each of them one of these: with little memory they write images and
# baselines all the time.
_FLAGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"memory_bytes_max": 1, "baseline_lag_events_max": 1},
)

# What a server says that does not start, and its exit code.
_REFUSALS: Final = re.compile(r"^(FAILED_PRECONDITION|UNAVAILABLE) [A-Z_]+: .+$", re.MULTILINE)
_REFUSED: Final = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """The operations of a server on its disk, from the one at `place` (1 is its first) on, fail
    with `error`: so many, or all until the disk is healed. With `half` a write is half done."""

    place: int
    error: int
    half: bool = False
    length: int | None = 1


class Faults:
    """Lives below the shim's root."""

    def __init__(self, root: Path, nursery: Nursery, control: Control, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._root = root
        self._nursery = nursery
        self._control = control
        self._rng = rng
        self._load_count = 0

    async def live(self, fault: Fault) -> None:
        """One life with a fault in it, and one without after it."""
        ledger, data_dir = Ledger(), self._root / "data"
        self.counts["lives with a fault"] += 1
        last = None if fault.length is None else fault.place + fault.length - 1
        self._control.fail(fault.place, last, error=fault.error, half=fault.half)
        async with self._started(data_dir) as server:
            if server.ready_line:
                await self._with_clients(server, ledger, fault)
                server.kill()
            else:
                self.counts["refused to start"] += 1
                assert server.wait() == _REFUSED
                assert _REFUSALS.search(server.log)
                assert "Traceback" not in server.log
        self._control.heal()
        async with self._started(data_dir) as server:
            async with connected(server) as clients:
                await _set_up(clients)
                load = self._load(clients, ledger)
                assert not await load.run_while(lambda: self._control.count < _MORE_OPERATIONS)
                await self._audit(clients, ledger)
            assert server.terminate() == 0
        shutil.rmtree(data_dir)

    async def _with_clients(self, server: ServerProcess, ledger: Ledger, fault: Fault) -> None:
        """Sends until the fault is felt, heals the disk, and looks at what came of it."""
        async with connected(server) as clients:
            if await self._sent(clients, ledger, fault):
                self.counts["out of service"] += 1
                if fault.length is None:
                    await _check_absence(clients)
            self._control.heal()
            await until_serving(clients)
            await _set_up(clients)
            await self._audit(clients, ledger)

    async def _sent(self, clients: Clients, ledger: Ledger, fault: Fault) -> bool:
        """Sends until the server goes out of service, or the fault lies behind; returns whether it
        went."""
        try:
            await clients.set_up()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return True
        last = fault.place + (fault.length or 0) + _MORE_OPERATIONS
        return await self._load(clients, ledger).run_while(lambda: self._control.count < last)

    def _load(self, clients: Clients, ledger: Ledger) -> Load:
        self._load_count += 1
        return Load(clients, ledger, self._rng, self._load_count, _ACCOUNTS)

    async def _audit(self, clients: Clients, ledger: Ledger) -> None:
        report = await audited(clients, self._load(clients, ledger), ledger, self._rng)
        assert not report, report

    @asynccontextmanager
    async def _started(self, data_dir: Path) -> AsyncIterator[ServerProcess]:
        """A server that serves, or has ended; its log is shown if anything fails."""
        flags = {"clock": "system", "mend_delay_s": _MEND_DELAY_S, **self._rng.choice(_FLAGS)}
        server = await asyncio.to_thread(ServerProcess, data_dir, self._nursery, **flags)
        try:
            yield server
        except BaseException:
            print(f"{flags}, the server's log:\n{server.log}")
            raise
        finally:
            server.close()


async def until_serving(clients: Clients, *, wanted: bool = True) -> None:
    """Returns once the server is in service, or out of it."""
    async with asyncio.timeout(PATIENCE_S):
        while await clients.is_serving() != wanted:  # noqa: ASYNC110 - a poll is what clients do
            await asyncio.sleep(_LOOK_S)


async def _set_up(clients: Clients) -> None:
    """Puts every account under the policy, unless it is."""
    try:
        await clients.current_policy()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        await clients.set_up()


async def _check_absence(clients: Clients) -> None:
    """While the disk fails the server is out of service, and says so in every way."""
    await until_serving(clients, wanted=False)
    attempt = attempt_pb2.Attempt(account=_ACCOUNTS[0], contact="somebody")
    for call in (
        clients.decisions.Commit(decision_service_pb2.CommitRequest(attempt=attempt)),
        clients.decisions.Check(decision_service_pb2.CheckRequest(attempt=attempt)),
        clients.current_policy(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
