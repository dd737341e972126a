"""Any write, sync or truncation of a whole server fails, or its disk is full: nothing acknowledged
is missing, nothing is there twice after a retry, and the server serves again when the disk does.

LIMITER_SERVER_IO_STEP says how many of the faults are tried: one of so many (default 67).
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import pytest

from limiter.v1 import restriction_pb2
from tests.crash.crashes import told
from tests.crash.faults import Fault, Faults
from tests.disk.shim import FAST_FOLDER, Control, compile_shim, environment
from tests.integration.forking import Nursery
from tests.integration.process import ServerProcess
from tests.integration.requests import assign, cap, commit_request, fault_of

STEP: Final = int(os.environ.get("LIMITER_SERVER_IO_STEP", "67"))

# Of a server's life, from its start in a new folder on.
_OPERATIONS: Final = 200

# The faults of a disk, at each operation.
FAULTS: Final = [
    fault
    for place in range(1, _OPERATIONS + 1)
    for fault in (
        Fault(place, errno.EIO),
        Fault(place, errno.EIO, half=True),
        Fault(place, errno.ENOSPC, length=3),
        Fault(place, errno.EIO, length=None),
        Fault(place, errno.ENOSPC, half=True, length=None),
    )
]

# Tests of their own, which can run side by side.
_LANES: Final = 2


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("lane", range(_LANES))
async def test_no_fault_of_a_servers_disk_loses_what_was_acknowledged(
    tmp_path: Path, rng: random.Random, lane: int, tell: Callable[[str], None]
) -> None:
    control_path = tmp_path / "control"
    control = Control(control_path)
    shim = compile_shim(tmp_path)
    with tempfile.TemporaryDirectory(dir=FAST_FOLDER) as root:
        disk = environment(shim, Path(root), control=control_path)
        with Nursery(disk) as nursery:
            lives = Faults(Path(root), nursery, control, rng)
            chosen = FAULTS[rng.randrange(STEP) :: STEP] if STEP > 1 else FAULTS
            for fault in chosen[lane::_LANES]:
                print(fault)
                await lives.live(fault)
    tell(f"a server's disk fails: {told(lives.counts)}")
    assert lives.counts["out of service"] > 0


def test_the_log_of_denials_goes_on_when_its_disk_does(tmp_path: Path) -> None:
    root, control_path = tmp_path / "root", tmp_path / "control"
    root.mkdir()
    control = Control(control_path)
    disk = environment(compile_shim(tmp_path), root, control=control_path)
    request = restriction_pb2.ListRestrictionsRequest(account="a")
    with Nursery(disk) as nursery, ServerProcess(root / "data", nursery) as server:
        assign(server, "a", cap(0))
        refusals, dropped_count = [], 0
        # Each operation of a transaction: pages, a sync, and the page that says which are valid,
        # after which LMDB wants to be opened again.
        for place in range(1, 5):
            control.fail(place, place, name="data/restrictions/")
            server.decisions.Commit(commit_request("a", f"lost-{place}"))
            try:
                server.decisions.ListRestrictions(request)
            except grpc.RpcError as error:
                refusals.append(fault_of(error).reason)
            control.heal()
            server.decisions.Commit(commit_request("a", f"kept-{place}"))
            found = server.decisions.ListRestrictions(request)
            dropped_count = found.dropped_count
            names = {each.attempt.contact for each in found.restrictions}
            assert {f"kept-{each}" for each in range(1, place + 1)} <= names
        assert dropped_count >= 3
        assert set(refusals) == {"RESTRICTIONS_UNAVAILABLE"}
