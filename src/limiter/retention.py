"""Which kinds of counter are kept, for whom, and since when.

In flow the changes in how often assignments use a kind, revision by revision; out flow the kinds
that an account keeps. A kind is kept for a scope, which is one account or every account, from the
revision that first uses it. When no assignment of the scope uses it any more it is retained, and
goes on counting, until its window has passed; the first revision after that drops it.

What always holds: everything follows from the revisions and their instants alone. As long as an
account keeps a kind without a break, by its own assignments or by everybody's, the instant from
which it has counted there stays the same; a kind that was dropped and comes back starts later than
before.

A change is worked out first (`preview`, which may fail and changes nothing) and made afterwards
(`install`, which cannot fail).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Final, TypeAlias

from limiter import bounds, errors
from limiter._kinds import Kind

# The scope of the kinds that are kept for every account; no account has an empty id.
EVERYBODY: Final = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kind as kept for one scope."""

    kind: Kind
    longest_ms: int  # no send stays inside the window for longer
    use_count: int  # assignments of the scope whose policy has a limit of this kind
    since_ms: int  # counted from this instant on
    idle_ms: int | None  # the instant from which nothing has used it; None while it is used

    @property
    def expire_ms(self) -> int | None:
        """From when on it may be dropped; None while it is used."""
        return None if self.idle_ms is None else self.idle_ms + self.longest_ms


# By how much the use of a kind changes, with the longest time that its window may last.
UseChanges: TypeAlias = dict[str, dict[Kind, tuple[int, int]]]

# Where a kind is kept: the scope and the kind's definition.
_Place: TypeAlias = tuple[str, bytes]


@dataclass(slots=True)
class Preview:
    """What one revision will change: `places` holds what is kept afterwards, None for what is
    dropped."""

    places: dict[_Place, Kept | None] = field(default_factory=dict)
    due_count: int = 0
    parked: list[_Place] = field(default_factory=list)


class KeptKinds:
    """The kinds that are kept, by scope and definition."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[bytes, Kept]] = {}
        # What may be dropped and when, in that order; entries of kinds that are used again by then
        # are stale and passed over.
        self._due: list[tuple[int, str, bytes]] = []
        # Kinds of accounts that could be dropped but for everybody keeping them too, by definition.
        self._parked: dict[bytes, set[str]] = {}

    def keeps(self, account: str) -> bool:
        """Whether the account keeps kinds of its own."""
        return account in self._scopes

    def of_account(self, account: str) -> list[tuple[Kind, int]]:
        """The kinds that the account keeps, its own and everybody's, in the order of their
        definitions, each with the instant from which it is counted."""
        everybody = self._scopes.get(EVERYBODY, {})
        own = self._scopes.get(account, {}) if account else {}
        # Where both keep a kind, the account's own instant is the earlier one.
        kept = everybody | own
        return [(kept[definition].kind, kept[definition].since_ms) for definition in sorted(kept)]

    def preview(self, changes: UseChanges, now_ms: int) -> Preview:
        """What follows from `changes` made at `now_ms`. Changes nothing."""
        preview = Preview()
        for account, kinds in changes.items():
            for kind, (delta, longest_ms) in kinds.items():
                if delta:
                    place = (account, kind.definition)
                    preview.places[place] = self._used(account, kind, delta, longest_ms, now_ms)
        preview.due_count = bisect_right(self._due, now_ms, key=itemgetter(0))
        due = [(account, definition) for _, account, definition in self._due[: preview.due_count]]
        # Everybody's first: whether an account's own is still needed hangs on them.
        for place in due:
            if place[0] == EVERYBODY and self._expired(preview, place, now_ms):
                preview.places[place] = None
        for place in [*due, *self._unparked(preview)]:
            if place[0] != EVERYBODY and self._expired(preview, place, now_ms):
                if self._after(preview, (EVERYBODY, place[1])) is None:
                    preview.places[place] = None
                else:
                    preview.parked.append(place)
        return preview

    def check(self, preview: Preview) -> None:
        """Raises `ResourceExhausted` if some account would keep too many kinds."""
        added = {
            place[0]
            for place, kept in preview.places.items()
            if kept is not None and self._before(place) is None
        }
        if not added:
            return
        changed_of: dict[str, dict[bytes, Kept | None]] = {}
        for (account, definition), kept in preview.places.items():
            changed_of.setdefault(account, {})[definition] = kept
        everybody = self._kept_after(EVERYBODY, changed_of)
        self._check_room(EVERYBODY, everybody.values())
        accounts: Iterable[str] = added
        if EVERYBODY in added:
            accounts = self._scopes.keys() | changed_of.keys()
        for account in sorted(accounts):
            own = self._kept_after(account, changed_of)
            if len(everybody) + len(own) > bounds.KINDS_MAX:
                self._check_room(account, (everybody | own).values())

    def install(self, preview: Preview) -> set[str]:
        """Makes it so; returns the scopes in which kinds were added or dropped."""
        changed: set[str] = set()
        del self._due[: preview.due_count]
        for account, definition in preview.parked:
            self._parked.setdefault(definition, set()).add(account)
        for (account, definition), kept in preview.places.items():
            scope = self._scopes.setdefault(account, {})
            if (kept is None) != (definition not in scope):
                changed.add(account)
            if kept is None:
                scope.pop(definition, None)
                if account == EVERYBODY:
                    self._parked.pop(definition, None)
            else:
                scope[definition] = kept
                if kept.expire_ms is not None:
                    insort(self._due, (kept.expire_ms, account, definition))
            if not scope:
                del self._scopes[account]
        return changed

    def _used(
        self, account: str, kind: Kind, delta: int, longest_ms: int, now_ms: int
    ) -> Kept | None:
        kept = self._before((account, kind.definition))
        if kept is None:
            everybody = self._before((EVERYBODY, kind.definition))
            since_ms = now_ms if everybody is None else everybody.since_ms
            kept = Kept(kind, longest_ms, 0, since_ms, None)
        use_count = kept.use_count + delta
        if use_count < 0:
            raise AssertionError("a kind of counter is used less often than never")
        return replace(kept, use_count=use_count, idle_ms=None if use_count else now_ms)

    def _before(self, place: _Place) -> Kept | None:
        account, definition = place
        return self._scopes.get(account, {}).get(definition)

    def _after(self, preview: Preview, place: _Place) -> Kept | None:
        return preview.places[place] if place in preview.places else self._before(place)

    def _expired(self, preview: Preview, place: _Place, now_ms: int) -> bool:
        kept = self._after(preview, place)
        return kept is not None and kept.expire_ms is not None and kept.expire_ms <= now_ms

    def _unparked(self, preview: Preview) -> Iterator[_Place]:
        for (account, definition), kept in list(preview.places.items()):
            if account == EVERYBODY and kept is None:
                for parked in sorted(self._parked.get(definition, ())):
                    yield (parked, definition)

    def _kept_after(
        self, account: str, changed_of: Mapping[str, Mapping[bytes, Kept | None]]
    ) -> dict[bytes, Kept]:
        kept = self._scopes.get(account, {})
        if account not in changed_of:
            return kept
        kept = dict(kept)
        for definition, changed in changed_of[account].items():
            if changed is None:
                kept.pop(definition, None)
            else:
                kept[definition] = changed
        return kept

    def _check_room(self, account: str, kept: Iterable[Kept]) -> None:
        all_kept = list(kept)
        if len(all_kept) <= bounds.KINDS_MAX:
            return
        idle_count = sum(each.idle_ms is not None for each in all_kept)
        whose = f"account {account!r}" if account else "every account"
        raise errors.ResourceExhausted(
            "TOO_MANY_KINDS",
            f"{whose} would keep {len(all_kept)} kinds of counter, and at most {bounds.KINDS_MAX}"
            f" are kept; {idle_count} of them are no longer used and kept until their window has"
            " passed. Limits of equal measure, per, window and counts share one: use fewer"
            " different ones",
            metadata={"account": account, "kind_count": str(len(all_kept))},
        )
