"""Client certificates that stand for keys, over both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from limiter.v1 import access_pb2, access_service_pb2, access_service_pb2_grpc
from tests.integration.access_requests import REQUESTS, bearer, outcome
from tests.integration.inside import serving

CHECK = "/limiter.v1.DecisionService/Check"
LIST = "/limiter.v1.PolicyService/ListPolicies"
OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


class Authority:
    """An authority, and clients with certificates of it."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        issued = self._ca.issue_cert("localhost")
        self.files = {
            "tls_cert": folder / "server.pem",
            "tls_key": folder / "server.key",
            "tls_client_ca": folder / "ca.pem",
        }
        issued.cert_chain_pems[0].write_to_path(self.files["tls_cert"])
        issued.private_key_pem.write_to_path(self.files["tls_key"])
        self._ca.cert_pem.write_to_path(self.files["tls_client_ca"])

    @asynccontextmanager
    async def channel(self, port: int, name: str) -> AsyncIterator[grpc.aio.Channel]:
        """A channel of the client whose certificate has this name."""
        own = self._ca.issue_cert(name)
        credentials = grpc.ssl_channel_credentials(
            self._ca.cert_pem.bytes(),
            own.private_key_pem.bytes(),
            own.cert_chain_pems[0].bytes(),
        )
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            yield channel


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_a_certificate_stands_for_its_key(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path)
    settings: dict[str, Any] = {**authority.files, "transport": kind, "require_keys": True}
    async with serving(tmp_path / "data", **settings) as inside:
        assert inside.server.warning == ""
        operator = (tmp_path / "data" / "operator.key").read_text().strip()
        port = inside.server.port
        async with authority.channel(port, "web.example") as web:
            for path in (CHECK, LIST):
                request = REQUESTS[path.rpartition("/")[2]]("own")
                assert await outcome(web, path, request) is UNAUTHENTICATED
                assert await outcome(web, path, request, bearer(operator)) is OK
                # What somebody showed before does not stay.
                assert await outcome(web, path, request) is UNAUTHENTICATED
            stub = access_service_pb2_grpc.AccessServiceStub(web)
            key = access_pb2.ApiKey(
                role=access_pb2.ROLE_SENDER, accounts=["own"], certificate_name="web.example"
            )
            request = access_service_pb2.CreateApiKeyRequest(api_key_id="web", api_key=key)
            made = await stub.CreateApiKey(request, metadata=bearer(operator))
            check = REQUESTS["Check"]
            for account, ends in (("own", OK), ("other", PERMISSION_DENIED), ("own", OK)):
                assert await outcome(web, CHECK, check(account)) is ends
            assert await outcome(web, LIST, REQUESTS["ListPolicies"]("own")) is PERMISSION_DENIED
            assert await outcome(web, CHECK, check("own"), bearer(made.secret)) is OK
            async with authority.channel(port, "app.example") as app:
                assert await outcome(app, CHECK, check("own")) is UNAUTHENTICATED
            revoke = access_service_pb2.RevokeApiKeyRequest(name="apiKeys/web")
            await stub.RevokeApiKey(revoke, metadata=bearer(operator))
            assert await outcome(web, CHECK, check("own")) is UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_where_nobody_asks_for_keys_the_certificate_says_who_it_was(
    tmp_path: Path, kind: str
) -> None:
    authority = Authority(tmp_path)
    settings: dict[str, Any] = {**authority.files, "transport": kind}
    async with (
        serving(tmp_path / "data", **settings) as inside,
        authority.channel(inside.server.port, "ada.example") as ada,
    ):
        stub = access_service_pb2_grpc.AccessServiceStub(ada)
        await stub.CreateGroup(
            access_service_pb2.CreateGroupRequest(
                parent="accounts/own", group_id="g", group=access_pb2.Group()
            )
        )
        audit = await stub.ListAuditEntries(access_service_pb2.ListAuditEntriesRequest())
        assert [each.author for each in audit.entries] == ["certificates/ada.example"]
