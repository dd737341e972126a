"""The journal's interface, the form of its groups, and group commit.

What flows in: events that the core has appended in memory. What flows out: groups of them on disk,
and a signal to everybody who waits for theirs. A group is everything that was appended while the
group before it was being synced, so that one sync serves all who arrived in the meantime.

The steps, all but the fourth on the event loop:

1. A call changes the core; its events are pending in the source. A call whose reply must not leave
   before they are durable asks for `wait()`; one that need not wait calls `kick()`.
2. While nothing is being written, the first of them schedules a take for the end of the loop's
   turn: whatever else this turn appends joins the same group.
3. The take asks the source for the pending group and hands it to the writer thread. From there on
   new events belong to the next group, and new waiters share the next future.
4. The writer's thread frames the group, appends it to the journal and tells once it is durable.
5. The loop takes the next group if something is pending (so that the disk does not idle), and
   resolves the future of the one that is now durable.

What always holds:

- At most one group is being written, and groups are written in the order of their numbers,
  without a gap. Each carries the checksum of the one before it.
- A waiter is resolved only once everything that was appended before it asked is durable.
- There is one future for each group, not one for each call. It cannot be cancelled: a caller that
  is cancelled stays until its group is settled, and takes nobody else with it.
- After an append that failed, whether its bytes are on disk is unknown. The committer is then
  failed for good: nothing is retried, nothing more is taken, all waiters learn it, those who come
  later at once. Memory is ahead of the disk, and only recovery from the disk can mend that.
"""

from __future__ import annotations

import asyncio
import enum
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Final, Protocol, TypeVar

from limiter import errors

__all__ = [
    "FIRST_SEQUENCE",
    "FORMAT_VERSION",
    "GROUP_HEADER_BYTES",
    "Group",
    "GroupCommitter",
    "GroupSource",
    "GroupWatch",
    "Journal",
    "SequenceConflict",
    "Writer",
    "decode_group",
    "encode_group",
    "read_groups",
]

# The sequence of a shard's first group. 0 is "no group yet".
FIRST_SEQUENCE: Final = 1

# The version of the group's form. A reader refuses what it does not know.
FORMAT_VERSION: Final = 1

_MAGIC: Final = b"LIMG"

# magic, format version, shard, sequence, count of events, size of the events in bytes, checksum of
# the group before, checksum of this header (this field as zero) and the events. Little-endian.
_HEADER: Final = struct.Struct("<4sHHQIIII")
_CHECKSUM: Final = struct.Struct("<I")

# Where in a record its events begin.
GROUP_HEADER_BYTES: Final = _HEADER.size

Seen = TypeVar("Seen")
_CHECKSUM_OFFSET: Final = _HEADER.size - _CHECKSUM.size


class SequenceConflict(errors.Unavailable):
    """Somebody else has appended to the shard: this process no longer owns it."""

    def __init__(self, shard: int, expected_sequence: int, tail: int) -> None:
        super().__init__(
            "JOURNAL_UNAVAILABLE",
            f"journal shard {shard} ends at group {tail}, so group {expected_sequence} cannot be "
            "appended: another process writes to it",
        )


class Journal(Protocol):
    """An ordered, durable record of groups for each shard. Nothing may assume that it is local.

    A shard's groups are numbered from `FIRST_SEQUENCE` on, without a gap. All methods block, and
    raise `errors.Unavailable` when the storage does not answer and `errors.DataLoss` when it
    answers with something that was never written.
    """

    def append(self, shard: int, expected_sequence: int, record: bytes) -> None:
        """Makes `record` the group `expected_sequence` and returns once it is durable.

        Raises SequenceConflict, having written nothing, unless `expected_sequence` is the one
        after the tail. After any other exception it is unknown whether the record was written.
        """

    def head(self, shard: int) -> int:
        """The sequence of the oldest group kept; the one after the tail when none is."""

    def tail(self, shard: int) -> int:
        """The sequence of the newest group; 0 before the first one."""

    def read(self, shard: int, first: int, last: int) -> list[tuple[int, bytes]]:
        """The (sequence, record) pairs kept from `first` to `last`, both inclusive, in order."""

    def peek(self, shard: int, sequence: int, look: Callable[[memoryview], Seen]) -> Seen | None:
        """What `look` makes of the record of one group, which it may read until it returns; None
        when that group is not kept. Copies nothing, and does not verify what it shows: groups are
        verified when they are replayed."""

    def reading(self, shard: int) -> AbstractContextManager[Callable[[int], memoryview | None]]:
        """What `peek` shows of many groups, each by its number, as long as it is entered."""

    def replay(self, shard: int, first: int = FIRST_SEQUENCE) -> Iterator[tuple[int, bytes]]:
        """Yields the (sequence, record) pairs from `first` to the tail in order, a bounded number
        of them in memory at a time."""

    def trim(self, shard: int, before: int) -> None:
        """Drops all groups older than `before`, which may be at most one beyond the tail."""


class GroupSource(Protocol):
    """Where groups come from: the core."""

    def take_group(self) -> tuple[int, bytes, int] | None:
        """Everything appended since the last take as (group number, packed events, count of
        events), or None when there is nothing."""


class GroupWatch(Protocol):
    """Who is told of groups, in the journal's thread."""

    def group_written(self, event_count: int, duration_ns: int) -> None:
        """So many events have become durable together, and that took so long."""


class Writer(Protocol):
    """Who writes the groups that a committer hands over, one at a time, beside the event loop."""

    def write(
        self, append: Callable[[], None], settle: Callable[[BaseException | None], None]
    ) -> None:
        """Has `append` called away from the event loop, and then `settle` on it, given what that
        raised, if anything. Returns at once."""

    def close(self) -> None:
        """Lets go of what it writes with; nothing is being written when this is called."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group read back and verified."""

    sequence: int
    event_count: int
    events: bytes
    checksum: int


def encode_group(
    shard: int, sequence: int, event_count: int, events: bytes, previous_checksum: int
) -> tuple[bytes, int]:
    """Frames packed events as one record; returns it and its checksum, which the next one names."""
    header = bytearray(
        _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            shard,
            sequence,
            event_count,
            len(events),
            previous_checksum,
            0,
        )
    )
    checksum = zlib.crc32(events, zlib.crc32(header))
    _CHECKSUM.pack_into(header, _CHECKSUM_OFFSET, checksum)
    return bytes(header) + events, checksum


def decode_group(shard: int, sequence: int, record: bytes, previous_checksum: int | None) -> Group:
    """Verifies one record and takes it apart.

    `previous_checksum` is that of the group before, or None when that one is not kept. Raises
    DataLoss that names the group and what is wrong with it, and FailedPrecondition for a format
    that a newer version of this software wrote.
    """

    def damaged(what: str) -> errors.DataLoss:
        return errors.DataLoss(
            "JOURNAL_CORRUPT",
            f"journal shard {shard}, group {sequence}: {what}",
            metadata={"shard": str(shard), "group": str(sequence)},
        )

    if len(record) < _HEADER.size:
        raise damaged(f"{len(record)} bytes are too few for a header of {_HEADER.size}")
    magic, version, own_shard, own_sequence, event_count, size, previous, checksum = (
        _HEADER.unpack_from(record)
    )
    if magic != _MAGIC:
        raise damaged("it does not begin as a group does")
    header = bytearray(record[: _HEADER.size])
    _CHECKSUM.pack_into(header, _CHECKSUM_OFFSET, 0)
    events = record[_HEADER.size :]
    if zlib.crc32(events, zlib.crc32(header)) != checksum:
        raise damaged("its checksum does not match its bytes")
    if version != FORMAT_VERSION:
        raise errors.FailedPrecondition(
            "JOURNAL_FORMAT",
            f"journal shard {shard}, group {sequence} has format version {version}; this version "
            f"of limiter reads format version {FORMAT_VERSION}",
        )
    if size != len(events):
        raise damaged(f"it has {len(events)} bytes of events where its header says {size}")
    if (own_shard, own_sequence) != (shard, sequence):
        raise damaged(f"it was written as shard {own_shard}, group {own_sequence}")
    if previous_checksum is not None and previous != previous_checksum:
        raise damaged(f"it does not follow the group {sequence - 1} that is kept before it")
    return Group(sequence, event_count, events, checksum)


def read_groups(journal: Journal, shard: int, first: int = FIRST_SEQUENCE) -> Iterator[Group]:
    """Yields every kept group from `first` on in order, verified, with its place in the chain.

    Raises DataLoss at the first group that is missing or damaged, naming it.
    """
    expected = max(first, journal.head(shard))
    tail = journal.tail(shard)
    # Before the very first group the chain starts at 0; before a trimmed one it is not known.
    previous_checksum = 0 if expected == FIRST_SEQUENCE else None
    for sequence, record in journal.replay(shard, expected):
        if sequence != expected:
            raise _missing(shard, expected)
        group = decode_group(shard, sequence, record, previous_checksum)
        yield group
        previous_checksum = group.checksum
        expected += 1
    if expected <= tail:
        raise _missing(shard, expected)


def _missing(shard: int, sequence: int) -> errors.DataLoss:
    return errors.DataLoss(
        "JOURNAL_CORRUPT",
        f"journal shard {shard}, group {sequence} is missing",
        metadata={"shard": str(shard), "group": str(sequence)},
    )


class _GroupFuture(asyncio.Future[None]):
    """Settles with its group, and with nothing else.

    All callers of a group await this one object, and cancelling a task cancels what it awaits. So
    this refuses: the cancelled task stays until the group is settled and is cancelled then. (A
    future of its own or a shield for each call would do as well, at several times the cost.)
    """

    def cancel(self, msg: object = None) -> bool:
        return False


class _State(enum.Enum):
    IDLE = "idle"
    SCHEDULED = "scheduled"
    WRITING = "writing"
    FAILED = "failed"
    CLOSED = "closed"


_Settle = Callable[[BaseException | None], None]


class _WriterThread:
    """A thread that writes; satisfies `Writer`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._work: SimpleQueue[tuple[Callable[[], None], _Settle] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, append: Callable[[], None], settle: _Settle) -> None:
        self._work.put((append, settle))

    def close(self) -> None:
        self._work.put(None)
        # The thread is between two groups, so this returns at once.
        self._thread.join()

    def _run(self) -> None:
        """Writes and reports, one group at a time, until told to stop."""
        while (work := self._work.get()) is not None:
            append, settle = work
            fault: BaseException | None = None
            try:
                append()
            except BaseException as error:  # noqa: BLE001 - reported on the loop, whatever it is
                fault = error
            try:
                self._loop.call_soon_threadsafe(settle, fault)
            except RuntimeError:
                # The loop was closed without closing the committer: nobody is left to tell.
                return


class GroupCommitter:
    """Group commit of one shard: takes groups from a source, has one writer write them.

    All methods belong to the event loop's thread. `tail` is the sequence of the newest group in
    the journal (0 for none) and `tail_checksum` its checksum (0 for none). `on_failure` is called
    once, on the loop, with the fault that made the committer fail. `watch` is told of each group.
    Without a `writer` a thread of its own writes.
    """

    def __init__(
        self,
        journal: Journal,
        source: GroupSource,
        *,
        shard: int,
        tail: int,
        tail_checksum: int,
        on_failure: Callable[[errors.Unavailable], None],
        watch: GroupWatch | None = None,
        writer: Writer | None = None,
    ) -> None:
        self._journal = journal
        self._source = source
        self._shard = shard
        self._tail = tail
        self._tail_checksum = tail_checksum
        self._on_failure = on_failure
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._state = _State.IDLE
        self._failure: errors.Unavailable | None = None
        # Those who wait for the group being written, and for the one that is still pending.
        self._writing: _GroupFuture | None = None
        self._pending: _GroupFuture | None = None
        self.group_count = 0
        self.event_count = 0
        self._writer = writer or _WriterThread(self._loop, f"limiter-journal-{shard}")

    @property
    def tail(self) -> int:
        """The sequence of the newest group that is known to be durable; 0 for none."""
        return self._tail

    @property
    def failure(self) -> errors.Unavailable | None:
        """The fault that made the committer fail, or None while it works."""
        return self._failure

    def wait(self) -> asyncio.Future[None]:
        """A future that resolves once everything appended up to now is durable.

        It is shared, and settles even when the one who awaits it is cancelled. It raises
        Unavailable when the outcome is unknown; so does this method itself after a failure.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._state is _State.CLOSED:
            raise errors.Unavailable("DRAINING", "the journal is closed: the server is stopping")
        if self._pending is None:
            self._pending = _GroupFuture(loop=self._loop)
        if self._state is _State.IDLE:
            self._schedule()
        return self._pending

    def kick(self) -> None:
        """Has everything appended up to now written soon; nobody waits for it."""
        if self._state is _State.IDLE:
            self._schedule()

    async def close(self) -> None:
        """Writes everything that is pending and closes the writer. Idempotent.

        Raises Unavailable if that could not be written. The caller sees to it that nothing is
        appended any more.
        """
        if self._state is _State.CLOSED:
            return
        try:
            # A denial that nobody waits for may have been taken in the meantime.
            while self._failure is None and self._state is not _State.IDLE:
                await self.wait()
            if self._failure is None:
                await self.wait()
        finally:
            self._state = _State.CLOSED
            self._writer.close()

    def _schedule(self) -> None:
        self._state = _State.SCHEDULED
        self._loop.call_soon(self._take)

    def _take(self) -> None:
        """Hands the pending group to the writer; with nothing pending, all is durable already."""
        waiters, self._pending = self._pending, None
        number = self._tail + 1
        try:
            group = self._source.take_group()
            if group is not None and group[0] != number:
                raise AssertionError(f"group {group[0]} was offered")
        except Exception as fault:  # noqa: BLE001 - reported to the waiters, whatever it is
            self._fail(number, fault, waiters)
            return
        if group is None:
            self._state = _State.IDLE
            if waiters is not None:
                waiters.set_result(None)
            return
        self._state = _State.WRITING
        self._writing = waiters
        event_count = group[2]
        self._writer.write(
            partial(self._append, *group), partial(self._settle, number, event_count)
        )

    def _append(self, number: int, events: bytes, event_count: int) -> None:
        """Frames a group and appends it, in the writer's thread."""
        begun_ns = time.monotonic_ns()
        record, checksum = encode_group(
            self._shard, number, event_count, events, self._tail_checksum
        )
        self._journal.append(self._shard, number, record)
        # Read by the writer alone, except when it does not write.
        self._tail_checksum = checksum
        if self._watch is not None:
            self._watch.group_written(event_count, time.monotonic_ns() - begun_ns)

    def _settle(self, number: int, event_count: int, fault: BaseException | None) -> None:
        """A group is written, or its fate is unknown."""
        waiters, self._writing = self._writing, None
        if fault is not None:
            self._fail(number, fault, waiters)
            return
        self._tail = number
        self.group_count += 1
        self.event_count += event_count
        # The next group goes to the disk before this one's replies are made.
        self._take()
        if waiters is not None:
            waiters.set_result(None)

    def _fail(self, number: int, fault: BaseException, waiters: _GroupFuture | None) -> None:
        self._state = _State.FAILED
        failure = errors.Unavailable(
            "JOURNAL_UNAVAILABLE",
            f"journal group {number} could not be written ({fault}); whether what it holds was "
            "counted is unknown, so repeat the request with the same request_id",
        )
        failure.__cause__ = fault
        self._failure = failure
        pending, self._pending = self._pending, None
        for future in (waiters, pending):
            if future is not None:
                future.set_exception(failure)
                # Somebody who waited may be gone: that is no reason for a warning.
                future.exception()
        self._on_failure(failure)
