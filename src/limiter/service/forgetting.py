"""PolicyService's ForgetContact: what could name somebody is erased, what was counted stands.

In flow an account and a contact or an address; out flows how much named them. Names are in two
places, the restrictions log and the table of who has opted out; all that is decided by, and the
journal, knows digests alone. What always holds: the reply leaves once both places are rewritten on
disk. A call that fails has erased a part, and is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from limiter import bounds, model
from limiter._suppressions import Suppressions
from limiter.people import People
from limiter.restriction_records import Forgotten
from limiter.restrictions import RestrictionLog
from limiter.service import authorization
from limiter.service.revisions import Revisions
from limiter.v1 import policy_service_pb2

__all__ = ["ForgetServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

_CONTACT: Final = 1
_ADDRESS: Final = 2

# The restrictions of one account are looked through at a time; others wait for their turn.
_AT_ONCE: Final = 1


class ForgetServicer:
    """Erases from `log`, if one is kept, and from `people`; `revisions` note that it was done.
    `commit` and `now_ms` are those of `PolicyServicer`."""

    def __init__(  # noqa: PLR0917
        self,
        log: RestrictionLog | None,
        people: People,
        suppressions: Suppressions,
        revisions: Revisions,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._people = people
        self._suppressions = suppressions
        self._revisions = revisions
        self._commit = commit
        self._now_ms = now_ms
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def ForgetContact(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.ForgetContactRequest, context: _Context
    ) -> policy_service_pb2.ForgetContactResponse:
        """Erases what could name a contact or an address."""
        account = model.named_account(request.name, "name")
        field = request.WhichOneof("who") or "contact"
        name: str = getattr(request, field)
        if not name:
            raise model.missing(field, "name a contact or an address")
        model.check_bytes(name, field, bounds.LABEL_BYTES_MAX)
        look_only = request.validate_only
        restriction_count, had_name = 0, False
        if self._log is not None:
            who = Forgotten(account=account, **{field: name})
            async with self._turns:
                restriction_count = await asyncio.to_thread(
                    self._log.forget, who, look_only=look_only
                )
        key = self._suppressions.key_of(_CONTACT if field == "contact" else _ADDRESS, name)
        try:
            async with self._people.turn(account):
                had_name = await self._people.forget(account, key, look_only=look_only)
        finally:
            if (restriction_count or had_name) and not look_only:
                author = authorization.caller().author
                self._revisions.forgot(request.name, author, self._now_ms())
        await self._commit()
        return policy_service_pb2.ForgetContactResponse(
            restriction_count=restriction_count, suppression_count=int(had_name)
        )
