"""The journal's horizon: what lies before it is let go.

What flows in: the present instant, and up to which group nobody needs the journal any more. What
flows out: a shorter journal. The horizon is a time, and a size: what is older goes, and, where the
journal has grown beyond its share of its quota, what is oldest.
"""

from __future__ import annotations

from typing import Final

from limiter import bounds
from limiter.history import History
from limiter.journal import FIRST_SEQUENCE, Journal

__all__ = ["Trimming"]

# Groups that are let go in one transaction, so that the next group of the journal waits little.
_GROUPS_AT_ONCE: Final = 64

# Above this share of its quota the journal lets go of its oldest groups, down to the other one.
_FULL: Final = 0.8
_SPARE: Final = 0.6

# Groups that are looked at to tell how large one is.
_SAMPLES: Final = 64


class Trimming:
    """Trims the journal of one shard to `horizon_ms`, and to a share of `quota_bytes`."""

    def __init__(
        self, journal: Journal, shard: int, history: History, horizon_ms: int, quota_bytes: int
    ) -> None:
        self._journal = journal
        self._shard = shard
        self._history = history
        self._horizon_ms = horizon_ms
        self._quota_bytes = quota_bytes
        self._next_ms = 0

    @property
    def head(self) -> int:
        """The oldest group that is kept."""
        return self._journal.head(self._shard)

    def is_due(self, now_ms: int) -> bool:
        """Whether it is time to look again: once in a sixteenth of the horizon, at most a day, or
        as soon as the journal has grown too large."""
        is_full = self.kept_bytes() >= _FULL * self._quota_bytes
        if now_ms < self._next_ms and not is_full:
            return False
        self._next_ms = now_ms + min(self._horizon_ms // 16, bounds.DAY_MS)
        head_ms = self._history.instant_of(self.head)
        return is_full or (head_ms is not None and head_ms < now_ms - self._horizon_ms)

    def kept_bytes(self) -> int:
        """About how much the kept groups take on the disk."""
        head, tail = self.head, self._journal.tail(self._shard)
        count = tail - head + 1
        if count <= 0:
            return 0
        step = max(count // _SAMPLES, 1)
        sizes = [
            self._journal.peek(self._shard, number, len) or 0
            for number in range(head, tail + 1, step)
        ]
        return count * (sum(sizes) // len(sizes) + bounds.JOURNAL_GROUP_OVERHEAD_BYTES)

    def target(self, now_ms: int, through: int) -> int:
        """The first group that is to be kept; those up to `through` are needed by nobody. The last
        of them is kept, for the next one names its checksum."""
        head = self.head
        before = self._first_since(now_ms - self._horizon_ms, head, through)
        kept_bytes = self.kept_bytes()
        if kept_bytes >= _FULL * self._quota_bytes:
            count = self._journal.tail(self._shard) - head + 1
            surplus = int(count * (1 - _SPARE * self._quota_bytes / kept_bytes))
            before = max(before, head + surplus)
        return max(FIRST_SEQUENCE, head, min(before, through))

    def step(self, before: int) -> bool:
        """Lets go of some groups before one; whether more are left."""
        head = self.head
        if head >= before:
            return False
        self._journal.trim(self._shard, min(before, head + _GROUPS_AT_ONCE))
        return True

    def _first_since(self, since_ms: int, first: int, last: int) -> int:
        """The first of some groups that has events of that instant or later; the one behind the
        last if none has. Instants do not go back from one group to the next."""
        while first <= last:
            middle = (first + last) // 2
            instant_ms = self._history.instant_of(middle)
            if instant_ms is not None and instant_ms >= since_ms:
                last = middle - 1
            else:
                first = middle + 1
        return first
