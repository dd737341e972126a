"""The cold services: what is served by Python servicers, as one table.

In flow the parts of a state; out flow the servicers that work on them. A service may have several
servicers, each for some of its methods, and a method that no servicer has is not served: the
transport answers UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from limiter._activity import Activity
from limiter._commitments import Commitments
from limiter._core import Core
from limiter._suppressions import Suppressions
from limiter.clock import Clock
from limiter.journal import GroupCommitter, Journal
from limiter.keys import KeyStore
from limiter.people import People
from limiter.policy import PolicyStore
from limiter.rebuilding import Rebuilding
from limiter.restrictions import RestrictionLog
from limiter.service.access import SERVICE as ACCESS_SERVICE
from limiter.service.access import AccessServicer
from limiter.service.accounts import AccountServicer
from limiter.service.activity import ActivityServicer
from limiter.service.commitment import CommitmentServicer
from limiter.service.decision import SERVICE as DECISION_SERVICE
from limiter.service.forgetting import ForgetServicer
from limiter.service.groups import GroupServicer
from limiter.service.plan import PlanServicer
from limiter.service.policy import SERVICE as POLICY_SERVICE
from limiter.service.policy import PolicyServicer
from limiter.service.restrictions import RestrictionServicer
from limiter.service.revisions import Revisions
from limiter.service.simulation import SimulationServicer
from limiter.service.suppressions import SuppressionServicer
from limiter.service.versions import VersionServicer
from limiter.service.watching import Watching, WatchServicer

__all__ = ["SERVICES", "ColdService", "Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What servicers work on; replaced as a whole when the state is recovered anew."""

    policies: PolicyStore
    keys: KeyStore
    revisions: Revisions
    core: Core
    people: People
    shard: int
    journal: Journal
    committer: GroupCommitter
    rebuilding: Rebuilding
    clock: Clock
    restrictions: RestrictionLog | None
    # Whether an attempt that no assignment covers is denied.
    require_policy: bool
    watching: Watching
    activity: Activity
    # What GetUsage says, by its request's bytes and the instant.
    usage: Callable[[bytes, int], bytes]

    def durable(self) -> Awaitable[None]:
        """Waits until everything appended up to now is durable. Raises Unavailable."""
        return self.committer.wait()


@dataclass(frozen=True, slots=True)
class ColdService:
    """One servicer: the service's descriptor, the class, and how it is made for a state."""

    service: Any
    servicer: type
    make: Callable[[Parts], object]


SERVICES: Final = (
    ColdService(
        DECISION_SERVICE,
        CommitmentServicer,
        lambda parts: CommitmentServicer(
            Commitments(parts.core), parts.shard, parts.durable, parts.clock.now_ms
        ),
    ),
    ColdService(
        DECISION_SERVICE,
        ActivityServicer,
        lambda parts: ActivityServicer(parts.activity, parts.core, parts.usage, parts.clock.now_ms),
    ),
    ColdService(DECISION_SERVICE, WatchServicer, lambda parts: WatchServicer(parts.watching)),
    ColdService(
        DECISION_SERVICE,
        RestrictionServicer,
        lambda parts: RestrictionServicer(parts.restrictions, parts.clock.now_ms),
    ),
    ColdService(
        DECISION_SERVICE,
        PlanServicer,
        lambda parts: PlanServicer(parts.core, parts.require_policy, parts.clock.now_ms),
    ),
    ColdService(
        POLICY_SERVICE,
        PolicyServicer,
        lambda parts: PolicyServicer(
            parts.policies, parts.durable, parts.clock.now_ms, parts.rebuilding.is_under_way
        ),
    ),
    ColdService(
        POLICY_SERVICE,
        VersionServicer,
        lambda parts: VersionServicer(
            parts.policies, parts.revisions.versions, parts.durable, parts.clock.now_ms
        ),
    ),
    ColdService(
        POLICY_SERVICE,
        AccountServicer,
        lambda parts: AccountServicer(parts.policies, parts.durable, parts.clock.now_ms),
    ),
    ColdService(
        POLICY_SERVICE,
        SuppressionServicer,
        lambda parts: SuppressionServicer(
            Suppressions(parts.core), parts.people, parts.durable, parts.clock.now_ms
        ),
    ),
    ColdService(
        POLICY_SERVICE,
        ForgetServicer,
        lambda parts: ForgetServicer(
            parts.restrictions,
            parts.people,
            Suppressions(parts.core),
            parts.revisions,
            parts.durable,
            parts.clock.now_ms,
        ),
    ),
    ColdService(
        POLICY_SERVICE,
        SimulationServicer,
        lambda parts: SimulationServicer(parts.core, parts.policies, parts.durable),
    ),
    ColdService(
        ACCESS_SERVICE,
        GroupServicer,
        lambda parts: GroupServicer(parts.policies, parts.durable, parts.clock.now_ms),
    ),
    ColdService(
        ACCESS_SERVICE,
        AccessServicer,
        lambda parts: AccessServicer(
            parts.keys, parts.revisions.audit, parts.durable, parts.clock.now_ms
        ),
    ),
)
