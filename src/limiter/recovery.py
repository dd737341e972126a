"""From the journal to the state that it records: a restart changes nothing.

What flows in: the groups on disk, behind those that a baseline knows. What flows out: a core (and,
through it, the policies) that stand where the last durable group left them, and the point at which
group commit goes on.

What always holds: groups are applied in order, each once and whole, and only after its checksum,
its place in the chain and its count of events have been verified. The first thing that does not fit
ends the recovery with DataLoss that names the group: a history with a hole would forget sends, and
a cap that forgets is no cap. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from limiter import errors
from limiter.journal import FIRST_SEQUENCE, Group, Journal, read_groups

__all__ = ["OnRevision", "Progress", "Recovered", "Replayer", "recover"]

# Told the payload of a policy revision and its instant in milliseconds.
OnRevision = Callable[[bytes, int], None]


class Replayer(Protocol):
    """What is rebuilt: the core, or one that stands at a baseline."""

    def replay(self, group_number: int, events: bytes, on_revision: OnRevision) -> int:
        """Applies one group and returns its number of events."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recovery has come."""

    group_count: int
    group_total: int
    event_count: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the journal ends: group commit goes on after it.

    `tail` is the sequence of the last group, 0 for none, `tail_checksum` its checksum.
    """

    tail: int
    tail_checksum: int
    group_count: int
    event_count: int


def recover(
    journal: Journal,
    shard: int,
    core: Replayer,
    on_revision: OnRevision,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    first: int = FIRST_SEQUENCE,
    last: int | None = None,
) -> Recovered:
    """Replays a shard's groups into `core`, from the group `first` on and up to `last` or the end,
    and says where they end.

    Blocks, so run it in a thread of its own when others are to run meanwhile. `on_revision` is
    called for each policy revision, in order, between the events before and after it; `on_progress`
    after each group, and what it raises ends the recovery. Raises DataLoss at the first group that
    is missing, damaged, or does not hold what it says, and where the journal ends before `first`.
    """
    tail = journal.tail(shard) if last is None else last
    if first > max(tail, FIRST_SEQUENCE - 1) + 1:
        raise errors.DataLoss(
            "IMAGE_AHEAD",
            f"journal shard {shard} ends at group {tail}, but the images beside it know group "
            f"{first - 1}: restore both from one backup",
        )
    group_total = tail - max(first, journal.head(shard)) + 1
    checksum = group_count = event_count = 0
    # The last one that is known already gives the checksum that the next one names.
    for group in read_groups(journal, shard, first - 1):
        if group.sequence > tail:
            break
        checksum = group.checksum
        if group.sequence < first:
            continue
        _apply(shard, group, core, on_revision)
        group_count += 1
        event_count += group.event_count
        if on_progress is not None:
            on_progress(Progress(group_count, group_total, event_count))
    return Recovered(tail, checksum, group_count, event_count)


def _apply(shard: int, group: Group, core: Replayer, on_revision: OnRevision) -> None:
    where = f"journal shard {shard}, group {group.sequence}"
    metadata = {"shard": str(shard), "group": str(group.sequence)}
    try:
        event_count = core.replay(group.sequence, group.events, on_revision)
    except errors.FailedPrecondition:
        # A format of a newer version: not damage.
        raise
    except Exception as error:
        raise errors.DataLoss(
            "JOURNAL_CORRUPT", f"{where}: its events cannot be applied: {error}", metadata=metadata
        ) from error
    if event_count != group.event_count:
        raise errors.DataLoss(
            "JOURNAL_CORRUPT",
            f"{where}: it holds {event_count} events where its header says {group.event_count}",
            metadata=metadata,
        )
