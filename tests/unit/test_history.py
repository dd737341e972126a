"""Reading recorded events by their positions: on disk, on the way there, and gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter import errors
from limiter.history import History, group_of, offset_of
from limiter.journal import Journal, encode_group
from limiter.store import LmdbJournal
from tests.unit.memory_journal import ListSource, MemoryJournal


def event(number: int, size: int) -> bytes:
    """Something of an event's form."""
    return bytes([number]) + size.to_bytes(3, "little") + bytes([number]) * size


FIRST, SECOND = event(1, 5), event(2, 300)


@pytest.fixture(params=["memory", "lmdb"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return MemoryJournal() if request.param == "memory" else LmdbJournal(tmp_path / "journal")


def take_and_append(history: History, journal: Journal) -> None:
    taken = history.take_group()
    assert taken is not None
    number, events, count = taken
    journal.append(0, number, encode_group(0, number, count, events, 0)[0])


def test_an_event_is_read_before_and_after_its_group_is_on_disk(journal: Journal) -> None:
    source = ListSource()
    history = History(source, journal, 0)
    assert history.take_group() is None
    source.append(FIRST)
    source.append(SECOND)
    positions = (1 << 24, (1 << 24) + len(FIRST))
    taken = history.take_group()
    assert taken is not None
    assert [history.event(position) for position in positions] == [FIRST, SECOND]
    assert history.group(1) == FIRST + SECOND
    journal.append(0, 1, encode_group(0, 1, 2, taken[1], 0)[0])
    source.append(SECOND)
    take_and_append(history, journal)
    assert [history.event(position) for position in positions] == [FIRST, SECOND]
    assert history.group(1) == FIRST + SECOND
    assert history.event(2 << 24) == SECOND


def test_what_is_not_kept_is_none(journal: Journal) -> None:
    source = ListSource()
    history = History(source, journal, 0)
    for _ in range(2):
        source.append(FIRST)
        take_and_append(history, journal)
    journal.trim(0, 2)
    assert history.event(1 << 24) is None
    assert history.group(1) is None
    assert history.group(3) is None
    assert history.event(2 << 24) == FIRST


def test_where_no_event_is_that_is_data_loss(journal: Journal) -> None:
    source = ListSource()
    history = History(source, journal, 0)
    source.append(FIRST)
    take_and_append(history, journal)
    source.append(FIRST)
    take_and_append(history, journal)
    for position in (1 << 24) + len(FIRST), (1 << 24) + 100_000:
        with pytest.raises(errors.DataLoss) as caught:
            history.event(position)
        assert caught.value.reason == "JOURNAL_CORRUPT"


def test_a_position_is_a_group_and_an_offset() -> None:
    position = (77 << 24) | 1_234
    assert (group_of(position), offset_of(position)) == (77, 1_234)
