"""Which limits apply and which kinds of counter are kept: section 2.4 of the design, naively."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from limiter.v1 import policy_pb2
from tests.model.limits import Kind, Limit, limit_of

EVERYWHERE = ""


@dataclass(slots=True)
class Kept:
    """One kind of counter that is kept for a scope: an account, or every account."""

    unused_since_ms: int | None = None  # since when no assignment of the scope uses it


@dataclass(slots=True)
class PolicyBook:
    """All policies and assignments as they stand, and what their past has left behind."""

    policies: dict[str, policy_pb2.Policy] = field(default_factory=dict)
    assignments: dict[str, policy_pb2.Assignment] = field(default_factory=dict)
    kept: dict[tuple[str, Kind], Kept] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)  # of the accounts that have one

    def zone_of(self, account: str) -> str:
        return self.zones.get(account) or "UTC"

    def revise(self, now_ms: int) -> None:
        """Something has changed: kinds that are new are kept from here on, and those that nobody
        has used for as long as their window lasts are let go."""
        used = set(self._kinds_in_use())
        for scope, kind in used:
            self.kept.setdefault((scope, kind), Kept()).unused_since_ms = None
        for place, kept in self.kept.items():
            if place not in used and kept.unused_since_ms is None:
                kept.unused_since_ms = now_ms
        gone = {
            (scope, kind)
            for (scope, kind), kept in self.kept.items()
            if kept.unused_since_ms is not None
            and now_ms >= kept.unused_since_ms + kind.window.longest_ms
        }
        for scope, kind in gone:
            # What every account keeps, an account of its own does not let go.
            if scope == EVERYWHERE or self._let_go_everywhere(kind, gone):
                del self.kept[scope, kind]

    def _let_go_everywhere(self, kind: Kind, gone: set[tuple[str, Kind]]) -> bool:
        return (EVERYWHERE, kind) in gone or (EVERYWHERE, kind) not in self.kept

    def _kinds_in_use(self) -> Iterator[tuple[str, Kind]]:
        for assignment in self.assignments.values():
            scope = assignment.scope.account or EVERYWHERE
            # What is assigned to everything counts in UTC everywhere, and besides in the zone of
            # each account that has one.
            scopes = [scope, *(self.zones if scope == EVERYWHERE else ())]
            for limit in self.policies[assignment.policy].limits:
                for user in scopes:
                    kind = limit_of(limit, zone=self.zone_of(user)).kind
                    if kind is not None:
                        yield user, kind

    def kinds_of(self, account: str) -> set[Kind]:
        """The kinds kept for an account, its own and those of every account."""
        return {kind for scope, kind in self.kept if scope in (EVERYWHERE, account)}

    def limits(self, account: str, resource: str, campaign: str) -> tuple[bool, list[Limit]]:
        """Whether any assignment matches, and the limits that apply, in the order of the reply. A
        policy that applies in several ways applies once."""
        names = [each.policy for each in self._applying(account, resource, campaign)]
        return bool(names), [
            limit_of(limit, name, self.zone_of(account))
            for name in dict.fromkeys(names)
            for limit in self.policies[name].limits
        ]

    def _applying(
        self, account: str, resource: str, campaign: str
    ) -> Iterable[policy_pb2.Assignment]:
        """The winner, then the mandatory ones by name."""
        matching = [
            assignment
            for _, assignment in sorted(self.assignments.items())
            if matches(assignment, account, resource, campaign)
        ]
        overridable = [assignment for assignment in matching if not assignment.mandatory]
        if overridable:
            yield max(overridable, key=narrowness)
        yield from (assignment for assignment in matching if assignment.mandatory)


def matches(assignment: policy_pb2.Assignment, account: str, resource: str, campaign: str) -> bool:
    scope = assignment.scope
    return (
        scope.account in ("", account)
        and scope.resource in ("", resource)
        and scope.campaign in ("", campaign)
    )


def narrowness(assignment: policy_pb2.Assignment) -> int:
    """Campaign over resource over account over everything."""
    scope = assignment.scope
    return 3 if scope.campaign else 2 if scope.resource else 1 if scope.account else 0
