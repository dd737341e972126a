"""What policies were: the versions that each change made, as long as there is room.

In flow the changes of policies in the order in which they are journalled, at a start and while
serving alike; out flow the versions of one policy, the newest first. What always holds: of one
policy `bounds.POLICY_VERSIONS_MAX` versions are kept at most, and of all together
`bounds.POLICY_VERSIONS_BYTES_MAX`; the oldest go first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from limiter import bounds

__all__ = ["PolicyVersions", "Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """A policy as a revision made it: its message in bytes, or none where it was deleted."""

    name: str
    revision: int
    time_ms: int
    author: str
    message: bytes | None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.message or b"") + len(self.name) + len(self.author)


class PolicyVersions:
    """The versions that are kept."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Version]] = {}
        # All of them, the oldest first; some have been dropped from `_of` already.
        self._all: deque[Version] = deque()
        self._size = 0

    def note(self, version: Version) -> None:
        """Adds the newest version of a policy."""
        own = self._of.setdefault(version.name, deque())
        own.append(version)
        self._all.append(version)
        self._size += version.size
        if len(own) > bounds.POLICY_VERSIONS_MAX:
            self._size -= own.popleft().size
        while self._size > bounds.POLICY_VERSIONS_BYTES_MAX or self._is_ragged():
            self._drop_oldest()

    def of(self, name: str) -> list[Version]:
        """The versions of a policy, the newest first."""
        return list(reversed(self._of.get(name, ())))

    def find(self, name: str, revision: int) -> Version | None:
        """The version that a revision made."""
        return next((each for each in self._of.get(name, ()) if each.revision == revision), None)

    def _is_ragged(self) -> bool:
        """Whether the oldest of all is one that was dropped already."""
        own = self._of.get(self._all[0].name)
        return not own or own[0] is not self._all[0]

    def _drop_oldest(self) -> None:
        oldest = self._all.popleft()
        own = self._of.get(oldest.name)
        if own and own[0] is oldest:
            own.popleft()
            self._size -= oldest.size
            if not own:
                del self._of[oldest.name]
