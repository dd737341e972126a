"""Who may call what, over both transports: the matrix of every method and every way to be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.access import Permission
from limiter.v1 import access_pb2, access_service_pb2, policy_pb2, policy_service_pb2
from limiter.v1 import decision_service_pb2 as decisions
from limiter.v1 import test_clock_service_pb2 as clock_pb2
from tests.integration.access_requests import (
    FILTERED,
    PERMISSIONS,
    REQUESTS,
    SERVICES,
    attempt,
    bearer,
    outcome,
)
from tests.integration.inside import Inside, serving

TRANSPORTS = ("native", "grpcio")
START_MS = 1_800_000_000_000

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED

PATHS = [f"/{service.full_name}/{each.name}" for service in SERVICES for each in service.methods]


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


class Keyed(Inside):
    """A server that asks for keys, and its operator."""

    def __init__(self, inside: Inside, operator: str) -> None:
        super().__init__(inside.server, inside.channel)
        self.operator = operator
        self.metadata = bearer(operator)
        self._count = 0

    async def key(self, **fields: Any) -> str:
        """The secret of a new key."""
        self._count += 1
        return (await self.made(f"key-{self._count}", **fields)).secret

    async def made(self, api_key_id: str, **fields: Any) -> access_service_pb2.CreateApiKeyResponse:
        if "role" not in fields and "permissions" not in fields:
            fields["permissions"] = list(Permission)
        request = access_service_pb2.CreateApiKeyRequest(
            api_key_id=api_key_id, api_key=access_pb2.ApiKey(**fields)
        )
        return await self.access.CreateApiKey(request, metadata=self.metadata)

    async def set_clock(self, instant_ms: int) -> None:
        now = Timestamp(seconds=instant_ms // 1000, nanos=instant_ms % 1000 * 1_000_000)
        request = clock_pb2.SetTestClockRequest(current_time=now)
        await self.test_clock.Set(request, metadata=self.metadata)

    async def prepare(self) -> None:
        """Gives two accounts a policy, an assignment and a key of their own."""
        for account in ("own", "other"):
            policy = await self.policies.CreatePolicy(
                policy_service_pb2.CreatePolicyRequest(
                    parent=f"accounts/{account}", policy_id="own", policy=policy_pb2.Policy()
                ),
                metadata=self.metadata,
            )
            await self.policies.CreateAssignment(
                policy_service_pb2.CreateAssignmentRequest(
                    parent=f"accounts/{account}",
                    assignment_id="own",
                    assignment=policy_pb2.Assignment(
                        policy=policy.name, scope=policy_pb2.Scope(account=account)
                    ),
                ),
                metadata=self.metadata,
            )
            await self.made(f"of-{account}", role=access_pb2.ROLE_VIEWER, accounts=[account])


@asynccontextmanager
async def keyed(data_dir: Path, transport: str, **settings: Any) -> AsyncIterator[Keyed]:
    """A server on loopback that asks for keys; its clock stands at START_MS."""
    settings = {"clock_start_ms": START_MS, "require_keys": True, **settings}
    async with serving(data_dir, transport=transport, **settings) as inside:
        operator = (data_dir / "operator.key").read_text().strip()
        yield Keyed(inside, operator)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_method_denies_whoever_is_wrong(tmp_path: Path, transport: str) -> None:
    everything = list(Permission)
    async with keyed(tmp_path, transport) as server:
        await server.prepare()
        expired = await server.key(
            accounts=["own"], expire_time=Timestamp(seconds=START_MS // 1000 + 1)
        )
        revoked = await server.made("revoked", accounts=["own"])
        await server.access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(name=revoked.api_key.name),
            metadata=server.metadata,
        )
        lacking = {
            each: await server.key(
                accounts=["own"], permissions=[other for other in everything if other != each]
            )
            for each in Permission
        }
        foreign = await server.key(accounts=["other"])
        narrow = await server.key(accounts=["own"], resources=["web"], campaigns=["spring"])
        wrong = server.operator[:-1] + ("0" if server.operator[-1] != "0" else "1")
        await server.set_clock(START_MS + 1_000)
        served = 0
        for path in PATHS:
            name = name_of(path)
            request = REQUESTS[name]("own")

            async def ends(
                *metadata: tuple[str, str], path: str = path, request: Any = request
            ) -> grpc.StatusCode:
                return await outcome(server.channel, path, request, metadata)

            if await ends() is UNIMPLEMENTED:
                continue
            served += 1
            for metadata in (
                (),
                bearer(wrong),
                bearer(expired),
                bearer(revoked.secret),
                (("authorization", "Bearer"),),
                bearer("lk_operator_"),
                (("authorization", server.operator),),
                (("authorization", f"Basic {server.operator}"),),
                bearer(server.operator) * 2,
            ):
                assert await ends(*metadata) is UNAUTHENTICATED, (name, metadata)
            assert await ends(*bearer(lacking[PERMISSIONS[name]])) is PERMISSION_DENIED, name
            if name not in FILTERED:
                ended = await ends(*bearer(foreign))
                assert ended in {PERMISSION_DENIED, NOT_FOUND}, (name, ended)
                missing = await outcome(
                    server.channel, path, REQUESTS[name]("nowhere"), bearer(foreign)
                )
                assert ended is missing, name
                if name not in {"GetAccount", "ListPolicies", "ListAssignments", "ListGroups",
                                "GetPolicy", "GetAssignment", "GetGroup", "ListPolicyVersions",
                                "ListAuditEntries", "CreateApiKey",
                                "ListRestrictions"}:  # fmt: skip
                    assert await ends(*bearer(narrow)) is PERMISSION_DENIED, name
            for malformed in (f"{path}/", path.lower(), f"/{path}", path.replace("v1", "v2")):
                ended = await outcome(server.channel, malformed, request, bearer(server.operator))
                assert ended is UNIMPLEMENTED, malformed
            ended = await ends(*bearer(server.operator))
            assert ended not in {UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED}, (name, ended)
        assert served > 18


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_may_is_let_in(tmp_path: Path, transport: str) -> None:
    async with keyed(tmp_path, transport) as server:
        await server.prepare()
        only = {
            each: await server.key(accounts=["own", "else"], permissions=[each])
            for each in Permission
        }
        for path in PATHS:
            name = name_of(path)
            key = only[PERMISSIONS[name]]
            ended = await outcome(server.channel, path, REQUESTS[name]("own"), bearer(key))
            if ended is not UNIMPLEMENTED and name not in {"CreateApiKey", "RevokeApiKey",
                                                           "RotateApiKey"}:  # fmt: skip
                assert ended not in {UNAUTHENTICATED, PERMISSION_DENIED}, (name, ended)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_revoked_key_ends_at_once_in_open_connections_and_streams(
    tmp_path: Path, transport: str
) -> None:
    async with keyed(tmp_path, transport) as server:
        made = await server.made("sender", role=access_pb2.ROLE_SENDER, accounts=["own"])
        check = decisions.CheckRequest(attempt=attempt("own"))
        await server.decisions.Check(check, metadata=bearer(made.secret))
        stream: Any = server.decisions.CommitStream(metadata=bearer(made.secret))
        await stream.write(decisions.CommitRequest(attempt=attempt("own")))
        assert (await stream.read()).decision.outcome
        await server.access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(name="apiKeys/sender"), metadata=server.metadata
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.decisions.Check(check, metadata=bearer(made.secret))
        assert caught.value.code() is UNAUTHENTICATED
        await stream.write(decisions.CommitRequest(attempt=attempt("own")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is UNAUTHENTICATED


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_streams_that_are_silent_end_with_their_key(tmp_path: Path, transport: str) -> None:
    async with keyed(tmp_path, transport) as server:
        made = await server.made("sender", role=access_pb2.ROLE_SENDER, accounts=["own"])
        stream: Any = server.decisions.CommitStream(metadata=bearer(made.secret))
        await stream.write(decisions.CommitRequest(attempt=attempt("own")))
        assert (await stream.read()).decision.outcome
        # One that has not said anything yet, and one that only listens.
        fresh: Any = server.decisions.CommitStream(metadata=bearer(made.secret))
        template = decisions.WatchUsageRequest(attempt=attempt("own"))
        watch: Any = server.decisions.WatchUsage(template, metadata=bearer(made.secret))
        assert (await watch.read()).allowed
        others: Any = server.decisions.WatchUsage(template, metadata=server.metadata)
        assert (await others.read()).allowed
        await server.access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(name="apiKeys/sender"), metadata=server.metadata
        )
        for call in (stream, fresh, watch):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), 30)
            assert caught.value.code() is UNAUTHENTICATED
        # Whose key is good stays.
        assert not others.done()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_of_a_stream_are_checked_one_by_one(tmp_path: Path, transport: str) -> None:
    async with keyed(tmp_path, transport) as server:
        secret = await server.key(role=access_pb2.ROLE_SENDER, accounts=["own"])
        stream: Any = server.decisions.CommitStream(metadata=bearer(secret))
        await stream.write(decisions.CommitRequest(attempt=attempt("own")))
        assert (await stream.read()).decision.outcome
        await stream.write(decisions.CommitRequest(attempt=attempt("other")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is PERMISSION_DENIED


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_rotation_keeps_the_old_secret_for_its_grace(tmp_path: Path, transport: str) -> None:
    async with keyed(tmp_path, transport) as server:
        made = await server.made("sender", role=access_pb2.ROLE_SENDER, accounts=["own"])

        async def lets_in(secret: str) -> bool:
            path = "/limiter.v1.DecisionService/Check"
            ended = await outcome(server.channel, path, REQUESTS["Check"]("own"), bearer(secret))
            assert ended in {OK, UNAUTHENTICATED}
            return ended is OK

        assert await lets_in(made.secret)
        second = await server.access.RotateApiKey(
            access_service_pb2.RotateApiKeyRequest(
                name="apiKeys/sender", grace_duration=Duration(seconds=60)
            ),
            metadata=server.metadata,
        )
        assert second.secret != made.secret
        assert await lets_in(made.secret)
        assert await lets_in(second.secret)
        await server.set_clock(START_MS + 60_000)
        assert not await lets_in(made.secret)
        assert await lets_in(second.secret)
        third = await server.access.RotateApiKey(
            access_service_pb2.RotateApiKeyRequest(name="apiKeys/sender"), metadata=server.metadata
        )
        assert not await lets_in(second.secret)
        assert await lets_in(third.secret)


async def test_keys_and_their_ends_survive_a_restart(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        kept = await server.key(role=access_pb2.ROLE_SENDER, accounts=["own"])
        gone = await server.made("gone", role=access_pb2.ROLE_SENDER, accounts=["own"])
        await server.access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(name="apiKeys/gone"), metadata=server.metadata
        )
        listed = await server.access.ListApiKeys(
            access_service_pb2.ListApiKeysRequest(), metadata=server.metadata
        )
        audit = await server.access.ListAuditEntries(
            access_service_pb2.ListAuditEntriesRequest(), metadata=server.metadata
        )
        operator = server.operator
    async with keyed(tmp_path, "native") as server:
        assert server.operator == operator
        check = decisions.CheckRequest(attempt=attempt("own"))
        await server.decisions.Check(check, metadata=bearer(kept))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.decisions.Check(check, metadata=bearer(gone.secret))
        assert caught.value.code() is UNAUTHENTICATED
        again = await server.access.ListApiKeys(
            access_service_pb2.ListApiKeysRequest(), metadata=server.metadata
        )
        assert again == listed
        audit_again = await server.access.ListAuditEntries(
            access_service_pb2.ListAuditEntriesRequest(), metadata=server.metadata
        )
        assert audit_again == audit
        assert [each.author for each in audit.entries] == ["apiKeys/operator"] * 3 + ["server"]


def files_holding(folder: Path, texts: set[bytes]) -> set[str]:
    """The names of the files in which one of the texts occurs."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    return {path.name for path in files if any(each in path.read_bytes() for each in texts)}


async def test_no_secret_is_on_disk_but_the_operators(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        secret = await server.key(role=access_pb2.ROLE_SENDER, accounts=["own"])
    digits = {text.rpartition("_")[2].encode() for text in (secret, server.operator)}
    assert files_holding(tmp_path, digits) == {"operator.key"}


async def test_health_is_open_and_reflection_is_not(tmp_path: Path) -> None:
    async with keyed(tmp_path, "native") as server:
        path = "/grpc.health.v1.Health/Check"
        assert await outcome(server.channel, path, policy_pb2.Scope()) is OK
        listing: Any = server.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        call = listing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is UNAUTHENTICATED
        call = listing(metadata=server.metadata)
        await call.write(b"\x3a\x00")
        assert b"limiter.v1.AccessService" in await call.read()
        await call.done_writing()


async def test_a_server_without_keys_asks_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as inside:
        check = decisions.CheckRequest(attempt=attempt("own"))
        await inside.decisions.Check(check)
        assert not (tmp_path / "operator.key").exists()
        # What somebody shows all the same is nobody's business.
        await inside.decisions.Check(check, metadata=bearer("lk_x_y"))
