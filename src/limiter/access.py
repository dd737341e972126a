"""Who may do what, in plain Python: permissions, roles, API keys and callers.

In flow keys that `limiter.service.access_messages` has read from messages; out flow the same keys,
checked, and callers: what somebody with such a key may do. Everything here is frozen and knows no
messages, no storage and no clock.

What always holds: a caller without accounts of its own is for all of them, and only an operator
is; whoever is narrowed to resources or campaigns reaches no other one by leaving the field out; and
nobody grants what he could not do himself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from limiter import bounds, errors, model

__all__ = [
    "ANONYMOUS",
    "OPERATOR_PERMISSIONS",
    "ROLES",
    "ApiKey",
    "Caller",
    "Permission",
    "Role",
    "key_id",
    "key_name",
]

# The collection of keys; they belong to no account.
_COLLECTION: Final = "apiKeys/"


class Permission(IntEnum):
    """What a key may do; see the enum of the API for the methods of each."""

    DECISIONS_CHECK = 1
    DECISIONS_COMMIT = 2
    USAGE_READ = 3
    RESTRICTIONS_READ = 4
    POLICIES_READ = 5
    POLICIES_WRITE = 6
    ACCESS_WRITE = 7

    @property
    def label(self) -> str:
        """As people write it: `decisions.check`."""
        return self.name.lower().replace("_", ".")


class Role(IntEnum):
    """A usual set of permissions."""

    VIEWER = 1
    SENDER = 2
    MASTER = 3
    OPERATOR = 4


OPERATOR_PERMISSIONS: Final = frozenset(Permission)

ROLES: Final = {
    Role.VIEWER: frozenset(
        {
            Permission.DECISIONS_CHECK,
            Permission.USAGE_READ,
            Permission.RESTRICTIONS_READ,
            Permission.POLICIES_READ,
        }
    ),
    Role.SENDER: frozenset(
        {Permission.DECISIONS_CHECK, Permission.DECISIONS_COMMIT, Permission.USAGE_READ}
    ),
    Role.MASTER: OPERATOR_PERMISSIONS - {Permission.ACCESS_WRITE},
    Role.OPERATOR: OPERATOR_PERMISSIONS,
}


def key_name(api_key_id: str) -> str:
    """The resource name of the key with this id."""
    return _COLLECTION + api_key_id


def key_id(name: str, field: str) -> str:
    """The id in a key's resource name. Raises `InvalidArgument` about `field` for another form."""
    if not name:
        raise model.missing(field, "a name is apiKeys/{api_key}")
    if not name.startswith(_COLLECTION):
        raise errors.InvalidArgument.for_field(
            field, f"{name[:80]!r} is not the name of a key; it is apiKeys/{{api_key}}"
        )
    found = name.removeprefix(_COLLECTION)
    model.check_id(found, field)
    return found


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key is for. Has a role or permissions of its own; `accounts` is empty for an operator,
    who is for all of them; the times are None while there are none."""

    name: str
    role: Role | None = None
    own_permissions: frozenset[Permission] = frozenset()
    accounts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    expire_ms: int | None = None
    certificate_name: str = ""
    display_name: str = ""
    create_ms: int = model.UNSTORED_MS
    revoke_ms: int | None = None

    def check(self, field: str, now_ms: int) -> None:
        """Raises `InvalidArgument` unless a key may be made like this at `now_ms`."""
        key_id(self.name, f"{field}.name")
        if (self.role is None) == (not self.own_permissions):
            raise model.missing(
                f"{field}.role", "set a role or permissions, and not both: what may the key do?"
            )
        model.check_bytes(self.display_name, f"{field}.display_name", bounds.DISPLAY_NAME_BYTES_MAX)
        model.check_bytes(
            self.certificate_name, f"{field}.certificate_name", bounds.CERTIFICATE_NAME_BYTES_MAX
        )
        self._check_accounts(field)
        for label, values in (("resources", self.resources), ("campaigns", self.campaigns)):
            model.check_labels(values, f"{field}.{label}", bounds.KEY_LABELS_MAX)
        if self.expire_ms is not None and not now_ms < self.expire_ms <= bounds.INSTANT_MS_MAX:
            raise errors.InvalidArgument.for_field(
                f"{field}.expire_time", "lies in the future and before 2101, or is not set"
            )

    def _check_accounts(self, field: str) -> None:
        if self.role is Role.OPERATOR:
            if self.accounts or self.resources or self.campaigns:
                raise errors.InvalidArgument.for_field(
                    f"{field}.role",
                    "an operator is for all accounts; leave accounts, resources and campaigns out,"
                    " or choose another role",
                )
            return
        if not self.accounts:
            raise model.missing(
                f"{field}.accounts", "name the accounts that the key is for; only an operator's is"
                " for all of them"
            )  # fmt: skip
        model.check_count(len(self.accounts), bounds.KEY_ACCOUNTS_MAX, f"{field}.accounts")
        for index, account in enumerate(self.accounts):
            model.check_account(account, f"{field}.accounts[{index}]")
        model.check_different(self.accounts, f"{field}.accounts")

    @property
    def permissions(self) -> frozenset[Permission]:
        """What it may do, by its role or as listed."""
        return self.own_permissions if self.role is None else ROLES[self.role]

    def is_live(self, now_ms: int) -> bool:
        """Whether it is good at this instant."""
        return self.revoke_ms is None and (self.expire_ms is None or now_ms < self.expire_ms)

    def caller(self, author: str = "") -> Caller:
        """Who shows it; `author` is how that is proven, if not by the key itself."""
        return Caller(
            author or self.name,
            self.permissions,
            None if self.role is Role.OPERATOR else frozenset(self.accounts),
            frozenset(self.resources),
            frozenset(self.campaigns),
            self.expire_ms,
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls, and what he may do. `accounts` is None for all of them; no resources, or
    no campaigns, means all."""

    author: str
    permissions: frozenset[Permission]
    accounts: frozenset[str] | None
    resources: frozenset[str] = frozenset()
    campaigns: frozenset[str] = frozenset()
    expire_ms: int | None = None

    @property
    def is_narrowed(self) -> bool:
        """Whether he reaches only some resources or campaigns of his accounts."""
        return bool(self.resources or self.campaigns)

    def reaches(self, account: str) -> bool:
        """Whether the account is one of his."""
        return self.accounts is None or account in self.accounts

    def reaches_scope(self, scope: model.Scope) -> bool:
        """Whether he may say what applies to all that the scope covers."""
        if self.accounts is None:
            return True
        return (
            scope.account in self.accounts
            and (not self.resources or scope.resource in self.resources)
            and (not self.campaigns or scope.campaign in self.campaigns)
        )

    def covers(self, key: ApiKey) -> bool:
        """Whether he could do, for as long, whatever the key can."""
        return (
            key.permissions <= self.permissions
            and self.covers_accounts(key)
            and (not self.resources or self._covers(key.resources, self.resources))
            and (not self.campaigns or self._covers(key.campaigns, self.campaigns))
            and (
                self.expire_ms is None
                or (key.expire_ms is not None and key.expire_ms <= self.expire_ms)
            )
        )

    def covers_accounts(self, key: ApiKey) -> bool:
        """Whether all accounts of the key are his."""
        if self.accounts is None:
            return True
        return key.role is not Role.OPERATOR and self.accounts.issuperset(key.accounts)

    def lacks(self, permission: int) -> errors.PermissionDenied:
        """The fault of a call that takes a permission which he does not have."""
        label = Permission(permission).label
        return errors.PermissionDenied(
            "PERMISSION_MISSING",
            f"{self.author} may not do this: it takes the permission {label}",
            metadata={"permission": label},
        )

    def is_not_for(self, field: str, value: str) -> errors.PermissionDenied:
        """The fault of a call whose field has a value, or none, that is not one of his."""
        what = repr(value[:80]) if value else "all of them: name one of its own"
        return errors.PermissionDenied(
            "OUT_OF_REACH", f"{field}: {self.author} is not for {what}", metadata={"field": field}
        )

    @staticmethod
    def _covers(wanted: tuple[str, ...], had: frozenset[str]) -> bool:
        return bool(wanted) and had.issuperset(wanted)


# Who calls where nobody is asked.
ANONYMOUS: Final = Caller("anonymous", OPERATOR_PERMISSIONS, None)
