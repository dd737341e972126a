"""By how much a change of policies, assignments or accounts changes the use of each kind.

In flow compiled policies that come and go, scope by scope; out flow the changes that
`limiter.retention` works out what is kept from. A policy that is assigned to everything is used by
every account in UTC, and where it names the zone `ACCOUNT` also by each account that lives
elsewhere, in its own zone: so an account can move without any other noticing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from limiter import zones
from limiter._kinds import Kind
from limiter.resolution import PolicyInZones
from limiter.retention import EVERYBODY, Use, UseChanges

__all__ = ["UseCount"]

_Kinds = Mapping[Kind, int]
_NOTHING: _Kinds = {}


class UseCount:
    """Counts into `changes`. `account_zones` are the zones of the accounts that do not live in UTC,
    by id."""

    def __init__(self, account_zones: Mapping[str, str]) -> None:
        self.changes: UseChanges = {}
        self._zones = account_zones
        # What is found out once for many users of the same policies.
        self._before: PolicyInZones | None = None
        self._after: PolicyInZones | None = None
        self._differences: dict[tuple[str, bool], tuple[_Kinds, _Kinds]] = {}

    def exchange(
        self, before: PolicyInZones | None, after: PolicyInZones | None, account: str, count: int
    ) -> None:
        """`count` assignments to the account, or to everything, have one policy in the place of
        another; None is no policy."""
        if before is not self._before or after is not self._after:
            self._before, self._after = before, after
            self._differences.clear()
        for scope, zone, own in self._users(before, after, account):
            difference = self._differences.get((zone, own))
            if difference is None:
                difference = _difference(_used(before, zone, own), _used(after, zone, own))
                self._differences[zone, own] = difference
            self._add(difference, scope, count)

    def move(self, policy: PolicyInZones, account: str, zone: str, scope: str) -> None:
        """The account lives in another zone from now on, and the policy is assigned to it or to
        everything, as the scope says."""
        own = scope == EVERYBODY
        before = _used(policy, self._zones.get(account, zones.UTC), own)
        self._add(_difference(before, _used(policy, zone, own)), account, 1)

    def _users(
        self, before: PolicyInZones | None, after: PolicyInZones | None, account: str
    ) -> Iterator[tuple[str, str, bool]]:
        """The scopes that use kinds because of an assignment: which, in which zone, and whether
        only what everybody does not keep."""
        yield account, self._zones.get(account, zones.UTC), False
        follows = any(policy is not None and policy.follows_account for policy in (before, after))
        if account == EVERYBODY and follows:
            for each, zone in self._zones.items():
                yield each, zone, True

    def _add(self, difference: tuple[_Kinds, _Kinds], scope: str, count: int) -> None:
        for kinds, delta in zip(difference, (-count, count), strict=True):
            for kind, longest_ms in kinds.items():
                use = self.changes.setdefault(kind.definition, Use(kind, longest_ms))
                use.add(scope, delta)


def _used(policy: PolicyInZones | None, zone: str, own: bool) -> _Kinds:
    if policy is None:
        return _NOTHING
    return policy.own_kinds(zone) if own else policy.in_zone(zone).kinds


def _difference(before: _Kinds, after: _Kinds) -> tuple[_Kinds, _Kinds]:
    """What goes and what comes."""
    return (
        {kind: before[kind] for kind in before if kind not in after},
        {kind: after[kind] for kind in after if kind not in before},
    )
