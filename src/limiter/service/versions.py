"""The part of PolicyService that looks back: versions of policies, rollback, and copies.

In flow decoded requests; out flow policies as they were, and changes like any other: no count is
lost by going back, and going back is a new version.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc

from limiter import errors, model
from limiter.policy import PolicyStore
from limiter.service import conversion
from limiter.service.pages import Page
from limiter.service.policy import carry_out, new_name
from limiter.v1 import policy_pb2, policy_service_pb2
from limiter.versions import PolicyVersions, Version

__all__ = ["VersionServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class VersionServicer:
    """Serves one `PolicyStore` and what its policies were. `commit` and `now_ms` are those of
    `PolicyServicer`."""

    def __init__(
        self,
        store: PolicyStore,
        versions: PolicyVersions,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._versions = versions
        self._commit = commit
        self._now_ms = now_ms

    async def ClonePolicy(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.ClonePolicyRequest, context: _Context
    ) -> policy_pb2.Policy:
        """Copies a policy under a new name."""
        owner = model.policy_account(request.source, "source")
        name = new_name(request.parent, "policies", request.policy_id, "policy_id")
        account = model.account_of(name)
        if owner not in {"", account}:
            raise errors.InvalidArgument.for_field(
                "parent",
                f"a policy of account {owner!r} is copied inside that account only: name"
                f" accounts/{owner}",
            )
        source = self._store.policy(request.source)
        copy = replace(
            source,
            name=name,
            display_name=request.display_name or source.display_name,
            etag="",
        )
        copy.check("policy")
        draft = self._store.draft()
        draft.create_policy(copy, "policy")
        prepared = await carry_out(
            self._store, self._commit, draft, self._now_ms(), request.validate_only
        )
        made = prepared.policies[0].new
        assert made is not None
        return conversion.policy_to_message(made)

    async def ListPolicyVersions(  # noqa: N802
        self, request: policy_service_pb2.ListPolicyVersionsRequest, context: _Context
    ) -> policy_service_pb2.ListPolicyVersionsResponse:
        """Lists what a policy was, the newest version first."""
        model.policy_account(request.name, "name")
        page = Page(request, f"versions {request.name}")
        kept = self._versions.of(request.name)
        if not kept:
            raise _no_version(request.name, "no version of it is kept")
        before = int(page.after) if page.after else None
        found = [each for each in kept if before is None or each.revision < before]
        await self._commit()
        return policy_service_pb2.ListPolicyVersionsResponse(
            versions=[_version_to_message(each) for each in found[: page.size]],
            next_page_token=(
                page.next_token(str(found[page.size - 1].revision))
                if len(found) > page.size
                else ""
            ),
        )

    async def RollbackPolicy(  # noqa: N802
        self, request: policy_service_pb2.RollbackPolicyRequest, context: _Context
    ) -> policy_pb2.Policy:
        """Makes a policy what it was."""
        model.policy_account(request.name, "name")
        if request.revision <= 0:
            raise model.missing("revision", "name the revision of a version; list them to see")
        current = self._store.policy(request.name)
        version = self._versions.find(request.name, request.revision)
        if version is None or version.message is None:
            raise _no_version(
                request.name, f"no version of it that revision {request.revision} made is kept"
            )
        message = policy_pb2.Policy.FromString(version.message)
        earlier = replace(conversion.policy_from_message(message, "policy"), etag=request.etag)
        earlier.check("policy")
        draft = self._store.draft()
        draft.put_policy(earlier, "policy")
        prepared = await carry_out(
            self._store, self._commit, draft, self._now_ms(), request.validate_only
        )
        made = prepared.policies[0].new if prepared.policies else current
        assert made is not None
        return conversion.policy_to_message(made)


def _version_to_message(version: Version) -> policy_service_pb2.PolicyVersion:
    policy = policy_pb2.Policy(name=version.name)
    if version.message is not None:
        policy = policy_pb2.Policy.FromString(version.message)
    return policy_service_pb2.PolicyVersion(
        policy=policy,
        revision=version.revision,
        author=version.author,
        time=conversion.timestamp_from_ms(version.time_ms),
        deleted=version.message is None,
    )


def _no_version(name: str, what: str) -> errors.NotFound:
    return errors.NotFound(
        "VERSION_NOT_FOUND", f"{name}: {what}; list its versions", metadata={"resource": name}
    )
