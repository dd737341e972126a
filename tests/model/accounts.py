"""Everything that has happened in one account, and what its counters make of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from tests.model.limits import EXACT_ENTRIES, MESSAGES, RUN, Entry, Fields, Kind, Message
from tests.model.windows import Rolling

INLINE_KINDS_MAX = 16


class Refused(Exception):
    """The request has no answer. `reason` is that of the ErrorInfo; the reply names one of
    `fields`, if there are any."""

    def __init__(self, reason: str, fields: set[str]) -> None:
        super().__init__(reason, fields)
        self.reason = reason
        self.fields = fields

    @property
    def code(self) -> str:
        codes = {
            "TOO_MANY_KINDS": "RESOURCE_EXHAUSTED",
            "COMMIT_UNDONE": "FAILED_PRECONDITION",
            "COMMIT_NOT_FOUND": "NOT_FOUND",
        }
        return codes.get(self.reason, "INVALID_ARGUMENT")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a request id stands for once its attempt was allowed."""

    payload: bytes
    at_ms: int
    account_sequence: int


@dataclass(slots=True)
class Account:
    """Everything that has happened in one account. A counter counts all of it, however late its
    kind came; `kinds` are those that take up room."""

    kinds: set[Kind]
    messages: list[Message] = field(default_factory=list)
    remembered: dict[tuple[str, ...], Remembered] = field(default_factory=dict)
    # The kinds that inline limits have brought, in their places, and when each was used last.
    inline: dict[int, Kind] = field(default_factory=dict)
    inline_used_ms: dict[Kind, int] = field(default_factory=dict)
    # What `entries` has sorted out so far: only to save time.
    sorted_out: dict[Kind, SortedOut] = field(default_factory=dict)

    def keep_inline(self, kinds: Sequence[Kind], assigned: Collection[Kind], now_ms: int) -> None:
        """Inline limits are used whose kinds are to be kept from now on, or none of them. There is
        room for so many, and one that was not used for its window makes room for another."""
        fresh = [kind for kind in dict.fromkeys(kinds) if kind not in self.kinds]
        free = [place for place in range(INLINE_KINDS_MAX) if place not in self.inline]
        idle = [
            place
            for place, kind in sorted(self.inline.items())
            if kind not in kinds and not kind.window.inside(self.inline_used_ms[kind], now_ms)
        ]
        if len(fresh) > len(free) + len(idle):
            raise Refused("TOO_MANY_KINDS", set())
        for kind, place in zip(fresh, [*free, *idle], strict=False):
            gone = self.inline.get(place)
            if gone is not None and gone not in assigned:
                self.kinds.remove(gone)
            self.inline[place] = kind
            self.kinds.add(kind)
        for kind in kinds:
            self.inline_used_ms[kind] = now_ms

    def change(self, sequence: int, message: Message) -> None:
        """Something becomes of a commit after it was decided."""
        self.messages[sequence - 1] = message
        self.sorted_out.clear()

    def entries(self, kind: Kind, fields: Fields, later: Later, now_ms: int) -> list[Entry]:
        """What is left at now_ms in the counter selected by `fields`, oldest first."""
        key = kind.key(fields)
        assert key is not None
        counted: list[Entry] = []
        pasts = [(self.sorted_out, self.messages)]
        if later.messages:
            pasts.append((later.sorted_out, later.messages))
        for past, messages in pasts:
            sorted_out = past.setdefault(kind, SortedOut())
            sorted_out.catch_up(kind, messages)
            counted += sorted_out.by_key.get(key, ())
        counted.sort(key=lambda entry: entry.at_ms)
        if kind.measure == MESSAGES and isinstance(kind.window, Rolling):
            # One less than are kept exactly, for the attempt itself may become the newest.
            bucket_ms = -(-kind.window.duration_ms // EXACT_ENTRIES)
            older = max(0, len(counted) - (EXACT_ENTRIES - 1))
            counted[:older] = [
                replace(entry, late_exit_ms=entry.exit_ms + bucket_ms) for entry in counted[:older]
            ]
        if kind.measure == RUN:
            # What went before may be part of the run, however long ago.
            return counted
        return [entry for entry in counted if entry.late_exit_ms > now_ms]


@dataclass(slots=True)
class SortedOut:
    """The first so many messages of an account, by the counters of one kind that count them."""

    message_count: int = 0
    by_key: dict[tuple[str, ...], list[Entry]] = field(default_factory=dict)

    def catch_up(self, kind: Kind, messages: Sequence[Message]) -> None:
        for message in messages[self.message_count :]:
            key = counts_under(kind, message)
            if key is not None:
                self.by_key.setdefault(key, []).append(entry_of(kind, message))
        self.message_count = len(messages)


@dataclass(slots=True)
class Later:
    """Messages that are counted for the sake of argument, after all that really were."""

    messages: list[Message] = field(default_factory=list)
    sorted_out: dict[Kind, SortedOut] = field(default_factory=dict)


# No such messages. It stays empty.
NOTHING = Later()


def counts_under(kind: Kind, message: Message) -> tuple[str, ...] | None:
    """Under which key a message is counted, if it is."""
    if message.cancelled:
        return None
    if message.decided_ms and kind.window.exit_ms(message.at_ms) <= message.decided_ms:
        # It was recorded too late for any window of this kind.
        return None
    if not kind.counts_message(message.fields):
        return None
    return kind.key(message.fields)


def entry_of(kind: Kind, message: Message) -> Entry:
    exit_ms = kind.window.exit_ms(message.at_ms)
    if message.lapse_ms is not None:
        exit_ms = min(exit_ms, message.lapse_ms)
    member = kind.member(message.fields)
    assert member is not None
    return Entry(message.at_ms, exit_ms, exit_ms, message.message_count, member, message.lapse_ms)
