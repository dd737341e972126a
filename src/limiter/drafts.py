"""Edits in the making, and the errors of those that cannot be.

In flow what a request puts and deletes; out flows a `Draft` of it, which the policy store checks as
a whole and carries out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from limiter import errors, model

__all__ = [
    "Change",
    "Draft",
    "account_in",
    "already_exists",
    "check_etag",
    "etag_of",
    "found_in",
    "not_found",
    "policy_assigned",
]

_Resource = TypeVar("_Resource", model.Policy, model.Assignment, model.Group, model.Account)


@dataclass(frozen=True, slots=True)
class Change(Generic[_Resource]):
    """One difference: `old` is None where a resource is created, `new` where it is deleted."""

    name: str
    old: _Resource | None
    new: _Resource | None


class Draft:
    """An edit in the making, against the store as it stands.

    Values must have been checked by their `check`. `field` is the path of the resource in the
    request, for errors. Raises `NotFound`, `AlreadyExists` and `Aborted` (another etag).
    """

    def __init__(
        self,
        policies: Mapping[str, model.Policy],
        assignments: Mapping[str, model.Assignment],
        base: int,
        groups: Mapping[str, model.Group],
        accounts: Mapping[str, model.Account],
    ) -> None:
        self.base = base
        # Whether counters may begin of which the journal has not kept the whole window.
        self.allow_partial_history = False
        self.accounts: dict[str, model.Account] = {}
        self._current_accounts = accounts
        self.groups: dict[str, model.Group | None] = {}
        self._current_groups = groups
        self.policies: dict[str, model.Policy | None] = {}
        self.assignments: dict[str, model.Assignment | None] = {}
        self._current_policies = policies
        self._current_assignments = assignments
        self._field_of: dict[str, str] = {}

    def create_policy(self, policy: model.Policy, field: str) -> None:
        """Adds a policy whose name must be free."""
        if policy.name in self._current_policies:
            raise already_exists(policy.name)
        self._field_of[policy.name] = field
        self.policies[policy.name] = policy

    def put_policy(self, policy: model.Policy, field: str) -> None:
        """Adds or replaces a policy; if it has an etag, that version."""
        check_etag(self._current_policies.get(policy.name), policy.name, policy.etag)
        self._field_of[policy.name] = field
        self.policies[policy.name] = policy

    def delete_policy(self, name: str, etag: str = "") -> None:
        """Deletes a policy; if an etag is given, that version."""
        check_etag(found_in(self._current_policies, name), name, etag)
        self.policies[name] = None

    def create_assignment(self, assignment: model.Assignment, field: str) -> None:
        """Adds an assignment whose name must be free."""
        if assignment.name in self._current_assignments:
            raise already_exists(assignment.name)
        self._field_of[assignment.name] = field
        self.assignments[assignment.name] = assignment

    def put_assignment(self, assignment: model.Assignment, field: str) -> None:
        """Adds or replaces an assignment; if it has an etag, that version."""
        current = self._current_assignments.get(assignment.name)
        check_etag(current, assignment.name, assignment.etag)
        self._field_of[assignment.name] = field
        self.assignments[assignment.name] = assignment

    def delete_assignment(self, name: str, etag: str = "") -> None:
        """Deletes an assignment; if an etag is given, that version."""
        check_etag(found_in(self._current_assignments, name), name, etag)
        self.assignments[name] = None

    def create_group(self, group: model.Group) -> None:
        """Adds a group whose name must be free."""
        if group.name in self._current_groups:
            raise already_exists(group.name)
        self.groups[group.name] = group

    def put_group(self, group: model.Group) -> None:
        """Adds or replaces a group; if it has an etag, that version."""
        check_etag(self._current_groups.get(group.name), group.name, group.etag)
        self.groups[group.name] = group

    def delete_group(self, name: str, etag: str = "") -> None:
        """Deletes a group; if an etag is given, that version."""
        check_etag(found_in(self._current_groups, name), name, etag)
        self.groups[name] = None

    def put_account(self, account: model.Account) -> None:
        """Changes an account; if it has an etag, that version. It changes in a revision of its
        own."""
        current = account_in(self._current_accounts, account.name)
        check_etag(current, account.name, account.etag)
        self.accounts[account.name] = account

    def prune(self, scopes: Callable[[model.Scope], bool] = lambda _scope: True) -> None:
        """Deletes every policy, assignment and group that the draft does not put, of what belongs
        to one of the `scopes`."""
        for name in self._current_groups:
            if scopes(model.Scope(model.account_of(name))):
                self.groups.setdefault(name, None)
        for name in self._current_policies:
            if scopes(model.Scope(model.account_of(name))):
                self.policies.setdefault(name, None)
        for name, assignment in self._current_assignments.items():
            if scopes(assignment.scope):
                self.assignments.setdefault(name, None)

    def field_of(self, name: str) -> str:
        """The path in the request of the resource that the draft puts."""
        return self._field_of[name]


def found_in(resources: Mapping[str, _Resource], name: str) -> _Resource:
    """The resource called `name`. Raises `NotFound`."""
    found = resources.get(name)
    if found is None:
        raise not_found(name)
    return found


def account_in(accounts: Mapping[str, model.Account], name: str) -> model.Account:
    """The account called `name`: every one exists, with the defaults if it was never changed."""
    return accounts.get(name) or model.Account(name, etag=etag_of(name, 0, 0))


def etag_of(name: str, number: int, now_ms: int) -> str:
    """What identifies this version: the revision that made it, and when, lest it be taken for one
    of an earlier life of the data folder."""
    version = f"{number} {now_ms} {name}"
    return hashlib.blake2b(version.encode(), digest_size=12).hexdigest()


def not_found(name: str, field: str = "") -> errors.NotFound:
    """The error of a resource that does not exist; `field` is the path of what refers to it."""
    description = f"{name} does not exist"
    violations = [errors.FieldViolation(field, description)] if field else []
    message = f"{field}: {description}; create it first" if field else description
    return errors.NotFound("NOT_FOUND", message, violations=violations, metadata={"resource": name})


def policy_assigned(name: str, assignments: Iterable[str]) -> errors.FailedPrecondition:
    """The error of a policy that cannot go because of these assignments."""
    by = sorted(assignments)
    shown = ", ".join(by[:5]) + (f" and {len(by) - 5:,} more" if len(by) > 5 else "")
    return errors.FailedPrecondition(
        "POLICY_ASSIGNED",
        f"{name} is assigned by {shown}; assign another policy there first",
        metadata={"resource": name},
    )


def already_exists(name: str) -> errors.AlreadyExists:
    """The error of a name that is taken."""
    return errors.AlreadyExists(
        "ALREADY_EXISTS",
        f"{name} exists already; update it, or choose another id",
        metadata={"resource": name},
    )


def check_etag(
    current: model.Policy | model.Assignment | model.Group | model.Account | None,
    name: str,
    etag: str,
) -> None:
    """Raises `Aborted` if an etag is given and is not that of the current version."""
    if not etag:
        return
    if current is None or current.etag != etag:
        now = "does not exist" if current is None else "has changed since that version"
        raise errors.Aborted(
            "ETAG_MISMATCH",
            f"{name} {now}; read it again and repeat the change, or leave etag empty",
            metadata={"resource": name},
        )
