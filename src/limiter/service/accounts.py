"""The part of PolicyService about accounts: their time zones and allowed categories.

In flow decoded requests; out flow accounts as they are stored. A change is a revision of the
policies like any other, for what a limit means by `ACCOUNT` hangs on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc

from limiter import model
from limiter.policy import PolicyStore
from limiter.service import authorization, conversion
from limiter.service.pages import Page
from limiter.service.policy import carry_out, masked
from limiter.v1 import account_pb2, policy_service_pb2

__all__ = ["AccountServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class AccountServicer:
    """Serves the accounts of one `PolicyStore`. `commit` and `now_ms` are those of
    `PolicyServicer`."""

    def __init__(
        self,
        store: PolicyStore,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._commit = commit
        self._now_ms = now_ms

    async def GetAccount(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.GetAccountRequest, context: _Context
    ) -> account_pb2.Account:
        """Gets an account; every one exists."""
        model.named_account(request.name, "name")
        account = self._store.account(request.name)
        await self._commit()
        return conversion.account_to_message(account)

    async def ListAccounts(  # noqa: N802
        self, request: policy_service_pb2.ListAccountsRequest, context: _Context
    ) -> policy_service_pb2.ListAccountsResponse:
        """Lists the changed accounts that the caller may see, in the order of their names."""
        page = Page(request, "accounts")
        accounts = self._visible(page.after, page.size + 1)
        await self._commit()
        more = len(accounts) > page.size
        return policy_service_pb2.ListAccountsResponse(
            accounts=[conversion.account_to_message(each) for each in accounts[: page.size]],
            next_page_token=page.next_token(accounts[page.size - 1].name) if more else "",
        )

    async def UpdateAccount(  # noqa: N802
        self, request: policy_service_pb2.UpdateAccountRequest, context: _Context
    ) -> account_pb2.Account:
        """Changes an account."""
        if not request.HasField("account"):
            raise model.missing("account", "it is required")
        model.named_account(request.account.name, "account.name")
        sent = conversion.account_from_message(request.account, "account")
        given = {"time_zone": sent.time_zone, "allowed_categories": sent.allowed_categories}
        fields = masked(request.update_mask, request.account, given)
        current = self._store.account(sent.name)
        account = replace(current, **fields, etag=sent.etag)
        account.check("account")
        draft = self._store.draft()
        draft.put_account(account)
        prepared = await carry_out(
            self._store, self._commit, draft, self._now_ms(), request.validate_only
        )
        changed = prepared.accounts[0].new if prepared.accounts else current
        assert changed is not None
        return conversion.account_to_message(changed)

    def _visible(self, after: str, count: int) -> list[model.Account]:
        """Up to `count` of the changed accounts that the caller may see, beyond the name."""
        own = authorization.caller().accounts
        if own is None:
            return self._store.list_accounts(after, count)
        names = sorted(name for name in map(model.account_name, own) if name > after)
        accounts = map(self._store.account, names)
        changed = [each for each in accounts if each.update_ms != model.UNSTORED_MS]
        return changed[:count]
