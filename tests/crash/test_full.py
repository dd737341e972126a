"""A server whose disk or quota is full: it goes out of service, loses nothing that it acknowledged,
and serves again when there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from limiter.v1 import decision_service_pb2, policy_pb2, policy_service_pb2
from tests.crash.faults import until_serving
from tests.crash.load import Clients, connected
from tests.disk.shim import FAST_FOLDER, Control, compile_shim, environment
from tests.integration.forking import Nursery
from tests.integration.process import PATIENCE_S, ServerProcess
from tests.integration.requests import cap, fault_of

_MIB: Final = 1 << 20

# Batches that are sent at once, and the recipients of each.
_SENDERS: Final = 4
_RECIPIENTS: Final = 1_000

_MEND_DELAY_S: Final = 0.05


class Filler:
    """Sends batches of ever new people, and remembers what was answered to each."""

    def __init__(self) -> None:
        # By the batch's number; None where there was no answer.
        self._commit_ids: list[list[str] | None] = []

    async def set_up(self, clients: Clients) -> None:
        request = policy_service_pb2.ApplyPoliciesRequest(
            policies=[policy_pb2.Policy(name="policies/full", limits=[cap(100_000_000)])],
            assignments=[policy_pb2.Assignment(name="assignments/full", policy="policies/full")],
        )
        await clients.policies.ApplyPolicies(request, timeout=PATIENCE_S)

    async def fill(self, clients: Clients) -> list[grpc.aio.AioRpcError]:
        """Sends until nothing goes any more; returns what each of the senders was told."""

        async def send() -> grpc.aio.AioRpcError:
            while True:
                number = len(self._commit_ids)
                self._commit_ids.append(None)
                try:
                    self._commit_ids[number] = await self._ask(clients, number)
                except grpc.aio.AioRpcError as error:
                    return error

        return await asyncio.gather(*(send() for _ in range(_SENDERS)))

    async def audit(self, clients: Clients) -> tuple[int, int]:
        """Asks for every batch once more: what was acknowledged is answered as it was, and in the
        end each has counted once. Returns how many batches were acknowledged, and how many were
        not."""
        unknown = [number for number, ids in enumerate(self._commit_ids) if ids is None]
        for number, ids in enumerate(self._commit_ids):
            found = await self._ask(clients, number)
            assert ids is None or found == ids, f"batch {number}"
            self._commit_ids[number] = found
        usage = decision_service_pb2.GetUsageRequest()
        usage.attempt.account = "a"
        reply = await clients.decisions.GetUsage(usage, timeout=PATIENCE_S)
        assert reply.limit_statuses[0].used_count == _RECIPIENTS * len(self._commit_ids)
        return len(self._commit_ids) - len(unknown), len(unknown)

    async def _ask(self, clients: Clients, number: int) -> list[str]:
        request = decision_service_pb2.CommitBatchRequest(request_id=f"b{number}")
        request.attempt.account = "a"
        for place in range(_RECIPIENTS):
            request.recipients.add(contact=f"{number}-{place}")
        reply = await clients.decisions.CommitBatch(request, timeout=PATIENCE_S)
        assert reply.accepted_count == _RECIPIENTS
        return [result.commit_id for result in reply.results]


class Shimmed:
    """A folder in which no file grows beyond `room_bytes` until there is room."""

    said = "No space left"

    def __init__(self, folder: Path, room_bytes: int) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()
        self._control = Control(folder / "control")
        shim = compile_shim(folder)
        self.environment = environment(shim, self.folder, control=folder / "control")
        self._control.fill(room_bytes)

    def make_room(self) -> None:
        self._control.heal()


class Mounted:
    """A disk of `size_bytes` in memory, half of which something else takes until there is room."""

    # LMDB takes a write of which only a part was done for one that failed.
    said = "bytes left"

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.environment = dict(os.environ)
        self._ballast = folder / "ballast"
        self._ballast.write_bytes(bytes(size_bytes // 2))

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[None]:
    """Mounts a disk in memory there. Skips the test where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can be mounted by root alone")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {found.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["mounted", "shimmed"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shimmed | Mounted]:
    with tempfile.TemporaryDirectory(dir=FAST_FOLDER) as folder:
        if request.param == "shimmed":
            yield Shimmed(Path(folder), 3 * _MIB)
            return
        with mounted(Path(folder), 12 * _MIB):
            yield Mounted(Path(folder), 12 * _MIB)


async def filled(clients: Clients, filler: Filler, why: str) -> None:
    """Fills it up, and looks at what is told."""
    told = [fault_of(error) for error in await filler.fill(clients)]
    assert {fault.code for fault in told} == {grpc.StatusCode.UNAVAILABLE}
    assert {fault.reason for fault in told} == {"JOURNAL_UNAVAILABLE"}
    assert any(why in fault.message for fault in told), [fault.message for fault in told]


@pytest.mark.slow
async def test_a_server_whose_disk_is_full_serves_again_when_there_is_room(
    disk: Shimmed | Mounted, tell: Callable[[str], None]
) -> None:
    filler, data_dir = Filler(), disk.folder / "data"
    flags: dict[str, Any] = {"mend_delay_s": _MEND_DELAY_S}
    with Nursery(disk.environment) as nursery:
        with ServerProcess(data_dir, nursery, **flags) as server:
            async with connected(server) as clients:
                await filler.set_up(clients)
                await filled(clients, filler, disk.said)
                await until_serving(clients, wanted=False)
                # It is tried time and again meanwhile.
                await asyncio.sleep(5 * _MEND_DELAY_S)
                disk.make_room()
                await until_serving(clients)
                acknowledged, unknown = await filler.audit(clients)
            server.kill()
        with ServerProcess(data_dir, nursery, **flags) as server:
            async with connected(server) as clients:
                await filler.audit(clients)
    assert unknown <= _SENDERS
    assert acknowledged > 0
    tell(f"{disk.__class__.__name__} disk full after {acknowledged} batches, {unknown} unknown")


@pytest.mark.slow
async def test_a_server_whose_quota_is_full_serves_again_with_a_larger_one(tmp_path: Path) -> None:
    filler, data_dir = Filler(), tmp_path / "data"
    with Nursery() as nursery:
        flags: dict[str, Any] = {"mend_delay_s": _MEND_DELAY_S}
        with ServerProcess(data_dir, nursery, journal_bytes_max=3 * _MIB, **flags) as server:
            async with connected(server) as clients:
                await filler.set_up(clients)
                await filled(clients, filler, f"quota of {3 * _MIB} bytes")
                await until_serving(clients, wanted=False)
                # It does not come back to fail again.
                await asyncio.sleep(5 * _MEND_DELAY_S)
                assert not await clients.is_serving()
        with ServerProcess(data_dir, nursery, journal_bytes_max=3 * _MIB) as server:
            assert server.wait() == 3
            assert "quota" in server.log
        with ServerProcess(data_dir, nursery, journal_bytes_max=64 * _MIB) as server:
            async with connected(server) as clients:
                await filler.audit(clients)
