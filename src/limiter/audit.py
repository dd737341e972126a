"""The record of who changed what, and when: as long as it can be, and only ever longer.

In flow changes in the order in which they are journalled, at a start and while serving alike; out
flow the newest entries that a filter lets through. What always holds: entries are numbered without
a gap and never change; beyond `bounds.AUDIT_ENTRIES_MAX` the oldest are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from limiter import access, bounds

__all__ = ["Action", "AuditLog", "Entry", "Filter"]


class Action(IntEnum):
    """What was done to a resource."""

    CREATE = 1
    UPDATE = 2
    DELETE = 3
    REVOKE = 4
    FORGET = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of one resource."""

    sequence: int
    time_ms: int
    author: str
    action: Action
    resource: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries somebody wants to see, and may. Empty texts let all through, as None does."""

    caller: access.Caller
    account: str = ""
    resource: str = ""
    author: str = ""
    start_ms: int | None = None
    end_ms: int | None = None

    def admits(self, entry: Entry) -> bool:
        """Whether the entry is among them."""
        return (
            (not self.resource or entry.resource == self.resource)
            and (not self.author or entry.author == self.author)
            and (self.start_ms is None or entry.time_ms >= self.start_ms)
            and (self.end_ms is None or entry.time_ms < self.end_ms)
            and (not self.account or self._account_of(entry.resource) == self.account)
            and self._may_see(entry.resource)
        )

    @staticmethod
    def _account_of(resource: str) -> str:
        return resource.split("/")[1] if resource.startswith("accounts/") else ""

    def _may_see(self, resource: str) -> bool:
        collection, _, rest = resource.partition("/")
        if collection == "accounts":
            return self.caller.reaches(rest.partition("/")[0])
        if collection == "apiKeys":
            return (
                self.caller.accounts is None
                and access.Permission.ACCESS_WRITE in self.caller.permissions
            )
        return True


class AuditLog:
    """The entries that are kept."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._first = 1

    def note(self, time_ms: int, author: str, action: Action, resource: str) -> None:
        """Adds an entry."""
        sequence = self._first + len(self._entries)
        self._entries.append(Entry(sequence, time_ms, author, action, resource))
        if len(self._entries) > bounds.AUDIT_ENTRIES_MAX + bounds.AUDIT_ENTRIES_MAX // 8:
            # Several at once: to forget one of many costs as much as to forget all of these.
            gone = len(self._entries) - bounds.AUDIT_ENTRIES_MAX
            del self._entries[:gone]
            self._first += gone

    def newest_before(self, sequence: int | None) -> Iterator[Entry]:
        """Entries from the newest on, or from the one before that number on, to the oldest. Stays
        valid while entries are added."""
        number = self._first + len(self._entries) if sequence is None else sequence
        while (number := number - 1) >= self._first:
            index = number - self._first
            if index < len(self._entries):
                yield self._entries[index]
