"""What writes images, beside a journal that is slow: nothing on the disk is ahead of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from limiter._calendar import Window
from limiter._hot import Decider
from limiter.baseline import Baselines
from limiter.imaging import Imaging
from limiter.keys import KeyStore
from limiter.policy import PolicyStore
from limiter.service.revisions import Revisions
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.unit.memory_images import MemoryImages
from tests.unit.test_counters import MESSAGES, START_MS, make_decider


class Committer:
    """Group commit, whose groups are durable when a test says so."""

    tail = 0

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    def wait(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(future)
        return future


def commit(decider: Decider, contact: str) -> None:
    attempt = attempt_pb2.Attempt(account="a", contact=contact)
    request = decision_service_pb2.CommitRequest(attempt=attempt)
    decider.commit(request.SerializeToString(), START_MS)


async def test_a_baseline_counts_once_all_that_it_says_of_accounts_is_durable() -> None:
    core, decider = make_decider(MESSAGES, 10, Window.rolling(86_400_000))
    images, committer = MemoryImages(), Committer()
    idle = SimpleNamespace(sweep=lambda *_: (True, []), counted_bytes=0)
    imaging = Imaging(
        core,
        cast(Any, SimpleNamespace(residence=idle)),
        images,
        Baselines(core, Revisions(core, PolicyStore(), KeyStore()), images),
        committer=cast(Any, committer),
        clock=cast(Any, SimpleNamespace(now_ms=lambda: START_MS)),
        trimming=cast(Any, SimpleNamespace(is_due=lambda _now_ms: False)),
        memory_bytes=0,
    )
    try:
        commit(decider, "ana")
        taking = asyncio.create_task(imaging._take_baseline())
        first = await committer.waiting.get()
        # The account goes on while the baseline waits, and is written as it stands then.
        core.take_group()
        commit(decider, "ben")
        first.set_result(None)
        second = await asyncio.wait_for(committer.waiting.get(), 10)
        assert images.records
        assert images.baseline() is None
        second.set_result(None)
        await taking
        assert images.baseline() is not None
    finally:
        await imaging.close()
