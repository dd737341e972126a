"""AccessService: API keys, and the record of who changed what.

In flow decoded requests; out flow keys as they are stored, a secret once, and audit entries. Each
change is made in one step of the event loop. No reply leaves before all that it shows is durable.

What always holds: a key is made, rotated and revoked only by a caller who could do whatever it can;
a key with an account that is not the caller's is not there for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import grpc

from limiter import access, bounds, drafts, errors, model
from limiter.audit import AuditLog, Entry, Filter
from limiter.keys import KeyStore
from limiter.service import access_messages, authorization
from limiter.service.conversion import ms_from_duration, ms_from_timestamp
from limiter.service.pages import Page
from limiter.v1 import access_pb2, access_service_pb2

__all__ = ["SERVICE", "AccessServicer"]

SERVICE: Final = access_service_pb2.DESCRIPTOR.services_by_name["AccessService"]

_Context = grpc.aio.ServicerContext[Any, Any]

# Entries that are looked at in one go; between them decisions go on.
_SLICE_COUNT: Final = 500


class AccessServicer:
    """Serves one `KeyStore` and one `AuditLog`. `commit` waits until everything appended to the
    journal so far is durable, `now_ms` gives the instant of a change."""

    def __init__(
        self,
        keys: KeyStore,
        audit: AuditLog,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._audit = audit
        self._commit = commit
        self._now_ms = now_ms

    # --- Keys -------------------------------------------------------------------------------------

    async def CreateApiKey(  # noqa: N802 - the method's name in the API
        self, request: access_service_pb2.CreateApiKeyRequest, context: _Context
    ) -> access_service_pb2.CreateApiKeyResponse:
        """Creates an API key."""
        model.check_id(request.api_key_id, "api_key_id")
        if not request.HasField("api_key"):
            raise model.missing("api_key", "it is required")
        key = replace(
            access_messages.api_key_from_message(request.api_key, "api_key"),
            name=access.key_name(request.api_key_id),
        )
        now_ms = self._now_ms()
        key.check("api_key", now_ms)
        who = authorization.caller()
        _require_cover(who, key)
        made, secret = self._keys.create(key, now_ms, who.author)
        await self._commit()
        return access_service_pb2.CreateApiKeyResponse(
            api_key=access_messages.api_key_to_message(made), secret=secret.shown
        )

    async def ListApiKeys(  # noqa: N802
        self, request: access_service_pb2.ListApiKeysRequest, context: _Context
    ) -> access_service_pb2.ListApiKeysResponse:
        """Lists API keys in the order of their names."""
        page = Page(request, "apiKeys")
        found = self._keys.page(page.after, page.size + 1, authorization.caller())
        await self._commit()
        return access_service_pb2.ListApiKeysResponse(
            api_keys=[access_messages.api_key_to_message(key) for key in found[: page.size]],
            next_page_token=(
                page.next_token(found[page.size - 1].name) if len(found) > page.size else ""
            ),
        )

    async def RevokeApiKey(  # noqa: N802
        self, request: access_service_pb2.RevokeApiKeyRequest, context: _Context
    ) -> access_pb2.ApiKey:
        """Revokes an API key."""
        name = self._manageable(request.name)
        key = self._keys.revoke(name, self._now_ms(), authorization.caller().author)
        await self._commit()
        return access_messages.api_key_to_message(key)

    async def RotateApiKey(  # noqa: N802
        self, request: access_service_pb2.RotateApiKeyRequest, context: _Context
    ) -> access_service_pb2.CreateApiKeyResponse:
        """Gives an API key new secret bytes."""
        access.key_id(request.name, "name")
        grace_ms = ms_from_duration(request.grace_duration, "grace_duration")
        if not 0 <= grace_ms <= bounds.ROTATION_GRACE_MS_MAX:
            days = bounds.ROTATION_GRACE_MS_MAX // bounds.DAY_MS
            raise errors.InvalidArgument.for_field("grace_duration", f"must be 0 to {days} days")
        name = self._manageable(request.name)
        secret = self._keys.rotate(
            name,
            grace_ms,
            self._now_ms(),
            authorization.caller().author,
        )
        stored = self._keys.get(name)
        assert stored is not None
        await self._commit()
        return access_service_pb2.CreateApiKeyResponse(
            api_key=access_messages.api_key_to_message(stored.key), secret=secret.shown
        )

    def _manageable(self, name: str) -> str:
        """The name of a key that the caller may manage. Raises `NotFound` for one that he may not
        see, `PermissionDenied` for one that can do more than he."""
        access.key_id(name, "name")
        stored = self._keys.get(name)
        who = authorization.caller()
        if stored is None or not who.covers_accounts(stored.key):
            raise drafts.not_found(name)
        _require_cover(who, stored.key)
        return name

    # --- The audit --------------------------------------------------------------------------------

    async def ListAuditEntries(  # noqa: N802
        self, request: access_service_pb2.ListAuditEntriesRequest, context: _Context
    ) -> access_service_pb2.ListAuditEntriesResponse:
        """Lists who changed what, the newest first."""
        if request.account:
            model.check_account(request.account, "account")
        wanted = Filter(
            authorization.caller(),
            request.account,
            request.resource,
            request.author,
            ms_from_timestamp(request.start_time) if request.HasField("start_time") else None,
            ms_from_timestamp(request.end_time) if request.HasField("end_time") else None,
        )
        page = Page(request, f"audit {replace(wanted, caller=access.ANONYMOUS)}")
        found = await self._find(wanted, int(page.after) if page.after else None, page.size + 1)
        await self._commit()
        return access_service_pb2.ListAuditEntriesResponse(
            entries=[access_messages.audit_entry_to_message(each) for each in found[: page.size]],
            next_page_token=(
                page.next_token(str(found[page.size - 1].sequence))
                if len(found) > page.size
                else ""
            ),
        )

    async def _find(self, wanted: Filter, before: int | None, count: int) -> list[Entry]:
        """Up to so many entries before a number that the filter lets through."""
        found: list[Entry] = []
        for index, entry in enumerate(self._audit.newest_before(before), 1):
            if wanted.admits(entry):
                found.append(entry)
                if len(found) == count:
                    break
            if index % _SLICE_COUNT == 0:
                await asyncio.sleep(0)
        return found


def _require_cover(who: access.Caller, key: access.ApiKey) -> None:
    if not who.covers(key):
        raise errors.PermissionDenied(
            "OUT_OF_REACH",
            f"{who.author} cannot do, for as long, all that {key.name} could: nobody grants or"
            " takes over more than he has",
            metadata={"resource": key.name},
        )
