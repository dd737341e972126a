"""Baselines: what is not kept with any account, on disk and back.

What flows in: a core and its revisions, and the store of images. What flows out: records, a few at
a time, the last of which makes the baseline the newest one; and at a start a core that stands where
the baseline was taken.

What is written once and never changes (names, revisions, rows of request ids and of undone commits)
is only added to; what belongs to one baseline alone carries its generation and is deleted with it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from limiter import errors
from limiter._baseline import Baseline
from limiter._core import Core
from limiter.image_store import ImageStore, Record, piece_key
from limiter.service.revisions import Revisions

__all__ = ["Baselines"]

# Kinds of pieces.
_NAMES: Final = b"N"
_REQUESTS: Final = b"Q"
_UNDONE: Final = b"U"
_HELD: Final = b"H"
_ABSENCES: Final = b"A"
_REVISIONS: Final = b"R"

# Before the core's head: the baseline's generation, and how many revisions it has.
_HEAD: Final = struct.Struct("<QQ")

# Before a revision's payload: its instant.
_REVISION: Final = struct.Struct("<q")

# Names, rows and accounts that are looked at for one piece, a fraction of a millisecond.
_PIECE_ROWS: Final = 500

_GENERATION_SHIFT: Final = 32


@dataclass(slots=True)
class _Taken:
    """A baseline that is on its way to the disk: its generation, how many revisions it has, and how
    many of them are new."""

    generation: int
    revision_count: int
    pending_count: int


@dataclass(slots=True)
class _Rows:
    """Numbered rows of one kind, which are only added to and leave from the front. `span()` gives
    the numbers of those that the head has: the first, and the one behind the last; `take(first,
    most)` some of them as (the first one's number, rows), `put_back(first, rows)` takes them."""

    kind: bytes
    span: Callable[[], tuple[int, int]]
    take: Callable[[int, int], tuple[int, bytes]]
    put_back: Callable[[int, bytes], None]
    # What is on the disk: rows before this number, in pieces by the numbers of their first rows.
    end: int = 0
    pieces: deque[int] = field(default_factory=deque)
    # Pieces that are on their way there.
    taken: list[int] = field(default_factory=list)

    def restore(self, store: ImageStore) -> None:
        """Puts back what is on the disk. Pieces beyond the head are of a baseline that was never
        whole, and will be written over."""
        self.end = self.span()[1]
        for first, piece in store.pieces(self.kind):
            self.put_back(first, piece)
            if first < self.end:
                self.pieces.append(first)

    def records(self) -> Iterator[list[Record]]:
        """Yields the rows that are not on the disk yet."""
        self.taken = []
        kept, end = self.span()
        for at in range(max(self.end, kept), end, _PIECE_ROWS):
            first, rows = self.take(at, _PIECE_ROWS)
            if rows:
                self.taken.append(first)
                yield [(piece_key(self.kind, first), rows)]

    def is_written(self) -> None:
        """What `records` has yielded is on the disk."""
        self.pieces.extend(self.taken)
        self.end = self.span()[1]

    def obsolete(self) -> Iterator[list[Record]]:
        """Yields what deletes pieces all of whose rows have left."""
        while len(self.pieces) > 1 and self.pieces[1] <= self.span()[0]:
            yield [(piece_key(self.kind, self.pieces.popleft()), None)]


class Baselines:
    """The baselines of one core."""

    def __init__(self, core: Core, revisions: Revisions, store: ImageStore) -> None:
        self.core = Baseline(core)
        self._revisions = revisions
        self._store = store
        # How far what is only added to is written.
        self._name_count = 0
        self._revision_count = 0
        self._generation = 0
        self._rows = (
            _Rows(
                _REQUESTS,
                lambda: self.core.requests,
                self.core.request_rows,
                self.core.restore_requests,
            ),
            _Rows(
                _UNDONE,
                lambda: self.core.undone,
                self.core.undone_rows,
                self.core.restore_undone,
            ),
        )
        self._taken: _Taken | None = None

    def restore(self) -> bool:
        """Puts the newest baseline back into the core, which is new; whether there is one. What
        lies behind it is to be scanned. With one or without, no instant lies before one by which an
        image was written. Raises DataLoss where it is damaged."""
        self.core.begin_after(self._store.as_of_ms())
        record = self._store.baseline()
        if record is None:
            return False
        if len(record) < _HEAD.size:
            raise errors.DataLoss("IMAGE_CORRUPT", "the images are damaged: the baseline's head")
        self._generation, self._revision_count = _HEAD.unpack_from(record)
        self.core.restore(record[_HEAD.size :])
        for first, piece in self._store.pieces(_NAMES):
            self.core.restore_names(first, piece)
        for rows in self._rows:
            rows.restore(self._store)
        for kind, put_back in (
            (_HELD, self.core.restore_held),
            (_ABSENCES, self.core.restore_absences),
        ):
            for number, piece in self._store.pieces(kind, self._generation << _GENERATION_SHIFT):
                if number >> _GENERATION_SHIFT == self._generation:
                    put_back(piece)
        for ordinal, piece in self._store.pieces(_REVISIONS):
            if ordinal < self._revision_count:
                (time_ms,) = _REVISION.unpack_from(piece)
                self._revisions.restore(piece[_REVISION.size :], time_ms)
        if self._revisions.count != self._revision_count:
            raise errors.DataLoss("IMAGE_CORRUPT", "the images are damaged: revisions are missing")
        self._revisions.forget_pending()
        self.core.settle()
        self._name_count = self.core.name_count
        return True

    def take(self) -> Iterator[list[Record]]:
        """Yields what a baseline of now consists of, in pieces, but for the head. They may be
        written once everything that has been appended up to the first step is durable, in any
        number of transactions, but in this order. Each step is a short one; between them the core
        may go on, and the pieces say how far accounts have gone by then."""
        self.core.begin()
        generation = self._generation + 1
        held = self.core.held_rows()
        pending = self._revisions.pending()
        self._taken = _Taken(generation, self._revision_count + len(pending), len(pending))
        yield []
        for first in range(self._name_count + 1, self.core.name_count + 1, _PIECE_ROWS):
            yield [(piece_key(_NAMES, first), self.core.names(first, _PIECE_ROWS))]
        for rows in self._rows:
            yield from rows.records()
        number = generation << _GENERATION_SHIFT
        # One of this generation that was never whole may have had more of these.
        for left in self._store.piece_numbers(_ABSENCES, number):
            yield [(piece_key(_ABSENCES, left), None)]
        start = 0
        while True:
            absences, start = self.core.absences(start, _PIECE_ROWS)
            if absences:
                yield [(piece_key(_ABSENCES, number), absences)]
                number += 1
            if not start:
                break
            yield []
        ordinal = self._revision_count
        for time_ms, payload in pending:
            yield [(piece_key(_REVISIONS, ordinal), _REVISION.pack(time_ms) + payload)]
            ordinal += 1
        yield [(piece_key(_HELD, generation << _GENERATION_SHIFT), held)]

    def head(self) -> list[Record]:
        """What makes the baseline whose pieces `take` has yielded the newest one: to be written
        last, once everything appended up to the last step is durable; then `is_written` is to be
        called."""
        taken = self._taken
        assert taken is not None
        self.core.leave_out_forgotten()
        head = _HEAD.pack(taken.generation, taken.revision_count) + self.core.packed
        return [self._store.baseline_record(head)]

    def is_written(self) -> None:
        """All that the last `take` has yielded is durable, and the head: from now on that baseline
        is the newest one, and the next one goes on from it. Until then nothing counts on it, for a
        write may fail."""
        taken, self._taken = self._taken, None
        assert taken is not None
        self._generation = taken.generation
        self._revision_count = taken.revision_count
        self._revisions.forget_pending(taken.pending_count)
        for rows in self._rows:
            rows.is_written()
        self._name_count = self.core.name_count
        self.core.is_written()

    def obsolete(self) -> Iterator[list[Record]]:
        """Yields what deletes what no baseline needs any more, after one was written."""
        for kind in (_HELD, _ABSENCES):
            yield from self._others(kind)
        for rows in self._rows:
            yield from rows.obsolete()

    def _others(self, kind: bytes) -> Iterator[list[Record]]:
        """What deletes pieces of other generations."""
        for number in self._store.piece_numbers(kind):
            if number >> _GENERATION_SHIFT == self._generation:
                break
            yield [(piece_key(kind, number), None)]
