from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import errors
from limiter.journal import (
    FIRST_SEQUENCE,
    GroupCommitter,
    SequenceConflict,
    decode_group,
    encode_group,
    read_groups,
)
from tests.unit.memory_journal import ListSource, MemoryJournal


def chain(*bodies: bytes, first: int = FIRST_SEQUENCE, checksum: int = 0) -> MemoryJournal:
    """A journal that holds one group for each body."""
    journal = MemoryJournal()
    for sequence, body in enumerate(bodies, first):
        journal.records[sequence], checksum = encode_group(0, sequence, 1, body, checksum)
    journal.first = first
    return journal


class TestGroupForm:
    @given(
        st.integers(0, 2**16 - 1),
        st.integers(1, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=200),
        st.integers(0, 2**32 - 1),
    )
    def test_what_is_framed_comes_back(
        self, shard: int, sequence: int, event_count: int, events: bytes, previous: int
    ) -> None:
        record, checksum = encode_group(shard, sequence, event_count, events, previous)
        group = decode_group(shard, sequence, record, previous)
        assert (group.sequence, group.event_count, group.events) == (sequence, event_count, events)
        assert group.checksum == checksum

    @given(st.binary(min_size=1, max_size=60), st.data())
    def test_any_changed_byte_is_found(self, events: bytes, data: st.DataObject) -> None:
        record, _ = encode_group(0, 7, 3, events, 99)
        place = data.draw(st.integers(0, len(record) - 1))
        changed = bytearray(record)
        changed[place] ^= data.draw(st.integers(1, 255))
        with pytest.raises(errors.DataLoss, match="group 7"):
            decode_group(0, 7, bytes(changed), 99)

    @given(st.binary(max_size=60), st.integers(0, 100))
    def test_any_cut_is_found(self, events: bytes, kept: int) -> None:
        record, _ = encode_group(0, 7, 3, events, 99)
        with pytest.raises(errors.DataLoss, match="group 7"):
            decode_group(0, 7, record[: min(kept, len(record) - 1)], 99)

    def test_a_group_in_another_place_is_found(self) -> None:
        record, _ = encode_group(0, 7, 3, b"events", 99)
        with pytest.raises(errors.DataLoss, match="group 8: it was written as shard 0, group 7"):
            decode_group(0, 8, record, 99)
        with pytest.raises(errors.DataLoss, match="shard 1, group 7: it was written as shard 0"):
            decode_group(1, 7, record, 99)

    def test_a_format_of_the_future_is_refused_and_not_called_damage(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("limiter.journal.FORMAT_VERSION", 2)
            record, _ = encode_group(0, 7, 3, b"events", 99)
        with pytest.raises(errors.FailedPrecondition, match="format version 2") as caught:
            decode_group(0, 7, record, 99)
        assert caught.value.reason == "JOURNAL_FORMAT"


class TestReadGroups:
    def test_an_empty_journal_has_none(self) -> None:
        assert list(read_groups(MemoryJournal(), 0)) == []

    def test_groups_come_in_order(self) -> None:
        groups = list(read_groups(chain(b"a", b"bb", b""), 0))
        assert [(group.sequence, group.events) for group in groups] == [
            (1, b"a"),
            (2, b"bb"),
            (3, b""),
        ]

    @pytest.mark.parametrize("missing", [1, 2, 3])
    def test_a_gap_is_named(self, missing: int) -> None:
        journal = chain(b"a", b"b", b"c", b"d")
        del journal.records[missing]
        with pytest.raises(errors.DataLoss, match=f"group {missing} is missing"):
            list(read_groups(journal, 0))

    def test_a_tail_that_does_not_come_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = chain(b"a", b"b")
        monkeypatch.setattr(journal, "replay", lambda shard, first: iter(journal.read(0, 1, 1)))
        with pytest.raises(errors.DataLoss, match="group 2 is missing"):
            list(read_groups(journal, 0))

    def test_a_group_of_another_history_is_found(self) -> None:
        journal = chain(b"a", b"b", b"c")
        journal.records[2] = chain(b"x", b"b").records[2]
        with pytest.raises(errors.DataLoss, match="group 2: it does not follow the group 1"):
            list(read_groups(journal, 0))

    def test_the_first_group_follows_nothing(self) -> None:
        with pytest.raises(errors.DataLoss, match="group 1"):
            list(read_groups(chain(b"a", checksum=5), 0))

    def test_a_trimmed_journal_starts_anywhere(self) -> None:
        journal = chain(b"a", b"b", b"c")
        journal.trim(0, 3)
        assert [group.sequence for group in read_groups(journal, 0)] == [3]


class Failures:
    """Collects what the committer reports."""

    def __init__(self) -> None:
        self.seen: list[errors.Unavailable] = []
        self.reported = asyncio.Event()

    def __call__(self, failure: errors.Unavailable) -> None:
        self.seen.append(failure)
        self.reported.set()


@asynccontextmanager
async def committing(
    journal: MemoryJournal, source: ListSource, on_failure: Callable[[errors.Unavailable], None]
) -> AsyncIterator[GroupCommitter]:
    committer = GroupCommitter(
        journal, source, shard=0, tail=0, tail_checksum=0, on_failure=on_failure
    )
    try:
        yield committer
    finally:
        if committer.failure is None:
            await committer.close()
        else:
            with pytest.raises(errors.Unavailable):
                committer.wait()
            await committer.close()


async def begun(journal: MemoryJournal) -> None:
    """Returns once one more append is under way."""
    await asyncio.to_thread(journal.wait_for_append)


def unexpected(failure: errors.Unavailable) -> None:
    raise AssertionError(failure)


class TestGroupCommit:
    async def test_one_turn_of_the_loop_is_one_group(self) -> None:
        journal, source = MemoryJournal(), ListSource()
        async with committing(journal, source, unexpected) as committer:

            async def commit(event: bytes) -> None:
                source.append(event)
                await committer.wait()

            await asyncio.gather(*(commit(b"%d" % number) for number in range(20)))
        assert len(source.taken) == 1
        assert len(journal.records) == 1
        assert committer.group_count == 1
        assert committer.event_count == 20

    async def test_the_reply_waits_for_the_sync(self) -> None:
        journal, source = MemoryJournal(gated=True), ListSource()
        async with committing(journal, source, unexpected) as committer:
            source.append(b"a")
            future = committer.wait()
            await begun(journal)
            await asyncio.sleep(0.02)
            assert not future.done()
            assert journal.records == {}
            journal.let_through()
            await future
            assert list(journal.records) == [1]
            assert committer.tail == 1

    async def test_what_arrives_during_a_sync_is_the_next_group(self) -> None:
        journal, source = MemoryJournal(gated=True), ListSource()
        async with committing(journal, source, unexpected) as committer:
            source.append(b"a")
            first = committer.wait()
            await begun(journal)
            later = []
            for number in range(5):
                source.append(b"%d" % number)
                later.append(committer.wait())
                await asyncio.sleep(0)
            assert len({id(future) for future in later}) == 1
            journal.let_through()
            await first
            await begun(journal)
            assert not later[0].done()
            journal.let_through()
            await later[0]
        assert source.taken == [[b"a"], [b"0", b"1", b"2", b"3", b"4"]]
        assert [group.events for group in read_groups(journal, 0)] == [b"a", b"01234"]

    async def test_waiting_with_nothing_appended_returns(self) -> None:
        journal, source = MemoryJournal(), ListSource()
        async with committing(journal, source, unexpected) as committer:
            await asyncio.wait_for(committer.wait(), 5)
            source.append(b"a")
            await committer.wait()
            await asyncio.wait_for(committer.wait(), 5)
        assert journal.append_count == 1

    async def test_waiting_for_what_is_under_way_lasts_until_it_is_durable(self) -> None:
        journal, source = MemoryJournal(gated=True), ListSource()
        async with committing(journal, source, unexpected) as committer:
            source.append(b"a")
            committer.kick()
            await begun(journal)
            repeat = committer.wait()
            await asyncio.sleep(0.02)
            assert not repeat.done()
            journal.let_through()
            await asyncio.wait_for(repeat, 5)
        assert journal.append_count == 1

    async def test_what_nobody_waits_for_is_written_too(self) -> None:
        journal, source = MemoryJournal(), ListSource()
        async with committing(journal, source, unexpected) as committer:
            source.append(b"denial")
            committer.kick()
            committer.kick()
            await begun(journal)
        assert [group.events for group in read_groups(journal, 0)] == [b"denial"]

    async def test_a_cancelled_waiter_takes_nobody_with_it(self) -> None:
        journal, source = MemoryJournal(gated=True), ListSource()
        async with committing(journal, source, unexpected) as committer:

            async def commit() -> str:
                source.append(b"a")
                await committer.wait()
                return "durable"

            gone, stays = asyncio.create_task(commit()), asyncio.create_task(commit())
            await begun(journal)
            gone.cancel()
            await asyncio.sleep(0)
            journal.let_through()
            assert await stays == "durable"
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert [group.events for group in read_groups(journal, 0)] == [b"aa"]

    async def test_groups_follow_the_ones_on_disk(self) -> None:
        journal = chain(b"old", b"older")
        last = list(read_groups(journal, 0))[-1]
        source = ListSource(next_group=3)
        committer = GroupCommitter(
            journal, source, shard=0, tail=2, tail_checksum=last.checksum, on_failure=unexpected
        )
        source.append(b"new")
        await committer.wait()
        await committer.close()
        assert [group.events for group in read_groups(journal, 0)] == [b"old", b"older", b"new"]

    async def test_close_writes_all_and_ends_the_thread(self) -> None:
        journal, source = MemoryJournal(gated=True), ListSource()
        committer = GroupCommitter(
            journal, source, shard=0, tail=0, tail_checksum=0, on_failure=unexpected
        )
        source.append(b"a")
        committer.kick()
        await begun(journal)
        source.append(b"b")
        closing = asyncio.create_task(committer.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        journal.let_through(2)
        await closing
        await committer.close()
        assert [group.events for group in read_groups(journal, 0)] == [b"a", b"b"]
        assert "limiter-journal-0" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(errors.Unavailable) as caught:
            committer.wait()
        assert caught.value.reason == "DRAINING"

    async def test_many_clients_over_many_groups(self) -> None:
        journal, source = MemoryJournal(), ListSource()
        async with committing(journal, source, unexpected) as committer:

            async def client(name: int) -> None:
                for number in range(30):
                    event = b"%d/%d;" % (name, number)
                    source.append(event)
                    await committer.wait()
                    assert any(event in record for record in journal.records.values())

            await asyncio.gather(*(client(name) for name in range(10)))
        events = b"".join(group.events for group in read_groups(journal, 0)).split(b";")[:-1]
        assert len(events) == len(set(events)) == 300
        for name in range(10):
            own = [event for event in events if event.startswith(b"%d/" % name)]
            assert own == [b"%d/%d" % (name, number) for number in range(30)]


class TestFailure:
    @pytest.mark.parametrize("written_anyway", [False, True])
    async def test_all_waiters_learn_it_and_nothing_is_retried(
        self, written_anyway: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal, source, failures = MemoryJournal(gated=True), ListSource(), Failures()
        async with committing(journal, source, failures) as committer:
            source.append(b"a")
            writing = committer.wait()
            await begun(journal)
            source.append(b"b")
            pending = committer.wait()
            journal.fault = OSError(28, "No space left on device")
            journal.written_anyway = written_anyway
            journal.let_through()
            for future in (writing, pending):
                with pytest.raises(errors.Unavailable, match="No space left") as caught:
                    await future
                assert caught.value.reason == "JOURNAL_UNAVAILABLE"
            assert failures.seen == [committer.failure]
            journal.fault = None
            committer.kick()
            with pytest.raises(errors.Unavailable, match="No space left"):
                committer.wait()
            await asyncio.sleep(0.02)
        assert journal.append_count == 1
        assert source.taken == [[b"a"]]
        assert len(failures.seen) == 1
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_waiters_who_left_are_no_noise(self, caplog: pytest.LogCaptureFixture) -> None:
        journal, source, failures = MemoryJournal(), ListSource(), Failures()
        async with committing(journal, source, failures) as committer:
            journal.fault = OSError(5, "Input/output error")
            source.append(b"a")
            committer.wait()
            await failures.reported.wait()
        assert [record.getMessage() for record in caplog.records] == []

    async def test_another_owner_of_the_shard_is_a_failure(self) -> None:
        journal, source, failures = chain(b"theirs"), ListSource(), Failures()
        async with committing(journal, source, failures) as committer:
            source.append(b"ours")
            with pytest.raises(errors.Unavailable, match="another process"):
                await committer.wait()
        assert isinstance(failures.seen[0].__cause__, SequenceConflict)

    async def test_a_source_that_skips_a_group_is_a_failure(self) -> None:
        journal, source, failures = MemoryJournal(), ListSource(next_group=3), Failures()
        async with committing(journal, source, failures) as committer:
            source.append(b"a")
            with pytest.raises(errors.Unavailable, match="group 3 was offered"):
                await committer.wait()
        assert journal.append_count == 0

    async def test_close_reports_what_could_not_be_written(self) -> None:
        journal, source, failures = MemoryJournal(), ListSource(), Failures()
        committer = GroupCommitter(
            journal, source, shard=0, tail=0, tail_checksum=0, on_failure=failures
        )
        journal.fault = OSError(5, "Input/output error")
        source.append(b"a")
        with pytest.raises(errors.Unavailable, match="Input/output error"):
            await committer.close()
        assert len(failures.seen) == 1
        await committer.close()
