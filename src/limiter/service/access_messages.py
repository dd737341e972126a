"""Between the messages of keys, groups and the audit and the domain, in both directions.

In flow decoded messages and the path of the field that they came in; out flow the values of
`limiter.access`, `limiter.keys` and `limiter.audit`, and the other way round. What always holds: a
value that is written and read again is the same value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp

from limiter import access, bounds, errors, keys, model
from limiter.audit import Entry
from limiter.journal_v1 import revision_pb2
from limiter.service.conversion import ms_from_timestamp, timestamp_from_ms
from limiter.v1 import access_pb2

__all__ = [
    "api_key_from_message",
    "api_key_to_message",
    "audit_entry_to_message",
    "change_from_revision",
    "change_to_bytes",
]


_PERMISSIONS: Final = {int(each) for each in access.Permission}
_ROLES: Final = {int(each) for each in access.Role}


def api_key_from_message(message: access_pb2.ApiKey, field: str) -> access.ApiKey:
    """The key that a message describes; what is output only is ignored."""
    permissions = set()
    model.check_count(len(message.permissions), len(access.Permission), f"{field}.permissions")
    for index, number in enumerate(message.permissions):
        if int(number) not in _PERMISSIONS:
            raise errors.InvalidArgument.for_field(
                f"{field}.permissions[{index}]", f"{number} is not the number of a permission"
            )
        permissions.add(access.Permission(number))
    if message.role and int(message.role) not in _ROLES:
        raise errors.InvalidArgument.for_field(
            f"{field}.role", f"{message.role} is not the number of a role"
        )
    model.check_count(len(message.accounts), bounds.KEY_ACCOUNTS_MAX, f"{field}.accounts")
    model.check_count(len(message.resources), bounds.KEY_LABELS_MAX, f"{field}.resources")
    model.check_count(len(message.campaigns), bounds.KEY_LABELS_MAX, f"{field}.campaigns")
    return access.ApiKey(
        name=message.name,
        role=access.Role(message.role) if message.role else None,
        own_permissions=frozenset(permissions),
        accounts=tuple(message.accounts),
        resources=tuple(message.resources),
        campaigns=tuple(message.campaigns),
        expire_ms=_time(message, "expire_time"),
        certificate_name=message.certificate_name,
        display_name=message.display_name,
    )


def api_key_to_message(key: access.ApiKey) -> access_pb2.ApiKey:
    """The message that describes the key."""
    return access_pb2.ApiKey(
        name=key.name,
        display_name=key.display_name,
        role=access_pb2.Role.ValueType(key.role or 0),
        permissions=[access_pb2.Permission.ValueType(each) for each in sorted(key.own_permissions)],
        accounts=key.accounts,
        resources=key.resources,
        campaigns=key.campaigns,
        expire_time=_timestamp(key.expire_ms),
        certificate_name=key.certificate_name,
        create_time=_timestamp(key.create_ms if key.create_ms >= 0 else None),
        revoke_time=_timestamp(key.revoke_ms),
    )


def _time(message: access_pb2.ApiKey, field: Literal["expire_time", "revoke_time"]) -> int | None:
    return ms_from_timestamp(getattr(message, field)) if message.HasField(field) else None


def _timestamp(instant_ms: int | None) -> Timestamp | None:
    return None if instant_ms is None else timestamp_from_ms(instant_ms)


# --- The journal ----------------------------------------------------------------------------------


def change_to_bytes(change: keys.Change) -> bytes:
    """The bytes that the journal keeps of a change of keys."""
    return revision_pb2.PolicyRevision(
        time=timestamp_from_ms(change.time_ms),
        author=change.author,
        put_keys=[
            revision_pb2.StoredKey(
                api_key=api_key_to_message(stored.key),
                secret_hash=stored.hash,
                old_secret_hash=stored.old_hash,
                old_secret_expire_time=(
                    timestamp_from_ms(stored.old_expire_ms) if stored.old_hash else None
                ),
            )
            for stored in change.put
        ],
        deleted_keys=change.deleted,
    ).SerializeToString(deterministic=True)


def change_from_revision(revision: revision_pb2.PolicyRevision) -> keys.Change:
    """The change of keys that the journal kept. Raises `InvalidArgument` for what is none."""
    return keys.Change(
        time_ms=ms_from_timestamp(revision.time),
        author=revision.author,
        put=tuple(
            keys.StoredKey(
                key=replace(
                    api_key_from_message(stored.api_key, f"put_keys[{index}].api_key"),
                    create_ms=ms_from_timestamp(stored.api_key.create_time),
                    revoke_ms=_time(stored.api_key, "revoke_time"),
                ),
                hash=stored.secret_hash,
                old_hash=stored.old_secret_hash,
                old_expire_ms=(
                    ms_from_timestamp(stored.old_secret_expire_time)
                    if stored.old_secret_hash
                    else 0
                ),
            )
            for index, stored in enumerate(revision.put_keys)
        ),
        deleted=tuple(revision.deleted_keys),
    )


# --- The audit ------------------------------------------------------------------------------------


def audit_entry_to_message(entry: Entry) -> access_pb2.AuditEntry:
    """The message of one entry."""
    return access_pb2.AuditEntry(
        sequence=entry.sequence,
        time=timestamp_from_ms(entry.time_ms),
        author=entry.author,
        action=access_pb2.AuditEntry.Action.ValueType(entry.action),
        resource=entry.resource,
    )
