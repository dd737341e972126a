"""The simulator finds what it is for: each of these servers breaks one rule, and is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import cast
from unittest import mock

from limiter import clock, recovery
from limiter._core import Core
from limiter.journal import GroupCommitter, Journal
from limiter.service import decision
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.simulation import process
from tests.simulation.disk import Disk
from tests.simulation.history import Broken, run
from tests.simulation.process import Opened, Process, State

# So many histories are enough to find any of them.
SEEDS_MAX = 60
# What a start says where images know more than the journal.
AHEAD = "the images beside it know group"


def assert_found(make: type[Process], *words: str) -> None:
    """Some history is broken, and its trace says so in one of these words."""
    for seed in range(SEEDS_MAX):
        broken = broken_by(make, seed)
        if broken is not None:
            assert any(word in str(broken.why) for word in words), broken
            assert f"--seed {seed}" in str(broken)
            return
    raise AssertionError("it was not found out")


def broken_by(make: type[Process], seed: int) -> Broken | None:
    """How the history breaks; None if it holds."""
    try:
        run(seed, make=make)
    except Broken as broken:
        return broken
    return None


def test_a_server_that_answers_before_it_is_durable() -> None:
    durable = GroupCommitter.wait

    def wait(committer: GroupCommitter) -> asyncio.Future[None]:
        durable(committer)
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    with mock.patch.object(GroupCommitter, "wait", wait):
        assert_found(Process, "before")


class RepeatsDoNotWait(Process):
    """The repeat of a commit that is on its way to the disk is answered at once."""

    def make_decider(self, core: Core) -> decision.Decider:
        real = super().make_decider(core)

        class Hasty:
            check, check_batch = real.check, real.check_batch
            commit_batch, get_usage = real.commit_batch, real.get_usage

            def commit(self, request: bytes, now_ms: int, guard: None) -> tuple[bytes, bool]:
                reply, must_wait = real.commit(request, now_ms, guard)
                replayed = service_pb2.CommitResponse.FromString(reply).replayed
                return reply, must_wait and not replayed

        return cast(decision.Decider, Hasty())


def test_a_server_whose_repeats_do_not_wait() -> None:
    assert_found(RepeatsDoNotWait, "before its group")


class ForgetsRequestIds(Process):
    """What was asked under a request id before the start is forgotten."""

    opened = 0

    def make_decider(self, core: Core) -> decision.Decider:
        real = super().make_decider(core)
        type(self).opened += 1
        prefix = f"{self.opened}-"

        class Forgetful:
            check, check_batch = real.check, real.check_batch
            commit_batch, get_usage = real.commit_batch, real.get_usage

            def commit(self, request: bytes, now_ms: int, guard: None) -> tuple[bytes, bool]:
                asked = service_pb2.CommitRequest.FromString(request)
                if asked.request_id:
                    asked.request_id = prefix + asked.request_id
                return real.commit(asked.SerializeToString(), now_ms, guard)

        return cast(decision.Decider, Forgetful())


def test_a_server_that_forgets_request_ids() -> None:
    assert_found(ForgetsRequestIds, "the oracle says", "COMMIT_NOT_FOUND", "should be refused")


class AppliesGroupsTwice(Process):
    """A group is applied twice, if the core lets it be."""

    def recover(
        self,
        journal: Journal,
        replayer: recovery.Replayer,
        restore: recovery.OnRevision,
        first: int,
    ) -> recovery.Recovered:
        class Twice:
            def replay(self, number: int, events: bytes, on_revision: recovery.OnRevision) -> int:
                return replayer.replay(number, events * 2, on_revision) // 2

        return super().recover(journal, Twice(), restore, first)


def test_a_server_that_applies_groups_twice() -> None:
    assert_found(AppliesGroupsTwice, "its events cannot be applied")


class CutsTheTail(Process):
    """The newest group is taken for one that was torn."""

    def recover(
        self,
        journal: Journal,
        replayer: recovery.Replayer,
        restore: recovery.OnRevision,
        first: int,
    ) -> recovery.Recovered:
        assert isinstance(journal, Disk)
        journal.records.pop(journal.newest, None)
        return super().recover(journal, replayer, restore, first)


def test_a_server_that_loses_the_newest_group() -> None:
    assert_found(CutsTheTail, "was acknowledged", "lost", AHEAD, "before it was durable")


class ForgetsARevision(Process):
    """The newest change of policies is not restored."""

    def recover(
        self,
        journal: Journal,
        replayer: recovery.Replayer,
        restore: recovery.OnRevision,
        first: int,
    ) -> recovery.Recovered:
        held: list[tuple[bytes, int]] = []

        def restore_late(payload: bytes, time_ms: int) -> None:
            held.append((payload, time_ms))
            if len(held) > 1:
                restore(*held.pop(0))

        return super().recover(journal, replayer, restore_late, first)


def test_a_server_that_forgets_a_revision() -> None:
    assert_found(ForgetsARevision, "the oracle says")


class KeepsItsMemory(Process):
    """After a failed append it goes on with what it has in memory."""

    def open_again(self, broken: State) -> Opened:
        opened = super().open_again(broken)
        return replace(broken.opened, recovered=opened.recovered)


def test_a_server_that_keeps_its_memory() -> None:
    assert_found(KeepsItsMemory, "was never taken", "the oracle says", AHEAD, "answer")


class Retries(Process):
    """A failed append is tried again."""

    def make_journal(self, disk: Disk) -> Journal:
        journal = mock.Mock(wraps=disk)

        def append(shard: int, sequence: int, record: bytes) -> None:
            try:
                disk.append(shard, sequence, record)
            except OSError:
                disk.append(shard, sequence, record)

        journal.append = append
        return cast(Journal, journal)


def test_a_server_that_retries_an_append() -> None:
    assert_found(Retries, "another process writes to it", "lost")


class UndoesInMemory(Process):
    """Undos and edits do not wait for the disk."""

    async def _durable(self, state: State) -> None:
        state.committer.kick()


def test_a_server_whose_undos_and_edits_do_not_wait() -> None:
    assert_found(UndoesInMemory, "before it was durable")


class IsShy(Process):
    """Calls are refused although there is room for them."""

    def make_decider(self, core: Core) -> decision.Decider:
        self._service._admit = self._refuse  # type: ignore[method-assign]
        return super().make_decider(core)

    def _refuse(self) -> decision.Engine:
        raise decision._overloaded("simulated")


def test_a_server_that_refuses_without_a_reason() -> None:
    assert_found(IsShy, "nothing was done", "round and round")


def test_a_server_whose_clock_is_the_wall_clock() -> None:
    def now_ms(self: clock.SystemClock) -> int:
        return self._read_wall_ns() // 1_000_000

    with mock.patch.object(clock.SystemClock, "now_ms", now_ms):
        assert_found(Process, "ms have passed where it were", "before the last recorded")


def test_a_server_that_starts_at_any_time() -> None:
    check: Callable[..., None] = lambda *_: None  # noqa: E731 - it is a check like the other
    with mock.patch.object(process, "check_start", check):
        assert_found(Process, "starts at")


def test_a_broken_history_breaks_again_in_the_same_way() -> None:
    seed = next(seed for seed in range(SEEDS_MAX) if broken_by(RepeatsDoNotWait, seed))
    first, second = (broken_by(RepeatsDoNotWait, seed) for _ in range(2))
    assert first is not None
    assert str(first) == str(second)
    assert len(first.lines) > 10
