"""Groups of resources and campaigns, and the policies that are restricted to them.

In flows the outcome of a change; out flows the fault of one that cannot be. What always holds in an
outcome that passes: every group that a policy names is there; whatever such a policy is assigned to
is a resource or a campaign in one of its groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from limiter import errors, model

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What will be if a change is made: `groups` by name, None for those that are deleted, and
    `policy` by name, None likewise. `policies_of` an account and `assignments_of` a policy are
    those that there are before."""

    groups: Mapping[str, model.Group | None]
    policy: Callable[[str], model.Policy | None]
    policies_of: Callable[[str], Iterable[model.Policy]]
    assignments_of: Callable[[str], Iterable[model.Assignment]]

    def check(
        self,
        policies: Iterable[model.Policy],
        assignments: Mapping[str, model.Assignment | None],
        groups: Iterable[str],
    ) -> None:
        """Raises `NotFound` and `FailedPrecondition` for what cannot be after these policies,
        assignments (None: deleted) and groups have changed."""
        accounts = {model.account_of(name) for name in groups}
        touched = {each.name: each for each in policies if each.access_groups}
        for account in accounts:
            for before in self.policies_of(account):
                after = self.policy(before.name)
                if after is not None and after.access_groups:
                    touched[after.name] = after
        for assignment in assignments.values():
            if assignment is not None:
                policy = self.policy(assignment.policy)
                assert policy is not None
                self._check_assignment(assignment, policy, "ACCESS_GROUPS")
        reason = "GROUP_IN_USE" if accounts else "ACCESS_GROUPS"
        for policy in touched.values():
            self._check_groups(policy)
            for assignment in self.assignments_of(policy.name):
                if assignment.name not in assignments:
                    self._check_assignment(assignment, policy, reason)

    def _check_groups(self, policy: model.Policy) -> None:
        for name in policy.access_groups:
            if self.groups.get(name) is not None:
                continue
            if name in self.groups:
                raise errors.FailedPrecondition(
                    "GROUP_IN_USE",
                    f"{policy.name} is restricted to {name}; take it out of access_groups first",
                    metadata={"resource": name},
                )
            raise errors.NotFound(
                "NOT_FOUND",
                f"{policy.name} is restricted to {name}, which does not exist; create it first",
                metadata={"resource": name},
            )

    def _check_assignment(
        self, assignment: model.Assignment, policy: model.Policy, reason: str
    ) -> None:
        names = policy.access_groups
        found = [self.groups.get(name) for name in names]
        if names and not any(each is not None and each.holds(assignment.scope) for each in found):
            raise errors.FailedPrecondition(
                reason,
                f"{assignment.name}: {policy.name} may be assigned only to resources and campaigns"
                f" in {' or '.join(names[:5])}, and {assignment.scope} is none of them; put it"
                " into a group, or assign another policy",
                metadata={"resource": assignment.name},
            )
