"""Groups of resources and campaigns, and the policies restricted to them, over a real server."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from limiter.v1 import access_pb2, policy_pb2
from limiter.v1 import access_service_pb2 as access
from limiter.v1 import policy_service_pb2 as pb2
from tests.integration.access_requests import bearer
from tests.integration.test_access import Keyed, keyed

GROUP = "accounts/own/groups/brands"
POLICY = "accounts/own/policies/brand"


async def fault(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The code of a call that fails, and what it says."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


class Groups:
    """What a master of account `own` does."""

    def __init__(self, server: Keyed, secret: str) -> None:
        self.server = server
        self.metadata = bearer(secret)

    async def group(self, **fields: Any) -> access_pb2.Group:
        request = access.CreateGroupRequest(
            parent="accounts/own", group_id="brands", group=access_pb2.Group(**fields)
        )
        return await self.server.access.CreateGroup(request, metadata=self.metadata)

    async def update(self, path: str, **fields: Any) -> access_pb2.Group:
        request = access.UpdateGroupRequest(
            group=access_pb2.Group(name=GROUP, **fields), update_mask=FieldMask(paths=[path])
        )
        return await self.server.access.UpdateGroup(request, metadata=self.metadata)

    async def delete(self, etag: str = "") -> None:
        request = access.DeleteGroupRequest(name=GROUP, etag=etag)
        await self.server.access.DeleteGroup(request, metadata=self.metadata)

    async def policy(self, *groups: str) -> policy_pb2.Policy:
        request = pb2.CreatePolicyRequest(
            parent="accounts/own",
            policy_id="brand",
            policy=policy_pb2.Policy(access_groups=groups),
        )
        return await self.server.policies.CreatePolicy(request, metadata=self.metadata)

    async def restrict(self, *groups: str) -> policy_pb2.Policy:
        request = pb2.UpdatePolicyRequest(
            policy=policy_pb2.Policy(name=POLICY, access_groups=groups),
            update_mask=FieldMask(paths=["access_groups"]),
        )
        return await self.server.policies.UpdatePolicy(request, metadata=self.metadata)

    async def assign(self, name: str, **scope: str) -> policy_pb2.Assignment:
        request = pb2.CreateAssignmentRequest(
            parent="accounts/own",
            assignment_id=name,
            assignment=policy_pb2.Assignment(
                policy=POLICY,
                scope=policy_pb2.Scope(account="own", **scope),
            ),
        )
        return await self.server.policies.CreateAssignment(request, metadata=self.metadata)


async def master(server: Keyed) -> Groups:
    made = await server.made("ada", role=access_pb2.ROLE_MASTER, accounts=["own"])
    return Groups(server, made.secret)


async def test_a_policy_is_assigned_only_inside_its_groups(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await master(server)
        code, said = await fault(ada.policy(GROUP))
        assert (code, GROUP in said) == (grpc.StatusCode.NOT_FOUND, True)
        await ada.group(resources=["web"], campaigns=["spring"])
        policy = await ada.policy(GROUP)
        assert list(policy.access_groups) == [GROUP]
        await ada.assign("web", resource="web")
        await ada.assign("spring", campaign="spring")
        for scope in ({}, {"resource": "app"}, {"campaign": "web"}):
            code, said = await fault(ada.assign("no", **scope))
            assert (code, "only to resources and campaigns in" in said) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                True,
            )
        # Without the restriction it may go anywhere, and then not be restricted any more.
        await ada.restrict()
        await ada.assign("app", resource="app")
        assert (await fault(ada.restrict(GROUP)))[0] is grpc.StatusCode.FAILED_PRECONDITION
        await ada.update("resources", resources=["web", "app"])
        await ada.restrict(GROUP)


async def test_a_group_in_use_keeps_what_is_assigned(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await master(server)
        made = await ada.group(resources=["web", "app"], display_name="Brands")
        await ada.policy(GROUP)
        await ada.assign("web", resource="web")
        for call in (ada.update("resources", resources=["app"]), ada.delete()):
            assert (await fault(call))[0] is grpc.StatusCode.FAILED_PRECONDITION
        changed = await ada.update("resources", resources=["web"])
        assert (changed.display_name, changed.etag != made.etag) == ("Brands", True)
        assert (await fault(ada.delete(made.etag)))[0] is grpc.StatusCode.ABORTED
        await ada.restrict()
        await ada.delete(changed.etag)
        assert (await fault(ada.delete()))[0] is grpc.StatusCode.NOT_FOUND


async def test_groups_survive_a_restart_and_are_nobody_elses(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await master(server)
        made = await ada.group(resources=["web"])
        await ada.policy(GROUP)
        await ada.assign("web", resource="web")
        other = await server.made("eve", role=access_pb2.ROLE_MASTER, accounts=["other"])
    async with keyed(tmp_path, "native") as server:
        kept = await server.access.GetGroup(
            access.GetGroupRequest(name=GROUP), metadata=ada.metadata
        )
        assert kept == made
        again = Groups(server, other.secret)
        again.metadata = ada.metadata
        assert (await fault(again.delete()))[0] is grpc.StatusCode.FAILED_PRECONDITION
        for metadata, count in ((ada.metadata, 1), (bearer(other.secret), 0)):
            listed = await server.access.ListGroups(
                access.ListGroupsRequest(parent="accounts/-"), metadata=metadata
            )
            assert len(listed.groups) == count
        audit = await server.access.ListAuditEntries(
            access.ListAuditEntriesRequest(resource=GROUP), metadata=ada.metadata
        )
        assert [(each.author, each.action) for each in audit.entries] == [
            ("apiKeys/ada", access_pb2.AuditEntry.ACTION_CREATE)
        ]


async def test_a_whole_set_with_groups_is_one_revision(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await master(server)
        request = pb2.ApplyPoliciesRequest(
            groups=[access_pb2.Group(name=GROUP, resources=["web"])],
            policies=[policy_pb2.Policy(name=POLICY, access_groups=[GROUP])],
            assignments=[
                policy_pb2.Assignment(
                    name="accounts/own/assignments/web",
                    policy=POLICY,
                    scope=policy_pb2.Scope(account="own", resource="web"),
                )
            ],
        )
        made = await server.policies.ApplyPolicies(request, metadata=ada.metadata)
        assert [each.name for each in made.changes] == [GROUP, POLICY, request.assignments[0].name]
        assert made.changes[0].new_group.resources == ["web"]
        again = await server.policies.ApplyPolicies(request, metadata=ada.metadata)
        assert (len(again.changes), again.revision) == (0, made.revision)
        request.groups[0].resources[:] = ["app"]
        call = server.policies.ApplyPolicies(request, metadata=ada.metadata)
        assert (await fault(call))[0] is grpc.StatusCode.FAILED_PRECONDITION
        # What a master prunes is what is his.
        await server.prepare()
        gone = await server.policies.ApplyPolicies(
            pb2.ApplyPoliciesRequest(prune=True), metadata=ada.metadata
        )
        assert {each.name.split("/")[1] for each in gone.changes} == {"own"}
        assert len(gone.changes) == 5


async def test_who_is_narrowed_assigns_only_to_what_is_his(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await master(server)
        await ada.group(resources=["web", "app"])
        await ada.policy(GROUP)
        made = await server.made(
            "web", role=access_pb2.ROLE_MASTER, accounts=["own"], resources=["web"]
        )
        web = Groups(server, made.secret)
        await web.assign("web", resource="web")
        denied = grpc.StatusCode.PERMISSION_DENIED
        assert (await fault(web.assign("app", resource="app")))[0] is denied
        assert (await fault(web.update("resources", resources=["web"])))[0] is denied
        assert (await fault(web.restrict()))[0] is denied
        await ada.assign("app", resource="app")
        call = server.policies.DeleteAssignment(
            pb2.DeleteAssignmentRequest(name="accounts/own/assignments/app"), metadata=web.metadata
        )
        assert (await fault(call))[0] is denied
