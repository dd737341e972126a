"""Which kinds of counter are kept, for whom, and since when.

In flow the changes in how often assignments use a kind, revision by revision; out flow the kinds
that an account keeps. A kind is kept for a scope, which is one account or every account, from the
revision that first uses it. When no assignment of the scope uses it any more it is retained, and
goes on counting, until its window has passed; the first revision after that drops it.

What always holds: everything follows from the revisions and their instants alone. As long as an
account keeps a kind without a break, by its own assignments or by everybody's, the instant from
which it is kept there stays the same. What a kind counts does not hang on that instant: a counter
that is new is filled from the journal.

A change is worked out first (`preview`, which may fail and changes nothing) and made afterwards
(`install`, which cannot fail).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from limiter import bounds, errors
from limiter._kinds import Kind

# The scope of the kinds that are kept for every account; no account has an empty id.
EVERYBODY: Final = ""


class Kept(NamedTuple):
    """One kind as kept for one scope; a tuple, for one edit may make very many of them."""

    kind: Kind
    longest_ms: int  # no send stays inside the window for longer
    use_count: int  # assignments of the scope whose policy has a limit of this kind
    since_ms: int  # kept from this instant on
    idle_ms: int | None  # the instant from which nothing has used it; None while it is used

    def expired(self, now_ms: int) -> bool:
        """Whether it may be dropped."""
        return self.idle_ms is not None and self.idle_ms + self.longest_ms <= now_ms


@dataclass(slots=True)
class Use:
    """By how much the use of one kind changes, by scope. `longest_ms` is the longest time for which
    a send may be inside the kind's window."""

    kind: Kind
    longest_ms: int
    delta_of: dict[str, int] = field(default_factory=dict)

    def add(self, scope: str, delta: int) -> None:
        """Adds to what is there already."""
        self.delta_of[scope] = self.delta_of.get(scope, 0) + delta


# By the definition of the kind.
UseChanges: TypeAlias = dict[bytes, Use]

# A kind that may be dropped: when, from which scope, which definition.
_Due: TypeAlias = tuple[int, str, bytes]


@dataclass(slots=True)
class Preview:
    """What one revision will change: by scope and definition what is kept afterwards, None for what
    is dropped."""

    scopes: dict[str, dict[bytes, Kept | None]] = field(default_factory=dict)
    due: list[_Due] = field(default_factory=list)
    due_count: int = 0
    parked: list[tuple[str, bytes]] = field(default_factory=list)
    grown: set[str] = field(default_factory=set)


class KeptKinds:
    """The kinds that are kept, by scope and definition."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[bytes, Kept]] = {}
        # What may be dropped, in the order of time; entries of kinds that are used again by then
        # are stale and passed over.
        self._due: list[_Due] = []
        # The accounts that could drop a kind but for everybody keeping it too, by definition.
        self._parked: dict[bytes, set[str]] = {}

    def keeps(self, account: str) -> bool:
        """Whether the account keeps kinds of its own."""
        return account in self._scopes

    def of_account(self, account: str) -> list[tuple[Kind, int]]:
        """The kinds that the account keeps, its own and everybody's, in the order of their
        definitions, each with the instant from which it is kept."""
        everybody = self._scopes.get(EVERYBODY, {})
        own = self._scopes.get(account, {}) if account else {}
        # Where both keep a kind, the account's own instant is the earlier one.
        kept = everybody | own
        return [(kept[definition].kind, kept[definition].since_ms) for definition in sorted(kept)]

    def preview(self, uses: UseChanges, now_ms: int) -> Preview:
        """What follows from a change of use made at `now_ms`. Changes nothing."""
        preview = Preview()
        for definition, use in uses.items():
            self._preview_use(preview, definition, use, now_ms)
        preview.due_count = bisect_right(self._due, now_ms, key=itemgetter(0))
        due = [(scope, definition) for _, scope, definition in self._due[: preview.due_count]]
        # Everybody's first: whether an account's own is still needed hangs on them.
        for scope, definition in due:
            if scope == EVERYBODY and self._expired(preview, scope, definition, now_ms):
                preview.scopes.setdefault(scope, {})[definition] = None
        for scope, definition in [*due, *self._unparked(preview)]:
            if scope == EVERYBODY or not self._expired(preview, scope, definition, now_ms):
                continue
            if self._after(preview, EVERYBODY, definition) is None:
                preview.scopes.setdefault(scope, {})[definition] = None
            else:
                preview.parked.append((scope, definition))
        return preview

    def check(self, preview: Preview) -> None:
        """Raises `ResourceExhausted` if some account would keep too many kinds."""
        if not preview.grown:
            return
        everybody = self._all_after(preview, EVERYBODY)
        _check_room(EVERYBODY, everybody)
        accounts: Iterable[str] = preview.grown
        if EVERYBODY in preview.grown:
            accounts = self._scopes.keys() | preview.scopes.keys()
        room = bounds.KINDS_MAX - len(everybody)
        for account in accounts:
            if account == EVERYBODY:
                continue
            # More than there will be, if anything: what is dropped is not taken off.
            changed = preview.scopes.get(account, {})
            if len(self._scopes.get(account, {})) + len(changed) > room:
                _check_room(account, everybody | self._all_after(preview, account))

    def check_history(self, preview: Preview, begins_ms: int, now_ms: int) -> None:
        """Raises `FailedPrecondition` if a kind would begin whose window reaches further back than
        the journal, which begins at `begins_ms`."""
        for scope in sorted(preview.grown):
            for definition, kept in preview.scopes[scope].items():
                if kept is None or definition in self._scopes.get(scope, {}):
                    continue
                if kept.since_ms == now_ms and now_ms - kept.longest_ms < begins_ms:
                    raise _partial_history(scope, kept, begins_ms, now_ms)

    def install(self, preview: Preview) -> set[str]:
        """Makes it so; returns the scopes in which kinds were added or dropped."""
        del self._due[: preview.due_count]
        self._due += preview.due
        self._due.sort()
        for account, definition in preview.parked:
            self._parked.setdefault(definition, set()).add(account)
        touched = set(preview.grown)
        for scope, changed in preview.scopes.items():
            kept_here = self._scopes.setdefault(scope, {})
            for definition, kept in changed.items():
                if kept is not None:
                    kept_here[definition] = kept
                    continue
                del kept_here[definition]
                touched.add(scope)
                if scope == EVERYBODY:
                    self._parked.pop(definition, None)
            if not kept_here:
                del self._scopes[scope]
        return touched

    def _preview_use(self, preview: Preview, definition: bytes, use: Use, now_ms: int) -> None:
        everybody = self._scopes.get(EVERYBODY, {}).get(definition)
        # Where everybody keeps the kind already, it has been kept in the account since then.
        since_ms = now_ms if everybody is None else everybody.since_ms
        fresh = Kept(use.kind, use.longest_ms, 0, since_ms, None)
        expire_ms = now_ms + use.longest_ms
        for scope, delta in use.delta_of.items():
            if delta == 0:
                continue
            kept = self._scopes.get(scope, {}).get(definition)
            if kept is None:
                kept = fresh
                preview.grown.add(scope)
            kind, longest_ms, use_count, kept_since_ms, _ = kept
            use_count += delta
            if use_count < 0:
                raise AssertionError("a kind of counter is used less often than never")
            idle_ms = None if use_count else now_ms
            if idle_ms is not None:
                preview.due.append((expire_ms, scope, definition))
            preview.scopes.setdefault(scope, {})[definition] = Kept(
                kind, longest_ms, use_count, kept_since_ms, idle_ms
            )

    def _after(self, preview: Preview, scope: str, definition: bytes) -> Kept | None:
        changed = preview.scopes.get(scope, {})
        if definition in changed:
            return changed[definition]
        return self._scopes.get(scope, {}).get(definition)

    def _expired(self, preview: Preview, scope: str, definition: bytes, now_ms: int) -> bool:
        kept = self._after(preview, scope, definition)
        return kept is not None and kept.expired(now_ms)

    def _unparked(self, preview: Preview) -> Iterator[tuple[str, bytes]]:
        for definition, kept in preview.scopes.get(EVERYBODY, {}).items():
            if kept is None:
                for account in sorted(self._parked.get(definition, ())):
                    yield account, definition

    def _all_after(self, preview: Preview, scope: str) -> dict[bytes, Kept]:
        after: Mapping[bytes, Kept | None] = {
            **self._scopes.get(scope, {}),
            **preview.scopes.get(scope, {}),
        }
        return {definition: kept for definition, kept in after.items() if kept is not None}


def _partial_history(
    scope: str, kept: Kept, begins_ms: int, now_ms: int
) -> errors.FailedPrecondition:
    whose = f"account {scope!r}" if scope else "every account"
    reach_days = kept.longest_ms / bounds.DAY_MS
    kept_days = (now_ms - begins_ms) / bounds.DAY_MS
    return errors.FailedPrecondition(
        "PARTIAL_HISTORY",
        f"a limit that is new for {whose} looks back over {reach_days:.3g} days, and the journal"
        f" over {kept_days:.3g}: its counter would begin incomplete. Set allow_partial_history to"
        " have it begin with what there is (its status then says since when, counted_since_time),"
        " or choose a shorter window",
        metadata={"account": scope, "window_ms": str(kept.longest_ms)},
    )


def _check_room(account: str, kept: Mapping[bytes, Kept]) -> None:
    if len(kept) <= bounds.KINDS_MAX:
        return
    idle_count = sum(each.idle_ms is not None for each in kept.values())
    whose = f"account {account!r}" if account else "every account"
    raise errors.ResourceExhausted(
        "TOO_MANY_KINDS",
        f"{whose} would keep {len(kept)} kinds of counter, and at most {bounds.KINDS_MAX} are kept;"
        f" {idle_count} of them are no longer used and kept until their window has passed. Limits"
        " of equal measure, per, window and counts share one: use fewer different ones",
        metadata={"account": account, "kind_count": str(len(kept))},
    )
