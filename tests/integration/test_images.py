"""Accounts that leave memory and come back, starts from baselines, and a journal with a horizon, on
a real server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter import backup, bounds, errors
from limiter.image_store import ImageStore
from limiter.state import State
from limiter.store import LmdbJournal
from limiter.v1 import commitment_pb2, decision_service_pb2, test_clock_service_pb2
from tests.integration import transports
from tests.integration.inside import Inside, refused, serving
from tests.integration.requests import DAY_S, cap, commit_request
from tests.integration.test_mending import assign_to_all, used

pytestmark = transports.BOTH

# Accounts leave memory as soon as nobody uses them.
_TIGHT: dict[str, Any] = {"memory_bytes_max": 1}


async def until(condition: Callable[[], bool]) -> None:
    """Returns once something is so; fails if it never is."""
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it is still not so")


def state_of(inside: Inside) -> State:
    """What the server answers from."""
    state = inside.server.state
    assert state is not None
    return state


def accounts_in(inside: Inside) -> int:
    """How many accounts the server has in memory."""
    return state_of(inside).core.account_count


async def allowed(inside: Inside, account: str, contact: str) -> bool:
    reply = await inside.decisions.Commit(commit_request(account, contact))
    return bool(reply.commit_id)


async def test_accounts_leave_memory_and_count_on(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "data", transport=transport, **_TIGHT) as inside:
        await assign_to_all(inside, cap(3))
        accounts = [f"account-{number}" for number in range(40)]
        for contact in ("a", "b", "c"):
            for account in accounts:
                assert await allowed(inside, account, contact)
            await until(lambda: accounts_in(inside) == 0)
        assert not any(
            await asyncio.gather(*(allowed(inside, account, "d") for account in accounts))
        )
        # Whoever is inside already is free.
        assert await allowed(inside, accounts[0], "a")
        assert await used(inside, accounts[-1]) == 3


async def test_streams_and_batches_wait_for_their_account(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "data", transport=transport, **_TIGHT) as inside:
        await assign_to_all(inside, cap(5))
        for account in ("a", "b"):
            assert await allowed(inside, account, "first")
        await until(lambda: accounts_in(inside) == 0)
        batch = decision_service_pb2.CommitBatchRequest()
        batch.attempt.account = "a"
        for contact in ("second", "third", "first"):
            batch.recipients.add(contact=contact)
        assert (await inside.decisions.CommitBatch(batch)).accepted_count == 3
        await until(lambda: accounts_in(inside) == 0)

        async def requests() -> AsyncIterator[decision_service_pb2.CommitRequest]:
            for number in range(6):
                yield commit_request("b", f"contact-{number}")
                yield commit_request("a", f"contact-{number}")

        outcomes = [
            bool(reply.commit_id) async for reply in inside.decisions.CommitStream(requests())
        ]
        assert outcomes == [True, True, True, True, True, False, True, False, *[False] * 4]


async def test_what_is_held_or_cancelled_is_known_after_a_start_from_a_baseline(
    tmp_path: Path, transport: str
) -> None:
    settings: dict[str, Any] = {"transport": transport, "baseline_lag_events_max": 1, **_TIGHT}
    async with serving(tmp_path / "data", **settings) as inside:
        await assign_to_all(inside, cap(2))
        held = commit_request("a", "held", request_id="held")
        held.hold_duration.FromSeconds(60)
        await inside.decisions.Commit(held)
        gone = await inside.decisions.Commit(commit_request("a", "gone", request_id="gone"))
        await inside.decisions.Cancel(
            commitment_pb2.CancelRequest(account="a", commit_id=gone.commit_id)
        )
        kept = await inside.decisions.Commit(commit_request("b", "kept", request_id="kept"))
        imaging = state_of(inside).imaging
        await until(lambda: imaging.standing().lag_event_count == 0)
    async with serving(tmp_path / "data", **settings) as inside:
        assert accounts_in(inside) == 1
        repeat = await inside.decisions.Commit(commit_request("b", "kept", request_id="kept"))
        assert repeat.replayed
        assert repeat.commit_id == kept.commit_id
        assert await used(inside, "a") == 1
        with pytest.raises(grpc.aio.AioRpcError, match="spent"):
            await inside.decisions.Commit(commit_request("a", "gone", request_id="gone"))
        assert await allowed(inside, "a", "another")
        assert not await allowed(inside, "a", "one too many")
        await move(inside, 61_000)
        # The hold has lapsed.
        assert await allowed(inside, "a", "one too many")


async def move(inside: Inside, duration_ms: int) -> None:
    """Moves the driven clock on."""
    request = test_clock_service_pb2.SetTestClockRequest()
    now = await inside.test_clock.Get(test_clock_service_pb2.GetTestClockRequest())
    request.current_time.FromMilliseconds(now.current_time.ToMilliseconds() + duration_ms)
    await inside.test_clock.Set(request)


async def test_a_large_account_stands_still_while_it_is_written(
    tmp_path: Path, transport: str
) -> None:
    count = 30_000
    async with serving(tmp_path / "data", transport=transport, **_TIGHT) as inside:
        await assign_to_all(inside, cap(count))
        for first in range(0, count, 10_000):
            batch = decision_service_pb2.CommitBatchRequest()
            batch.attempt.account = "large"
            for number in range(first, first + 10_000):
                batch.recipients.add(contact=f"contact-{number}")
            assert (await inside.decisions.CommitBatch(batch)).accepted_count == 10_000
        # Its calls go on meanwhile, each as soon as it can.
        while accounts_in(inside):
            assert await allowed(inside, "large", "contact-7")
            await asyncio.sleep(0.05)
        assert not await allowed(inside, "large", "one too many")
        assert await used(inside, "large") == count


async def test_the_journal_is_trimmed_to_its_horizon(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"history_ms": 2 * bounds.DAY_MS, "baseline_lag_events_max": 50}
    async with serving(tmp_path / "data", **settings) as inside:
        await assign_to_all(inside, cap(5, 4 * DAY_S))
        first = await inside.decisions.Commit(commit_request("a", "day-0"))
        for day in range(1, 5):
            await move(inside, bounds.DAY_MS - 1_000)
            for number in range(3):
                await inside.decisions.Commit(commit_request("b", f"day-{day}-{number}"))
            assert await allowed(inside, "a", f"day-{day}")
        await until(lambda: state_of(inside).journal.head(0) > 1)
        # The window reaches further back than the journal: its counter does not.
        assert await used(inside, "a") == 5
        assert not await allowed(inside, "a", "one too many")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inside.decisions.Cancel(
                commitment_pb2.CancelRequest(account="a", commit_id=first.commit_id)
            )
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    async with serving(tmp_path / "data", **settings) as inside:
        assert await used(inside, "a") == 5
        await move(inside, 10_000)
        # The first day has left the window.
        assert await used(inside, "a") == 4
        assert await allowed(inside, "a", "one more")


def told(_what: str, _done: int, _of: int) -> None:
    """Nobody looks at the progress."""


async def churned(data_dir: Path) -> None:
    """Leaves a folder with images and a baseline, and events behind them."""
    async with serving(data_dir, baseline_lag_events_max=1, **_TIGHT) as inside:
        await assign_to_all(inside, cap(50))
        for number in range(40):
            await allowed(inside, f"account-{number % 2}", f"contact-{number}")
        imaging = state_of(inside).imaging
        await until(lambda: imaging.standing().lag_event_count == 0)
        await until(lambda: bool(list(state_of(inside).images.accounts())))
        await allowed(inside, "account-1", "the last")


async def test_images_are_compared_with_the_journal(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    await churned(data_dir)
    found = backup.verify(data_dir, told)
    assert found.images_agree
    assert found.image_count == 2
    images = store_in(data_dir)
    (first, second) = images.accounts()
    image = images.get(first)
    assert image is not None
    # One that says that less was sent: every byte is as it was written, and yet it is wrong.
    sequence_at = 32
    images.write(
        [images.whole_record(first, image[:sequence_at] + b"\x05" + image[sequence_at + 1 :])]
    )
    images.close()
    with pytest.raises(errors.DataLoss) as caught:
        backup.verify(data_dir, told)
    assert caught.value.reason in {"IMAGE_DIFFERS", "JOURNAL_CORRUPT"}
    shutil.rmtree(data_dir / "images")
    async with serving(data_dir) as inside:
        assert await used(inside, "account-0") == 20
    assert second != first


def store_in(data_dir: Path) -> ImageStore:
    journal = LmdbJournal(data_dir / "journal", must_exist=True)
    mark = journal.mark
    journal.close()
    return ImageStore(data_dir / "images", shard=0, mark=mark)


async def test_an_image_that_is_damaged_fails_its_account_and_no_other(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    await churned(data_dir)
    images = store_in(data_dir)
    first, _ = images.accounts()
    images.write([images.whole_record(first, b"nonsense")])
    images.close()
    async with serving(data_dir) as inside:
        names = {await outcome(inside, f"account-{number}") for number in range(2)}
    assert names == {None, grpc.StatusCode.DATA_LOSS}


async def outcome(inside: Inside, account: str) -> grpc.StatusCode | None:
    """What a commit ends with, None for a reply."""
    try:
        await inside.decisions.Commit(commit_request(account, "somebody"))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def test_what_has_left_its_window_leaves_the_disk(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"history_ms": 2 * bounds.DAY_MS, "baseline_lag_events_max": 5}
    count = 300
    async with serving(tmp_path / "data", **settings) as inside:
        await assign_to_all(inside, cap(count, DAY_S))
        batch = decision_service_pb2.CommitBatchRequest()
        batch.attempt.account = "quiet"
        for number in range(count):
            batch.recipients.add(contact=f"contact-{number}")
        await inside.decisions.CommitBatch(batch)
        images = state_of(inside).images

        def image_bytes() -> int:
            return len(images.get(1) or b"")

        sizes = set()
        for day in range(16):
            await move(inside, bounds.DAY_MS // 2)
            await allowed(inside, "busy", f"day-{day}")
            sizes.add(image_bytes())
            if day > 3:
                await asyncio.sleep(0.2)
        await until(lambda: 0 < image_bytes() < 500)
        assert max(sizes) > 24 * count
        # Its place in the order of its commits is not given twice.
        again = await inside.decisions.Commit(commit_request("quiet", "another"))
        assert again.account_sequence == count + 1
        assert await used(inside, "quiet") == 1


async def test_a_backup_of_a_trimmed_journal_counts_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"history_ms": 2 * bounds.DAY_MS, "baseline_lag_events_max": 5}
    async with serving(tmp_path / "data", **settings) as inside:
        await assign_to_all(inside, cap(3, 10 * DAY_S))
        await allowed(inside, "a", "first")
        for day in range(4):
            await move(inside, bounds.DAY_MS)
            await allowed(inside, "b", f"day-{day}")
        await until(lambda: state_of(inside).journal.head(0) > 1)
    backup.back_up(tmp_path / "data", tmp_path / "backup", include_keys=True, on_progress=told)
    found = backup.verify(tmp_path / "backup", told)
    assert not found.images_agree
    assert found.image_count == 2
    backup.restore(tmp_path / "backup", tmp_path / "restored", key_path=None, on_progress=told)
    async with serving(tmp_path / "restored", **settings) as inside:
        assert await used(inside, "a") == 1
        assert await used(inside, "b") == 3
    shutil.rmtree(tmp_path / "restored" / "images")
    refusal = await refused(tmp_path / "restored", **settings)
    assert refusal.code == "DATA_LOSS"
