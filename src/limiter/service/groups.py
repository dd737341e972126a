"""The part of AccessService about groups of resources and campaigns.

In flow decoded requests; out flow groups as they are stored. A change is a revision of the policies
like any other, checked as a whole: none leaves a policy assigned outside the groups that it is
restricted to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from limiter import model
from limiter.drafts import Draft
from limiter.policy import PolicyStore
from limiter.service import conversion
from limiter.service.policy import AccountPage, carry_out, masked, new_name
from limiter.v1 import access_pb2, access_service_pb2

__all__ = ["GroupServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class GroupServicer:
    """Serves the groups of one `PolicyStore`. `commit` and `now_ms` are those of
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

    async def CreateGroup(  # noqa: N802 - the method's name in the API
        self, request: access_service_pb2.CreateGroupRequest, context: _Context
    ) -> access_pb2.Group:
        """Creates a group."""
        if not request.parent:
            raise model.missing("parent", "a group belongs to an account; name accounts/{account}")
        name = new_name(request.parent, "groups", request.group_id, "group_id")
        if not request.HasField("group"):
            raise model.missing("group", "it is required")
        group = replace(conversion.group_from_message(request.group, "group"), name=name)
        group.check("group")
        draft = self._store.draft()
        draft.create_group(group)
        return await self._carry_out(draft, group, request.validate_only)

    async def GetGroup(  # noqa: N802
        self, request: access_service_pb2.GetGroupRequest, context: _Context
    ) -> access_pb2.Group:
        """Gets a group."""
        model.group_account(request.name, "name")
        group = self._store.group(request.name)
        await self._commit()
        return conversion.group_to_message(group)

    async def ListGroups(  # noqa: N802
        self, request: access_service_pb2.ListGroupsRequest, context: _Context
    ) -> access_service_pb2.ListGroupsResponse:
        """Lists groups in the order of their names."""
        if not request.parent:
            raise model.missing("parent", "whose groups? name accounts/{account}, or accounts/-")
        page = AccountPage(request, "groups")
        found = page.of(self._store.list_groups)
        await self._commit()
        return access_service_pb2.ListGroupsResponse(
            groups=[conversion.group_to_message(group) for group in found[: page.size]],
            next_page_token=page.next_of([group.name for group in found]),
        )

    async def UpdateGroup(  # noqa: N802
        self, request: access_service_pb2.UpdateGroupRequest, context: _Context
    ) -> access_pb2.Group:
        """Changes a group."""
        if not request.HasField("group"):
            raise model.missing("group", "it is required")
        model.group_account(request.group.name, "group.name")
        sent = conversion.group_from_message(request.group, "group")
        given = {
            "display_name": sent.display_name,
            "resources": sent.resources,
            "campaigns": sent.campaigns,
        }
        fields = masked(request.update_mask, request.group, given)
        current = self._store.group(sent.name)
        group = replace(current, **fields, etag=sent.etag)
        group.check("group")
        draft = self._store.draft()
        draft.put_group(group)
        return await self._carry_out(draft, current, request.validate_only)

    async def DeleteGroup(  # noqa: N802
        self, request: access_service_pb2.DeleteGroupRequest, context: _Context
    ) -> Empty:
        """Deletes a group."""
        model.group_account(request.name, "name")
        draft = self._store.draft()
        draft.delete_group(request.name, request.etag)
        await carry_out(self._store, self._commit, draft, self._now_ms(), request.validate_only)
        return Empty()

    async def _carry_out(
        self, draft: Draft, unchanged: model.Group, validate_only: bool
    ) -> access_pb2.Group:
        """The group as it stands after the change."""
        prepared = await carry_out(self._store, self._commit, draft, self._now_ms(), validate_only)
        changed = prepared.groups[0].new if prepared.groups else unchanged
        assert changed is not None
        return conversion.group_to_message(changed)
