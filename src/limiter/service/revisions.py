"""Changes on their way to the journal and back: policies, keys, and the record of both.

In flow the changes that the stores make, and at a start those that the journal kept. Out flow
journalled bytes, restored stores, and the same audit in both cases, since it is read from the same
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from google.protobuf.message import DecodeError

from limiter import errors, keys
from limiter.audit import Action, AuditLog
from limiter.journal_v1 import revision_pb2
from limiter.policy import PolicyStore
from limiter.service import access_messages
from limiter.service.conversion import timestamp_from_ms
from limiter.versions import PolicyVersions, Version

__all__ = ["Revisions"]


class _Core(Protocol):
    """What journals: the core."""

    def append_revision(self, payload: bytes, now_ms: int) -> None: ...
    def policies_changed(self) -> None: ...


class Revisions:
    """Between the stores of one state and its core."""

    def __init__(self, core: _Core, policies: PolicyStore, api_keys: keys.KeyStore) -> None:
        self.audit = AuditLog()
        self.versions = PolicyVersions()
        self._core = core
        self._policies = policies
        self._keys = api_keys
        # How many there have been, and those that no baseline holds yet.
        self.count = 0
        self._pending: list[tuple[int, bytes]] = []
        # The names of all that exists, to tell a change from a creation.
        self._names: set[str] = set()
        policies.connect(self)
        api_keys.log = self

    # --- what the stores tell ---------------------------------------------------------------------

    def append_revision(self, payload: bytes, now_ms: int) -> None:
        """Journals a change of policies."""
        self._core.append_revision(payload, now_ms)
        self._keep(payload, now_ms)
        self._note(revision_pb2.PolicyRevision.FromString(payload), now_ms)

    def policies_changed(self) -> None:
        """Every account asks for its binding again at its next touch."""
        self._core.policies_changed()

    def append(self, change: keys.Change) -> None:
        """Journals a change of keys."""
        payload = access_messages.change_to_bytes(change)
        self._core.append_revision(payload, change.time_ms)
        self._keep(payload, change.time_ms)
        self._note(revision_pb2.PolicyRevision.FromString(payload), change.time_ms)

    def forgot(self, account: str, author: str, now_ms: int) -> None:
        """Journals that somebody was forgotten in an account, given its name; not whom."""
        revision = revision_pb2.PolicyRevision(
            time=timestamp_from_ms(now_ms), author=author, forgotten_in=[account]
        )
        payload = revision.SerializeToString(deterministic=True)
        self._core.append_revision(payload, now_ms)
        self._keep(payload, now_ms)
        self._note(revision, now_ms)

    # --- what the journal kept --------------------------------------------------------------------

    def restore(self, payload: bytes, time_ms: int) -> None:
        """Makes a journalled change so. Raises `DataLoss` if it cannot follow those before it."""
        try:
            revision = revision_pb2.PolicyRevision.FromString(payload)
            if revision.put_keys or revision.deleted_keys:
                self._keys.restore(access_messages.change_from_revision(revision))
            elif not revision.forgotten_in:
                self._policies.restore(payload, time_ms)
        except (DecodeError, errors.InvalidArgument, KeyError) as error:
            raise errors.DataLoss(
                "JOURNAL_DAMAGED", f"the change journalled at {time_ms} ms cannot be read: {error}"
            ) from error
        self._keep(payload, time_ms)
        self._note(revision, time_ms)

    # --- what baselines keep ----------------------------------------------------------------------

    def pending(self) -> list[tuple[int, bytes]]:
        """The instants and payloads of the changes that no baseline holds yet, in order."""
        return list(self._pending)

    def forget_pending(self, count: int | None = None) -> None:
        """The first so many of them, or all, are in a baseline."""
        del self._pending[:count]

    def _keep(self, payload: bytes, time_ms: int) -> None:
        self.count += 1
        self._pending.append((time_ms, payload))

    def _note(self, revision: revision_pb2.PolicyRevision, time_ms: int) -> None:
        """Records a change that has been made."""

        def put(names: Iterable[str], known: Action = Action.UPDATE) -> None:
            for name in names:
                action = known if name in self._names else Action.CREATE
                self.audit.note(time_ms, author, action, name)
                self._names.add(name)

        def delete(names: Iterable[str]) -> None:
            for name in names:
                self.audit.note(time_ms, author, Action.DELETE, name)
                self._names.discard(name)

        author = revision.author or "anonymous"
        put(group.name for group in revision.put_groups)
        put(policy.name for policy in revision.put_policies)
        for policy in revision.put_policies:
            data = policy.SerializeToString()
            self.versions.note(Version(policy.name, revision.revision, time_ms, author, data))
        for name in revision.deleted_policies:
            self.versions.note(Version(name, revision.revision, time_ms, author, None))
        put(assignment.name for assignment in revision.put_assignments)
        for account in revision.put_accounts:
            # Every account exists.
            self.audit.note(time_ms, author, Action.UPDATE, account.name)
        for stored in revision.put_keys:
            revoked = stored.api_key.HasField("revoke_time")
            put([stored.api_key.name], Action.REVOKE if revoked else Action.UPDATE)
        for name in revision.forgotten_in:
            self.audit.note(time_ms, author, Action.FORGET, name)
        delete(revision.deleted_assignments)
        delete(revision.deleted_policies)
        delete(revision.deleted_groups)
        delete(revision.deleted_keys)
