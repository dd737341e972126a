"""Versions, rollback and copies of policies over a real server, and who made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.v1 import access_pb2, access_service_pb2, policy_pb2
from limiter.v1 import policy_service_pb2 as pb2
from tests.integration.access_requests import bearer
from tests.integration.requests import cap
from tests.integration.test_access import Keyed, keyed


async def fault(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code()


async def changed(server: Keyed, secret: str, name: str, max_count: int) -> policy_pb2.Policy:
    """The policy with another maximum."""
    return await server.policies.UpdatePolicy(
        pb2.UpdatePolicyRequest(policy=policy_pb2.Policy(name=name, limits=[cap(max_count)])),
        metadata=bearer(secret),
    )


async def versions(server: Keyed, name: str, size: int = 0) -> list[pb2.PolicyVersion]:
    """All versions, page by page."""
    found: list[pb2.PolicyVersion] = []
    token = ""
    while True:
        page = await server.policies.ListPolicyVersions(
            pb2.ListPolicyVersionsRequest(name=name, page_size=size, page_token=token),
            metadata=server.metadata,
        )
        found += page.versions
        token = page.next_page_token
        if not token:
            return found


async def test_a_policy_goes_back_to_what_it_was(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        ada = await server.made("ada", role=access_pb2.ROLE_MASTER, accounts=["own"])
        eve = await server.made("eve", role=access_pb2.ROLE_MASTER, accounts=["own"])
        first = await server.policies.CreatePolicy(
            pb2.CreatePolicyRequest(
                parent="accounts/own", policy_id="p", policy=policy_pb2.Policy(limits=[cap(1)])
            ),
            metadata=bearer(ada.secret),
        )
        second = await changed(server, eve.secret, first.name, 2)
        kept = await versions(server, first.name, 1)
        assert [(each.policy, each.author) for each in kept] == [
            (second, "apiKeys/eve"),
            (first, "apiKeys/ada"),
        ]
        request = pb2.RollbackPolicyRequest(
            name=first.name, revision=kept[1].revision, etag=first.etag
        )
        back = server.policies.RollbackPolicy(request, metadata=bearer(ada.secret))
        assert await fault(back) is grpc.StatusCode.ABORTED
        request.etag = second.etag
        request.validate_only = True
        await server.policies.RollbackPolicy(request, metadata=bearer(ada.secret))
        assert len(await versions(server, first.name)) == 2
        request.validate_only = False
        third = await server.policies.RollbackPolicy(request, metadata=bearer(ada.secret))
        assert third.limits == first.limits
        assert third.etag not in {first.etag, second.etag}
        await server.policies.DeletePolicy(
            pb2.DeletePolicyRequest(name=first.name), metadata=server.metadata
        )
        before = await versions(server, first.name)
        assert [each.deleted for each in before] == [True, False, False, False]
        gone = server.policies.RollbackPolicy(request, metadata=server.metadata)
        assert await fault(gone) is grpc.StatusCode.NOT_FOUND
    async with keyed(tmp_path, "native") as server:
        assert await versions(server, first.name) == before
        audit = await server.access.ListAuditEntries(
            access_service_pb2.ListAuditEntriesRequest(resource=first.name, author="apiKeys/ada"),
            metadata=bearer(ada.secret),
        )
        assert [each.action for each in audit.entries] == [
            access_pb2.AuditEntry.ACTION_UPDATE,
            access_pb2.AuditEntry.ACTION_CREATE,
        ]


async def test_versions_that_there_are_not(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        await server.prepare()
        name = "accounts/own/policies/own"
        request = pb2.RollbackPolicyRequest(name=name, revision=99)
        call = server.policies.RollbackPolicy(request, metadata=server.metadata)
        assert await fault(call) is grpc.StatusCode.NOT_FOUND
        request = pb2.RollbackPolicyRequest(name=name)
        call = server.policies.RollbackPolicy(request, metadata=server.metadata)
        assert await fault(call) is grpc.StatusCode.INVALID_ARGUMENT
        listing = server.policies.ListPolicyVersions(
            pb2.ListPolicyVersionsRequest(name="policies/never"), metadata=server.metadata
        )
        assert await fault(listing) is grpc.StatusCode.NOT_FOUND


async def test_a_copy_is_a_policy_of_its_own(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        await server.prepare()
        master = await server.made("ada", role=access_pb2.ROLE_MASTER, accounts=["own"])
        await server.policies.CreatePolicy(
            pb2.CreatePolicyRequest(
                policy_id="g", policy=policy_pb2.Policy(display_name="G", limits=[cap(7)])
            ),
            metadata=server.metadata,
        )
        mine: Any = {"parent": "accounts/own", "policy_id": "copy"}
        copy = await server.policies.ClonePolicy(
            pb2.ClonePolicyRequest(source="policies/g", **mine), metadata=bearer(master.secret)
        )
        assert (copy.name, copy.display_name) == ("accounts/own/policies/copy", "G")
        assert copy.limits == [cap(7)]
        refused: list[tuple[str, Any, grpc.StatusCode]] = [
            ("policies/g", mine, grpc.StatusCode.ALREADY_EXISTS),
            ("policies/none", mine, grpc.StatusCode.NOT_FOUND),
            ("accounts/other/policies/own", mine, grpc.StatusCode.NOT_FOUND),
            ("policies/g", {"policy_id": "h"}, grpc.StatusCode.PERMISSION_DENIED),
            (
                "policies/g",
                {"parent": "accounts/other", "policy_id": "h"},
                grpc.StatusCode.PERMISSION_DENIED,
            ),
        ]
        for source, into, code in refused:
            request = pb2.ClonePolicyRequest(source=source, **into)
            call = server.policies.ClonePolicy(request, metadata=bearer(master.secret))
            assert await fault(call) is code, source
        across = pb2.ClonePolicyRequest(source="accounts/other/policies/own", **mine)
        call = server.policies.ClonePolicy(across, metadata=server.metadata)
        assert await fault(call) is grpc.StatusCode.INVALID_ARGUMENT
