from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limiter import errors
from limiter.journal import GroupCommitter, Journal, encode_group
from limiter.recovery import Progress, Recovered, recover
from limiter.store import LmdbJournal
from tests.unit.memory_journal import ListSource, MemoryJournal


class Core:
    """A core whose events are single bytes; `R` is a revision, `!` cannot be applied."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.state = b""

    def replay(
        self, group_number: int, events: bytes, on_revision: Callable[[bytes, int], None]
    ) -> int:
        self.groups.append(group_number)
        for index, event in enumerate(events):
            if event == ord("!"):
                raise ValueError("unknown event 33")
            if event == ord("?"):
                raise errors.FailedPrecondition("JOURNAL_FORMAT", "an event of a newer version")
            self.state += bytes([event])
            if event == ord("R"):
                on_revision(self.state, group_number * 1_000 + index)
        return len(events)


def no_revision(payload: bytes, time_ms: int) -> None:
    raise AssertionError(payload)


def write(journal: Journal, *bodies: bytes, event_count: int | None = None) -> int:
    """Appends one group for each body; returns the checksum of the last."""
    checksum = 0
    for sequence, body in enumerate(bodies, 1):
        count = len(body) if event_count is None else event_count
        record, checksum = encode_group(0, sequence, count, body, checksum)
        journal.append(0, sequence, record)
    return checksum


def test_an_empty_journal_leaves_the_core_as_it_is() -> None:
    core = Core()
    assert recover(MemoryJournal(), 0, core, no_revision) == Recovered(0, 0, 0, 0)
    assert core.groups == []


def test_all_groups_are_applied_in_order() -> None:
    journal, core = MemoryJournal(), Core()
    checksum = write(journal, b"ab", b"c", b"def")
    seen: list[Progress] = []
    recovered = recover(journal, 0, core, no_revision, seen.append)
    assert core.state == b"abcdef"
    assert core.groups == [1, 2, 3]
    assert recovered == Recovered(3, checksum, 3, 6)
    assert seen == [Progress(1, 3, 2), Progress(2, 3, 3), Progress(3, 3, 6)]


def test_revisions_come_between_the_events_around_them() -> None:
    journal, core = MemoryJournal(), Core()
    write(journal, b"aRb", b"R", b"c")
    seen: list[tuple[bytes, int]] = []
    recover(journal, 0, core, lambda payload, time_ms: seen.append((payload, time_ms)))
    assert seen == [(b"aR", 1_001), (b"aRbR", 2_000)]


def test_a_missing_group_ends_it_before_the_next_is_applied() -> None:
    journal, core = MemoryJournal(), Core()
    write(journal, b"a", b"b", b"c")
    del journal.records[2]
    with pytest.raises(errors.DataLoss, match="group 2 is missing") as caught:
        recover(journal, 0, core, no_revision)
    assert caught.value.metadata == {"shard": "0", "group": "2"}
    assert core.state == b"a"


def test_a_damaged_group_is_not_applied() -> None:
    journal, core = MemoryJournal(), Core()
    write(journal, b"a", b"b", b"c")
    journal.records[2] = journal.records[2][:-1] + b"x"
    with pytest.raises(errors.DataLoss, match="group 2: its checksum"):
        recover(journal, 0, core, no_revision)
    assert core.state == b"a"


def test_events_that_cannot_be_applied_are_named() -> None:
    journal, core = MemoryJournal(), Core()
    write(journal, b"a", b"b!", b"c")
    with pytest.raises(
        errors.DataLoss, match="group 2: its events cannot be applied: unknown event 33"
    ):
        recover(journal, 0, core, no_revision)
    assert core.groups == [1, 2]


def test_a_newer_format_is_not_called_damage() -> None:
    journal = MemoryJournal()
    write(journal, b"?")
    with pytest.raises(errors.FailedPrecondition, match="newer version"):
        recover(journal, 0, Core(), no_revision)


@pytest.mark.parametrize("event_count", [0, 1, 3])
def test_a_group_holds_as_many_events_as_it_says(event_count: int) -> None:
    journal = MemoryJournal()
    write(journal, b"ab", event_count=event_count)
    with pytest.raises(
        errors.DataLoss, match=f"holds 2 events where its header says {event_count}"
    ):
        recover(journal, 0, Core(), no_revision)


def test_whoever_watches_can_stop_it() -> None:
    journal, core = MemoryJournal(), Core()
    write(journal, b"a", b"b", b"c")

    def stop(progress: Progress) -> None:
        if progress.group_count == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        recover(journal, 0, core, no_revision, stop)
    assert core.state == b"ab"


async def test_group_commit_goes_on_where_recovery_ended(tmp_path: Path) -> None:
    """Three lives of one journal on disk: each finds what the ones before have written."""
    state = b""
    for life in range(1, 4):
        journal, core = LmdbJournal(tmp_path / "journal"), Core()
        recovered = recover(journal, 0, core, no_revision)
        assert core.state == state
        assert recovered.tail == 2 * (life - 1)
        source = ListSource(next_group=recovered.tail + 1)
        committer = GroupCommitter(
            journal,
            source,
            shard=0,
            tail=recovered.tail,
            tail_checksum=recovered.tail_checksum,
            on_failure=lambda failure: None,
        )
        for event in (b"%d" % life, b"x"):
            source.append(event)
            await committer.wait()
            state += event
        await committer.close()
        journal.close()
