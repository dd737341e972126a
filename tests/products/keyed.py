"""A server that asks for keys, and what its operator and others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from limiter.v1 import access_pb2, access_service_pb2, access_service_pb2_grpc
from tests.integration.access_requests import bearer
from tests.integration.process import START_MS, ServerProcess

__all__ = ["Keyed", "Metadata"]

Metadata = tuple[tuple[str, str], ...]


class Keyed:
    """A server on a folder, to be used as a context manager, and the operator's metadata."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProcess(folder, clock_start_ms=START_MS, require_keys=True)
        self.access = access_service_pb2_grpc.AccessServiceStub(self.server.channel)
        self.operator: Metadata = bearer((folder / "operator.key").read_text().strip())

    def key(self, account: str, **fields: Any) -> Metadata:
        """The metadata of the calls of a new key for the account."""
        request = access_service_pb2.CreateApiKeyRequest(
            api_key_id=fields.pop("api_key_id", "key"),
            api_key=access_pb2.ApiKey(accounts=[account], **fields),
        )
        return bearer(self.access.CreateApiKey(request, metadata=self.operator).secret)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.server.__exit__(*exception)
