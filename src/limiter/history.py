"""Recorded events by their positions: what a walk back along an account's past reads.

In flow positions, as events name those before them: a group's number and an offset in it. Out flow
packed events, from the disk or from a group that is on its way there. The core itself answers for
the group that it is still filling.

What always holds: an event can be read from the moment at which its group is taken. A committer
writes one group at a time and takes the next one when that is durable, so the group that was taken
last is all that has to be kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from limiter import bounds, errors
from limiter._event import first_instant_ms
from limiter.journal import FIRST_SEQUENCE, GROUP_HEADER_BYTES, GroupSource, Journal

__all__ = ["History", "event_in", "first_position", "group_of", "offset_of"]

# A position: the group's number, and in the low bits the event's offset among the group's events.
_OFFSET_BITS: Final = 24
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1

# An event's header: its type in the low byte, the size of its body in the other three.
_EVENT_HEADER_BYTES: Final = 4


def group_of(position: int) -> int:
    """The number of the group that a position lies in."""
    return position >> _OFFSET_BITS


def offset_of(position: int) -> int:
    """Where in its group's events a position lies."""
    return position & _OFFSET_MASK


def first_position(group: int) -> int:
    """The position of a group's first event."""
    return group << _OFFSET_BITS


class History:
    """The events of one shard, recorded and about to be. Satisfies `limiter.journal.GroupSource`:
    groups are taken from `source` through it.

    Its methods may be called from any thread, but not while a group is taken.
    """

    def __init__(self, source: GroupSource, journal: Journal, shard: int) -> None:
        self._source = source
        self._journal = journal
        self._shard = shard
        # The group that was taken last: its number and its events.
        self._taken: tuple[int, bytes] = (0, b"")

    def take_group(self) -> tuple[int, bytes, int] | None:
        """The source's pending group, which can be read here from now on."""
        taken = self._source.take_group()
        if taken is not None:
            self._taken = taken[:2]
        return taken

    def event(self, position: int) -> bytes | None:
        """The packed event at a position that an event or the core has named; None when its group
        is not kept any more. Raises DataLoss when there is no event."""
        number, offset = group_of(position), offset_of(position)
        taken_number, events = self._taken
        if number == taken_number:
            return event_in(memoryview(events), position, offset)
        return self._journal.peek(
            self._shard,
            number,
            lambda record: event_in(record, position, offset + GROUP_HEADER_BYTES),
        )

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], memoryview | None]]:
        """The packed events of many groups, each by its number and in place, as long as it is
        entered; None where a group is not kept."""
        with self._journal.reading(self._shard) as record_of:

            def events_of(number: int) -> memoryview | None:
                taken_number, events = self._taken
                if number == taken_number:
                    return memoryview(events)
                record = record_of(number)
                return None if record is None else record[GROUP_HEADER_BYTES:]

            yield events_of

    def begins_ms(self) -> int | None:
        """From which instant on everything is kept; None when nothing was ever dropped."""
        head = self._journal.head(self._shard)
        if head == FIRST_SEQUENCE:
            return None
        for number in range(head, self._journal.tail(self._shard) + 1):
            begin_ms = self.instant_of(number)
            if begin_ms is not None:
                return begin_ms
        # Nothing that is kept has happened at an instant: everything before now may be lost.
        return bounds.INSTANT_MS_MAX

    def instant_of(self, number: int) -> int | None:
        """The instant of the first event of a group that has one; None where none has, or the group
        is not kept."""
        events = self.group(number)
        return None if events is None else first_instant_ms(events)

    def group(self, number: int) -> bytes | None:
        """All packed events of one group; None when there is no such group, or not any more."""
        taken_number, events = self._taken
        if number == taken_number:
            return events
        return self._journal.peek(
            self._shard, number, lambda record: bytes(record[GROUP_HEADER_BYTES:])
        )


def event_in(record: bytes | memoryview, position: int, start: int) -> bytes:
    """The event that starts there."""
    body = start + _EVENT_HEADER_BYTES
    size = int.from_bytes(record[start + 1 : body], "little")
    event = bytes(record[start : body + size])
    if len(event) != _EVENT_HEADER_BYTES + size or size == 0:
        raise errors.DataLoss(
            "JOURNAL_CORRUPT",
            f"journal group {group_of(position)} holds no event at offset {offset_of(position)}",
        )
    return event
