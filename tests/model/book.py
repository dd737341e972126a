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

    since_ms: int
    unused_since_ms: int | None = None  # since when no assignment uses it


@dataclass(slots=True)
class PolicyBook:
    """All policies and assignments as they stand, and what their past has left behind."""

    policies: dict[str, policy_pb2.Policy] = field(default_factory=dict)
    assignments: dict[str, policy_pb2.Assignment] = field(default_factory=dict)
    kept: dict[tuple[str, Kind], Kept] = field(default_factory=dict)

    def revise(self, now_ms: int) -> None:
        """Something has changed: kinds that are new start to count here, and those that nobody has
        used for as long as their window lasts are let go."""
        used = set(self._kinds_in_use())
        for scope_and_kind, kept in list(self.kept.items()):
            _, kind = scope_and_kind
            if kept.unused_since_ms is not None and now_ms >= kept.unused_since_ms + (
                kind.window.longest_ms
            ):
                del self.kept[scope_and_kind]
            elif scope_and_kind in used:
                kept.unused_since_ms = None
            elif kept.unused_since_ms is None:
                kept.unused_since_ms = now_ms
        for scope_and_kind in used:
            self.kept.setdefault(scope_and_kind, Kept(now_ms))

    def _kinds_in_use(self) -> Iterator[tuple[str, Kind]]:
        for assignment in self.assignments.values():
            for limit in self.policies[assignment.policy].limits:
                yield assignment.scope.account or EVERYWHERE, limit_of(limit).kind

    def kinds_of(self, account: str) -> dict[Kind, int]:
        """The kinds kept for an account, its own and those of every account, and since when."""
        kinds: dict[Kind, int] = {}
        for (scope, kind), kept in self.kept.items():
            if scope in (EVERYWHERE, account):
                kinds[kind] = min(kept.since_ms, kinds.get(kind, kept.since_ms))
        return kinds

    def limits(self, account: str, resource: str, campaign: str) -> tuple[bool, list[Limit]]:
        """Whether any assignment matches, and the limits that apply, in the order of the reply."""
        applying = list(self._applying(account, resource, campaign))
        return bool(applying), [
            limit_of(limit, assignment.policy)
            for assignment in applying
            for limit in self.policies[assignment.policy].limits
        ]

    def _applying(
        self, account: str, resource: str, campaign: str
    ) -> Iterable[policy_pb2.Assignment]:
        ordered = [
            assignment
            for _, assignment in sorted(self.assignments.items())
            if matches(assignment, account, resource, campaign)
        ]
        overridable = [assignment for assignment in ordered if not assignment.mandatory]
        if overridable:
            yield max(overridable, key=narrowness)
        yield from (assignment for assignment in ordered if assignment.mandatory)


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
