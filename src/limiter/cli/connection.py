"""One connection to a server, for the length of one command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc

from limiter.cli.errors import CommandError, Locate, explain
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import ClientOptions
from limiter.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    decision_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
)

PAGE_SIZE = 1_000


class _Paged(Protocol):
    """A request for one page of a list."""

    page_token: str


class _Reply(Protocol):
    """One page of a list."""

    next_page_token: str


_Page = TypeVar("_Page", bound=_Reply)


class Connection:
    """The stubs of the two services, and the time that is left for the command."""

    def __init__(self, channel: grpc.Channel, timeout_s: float) -> None:
        self.decisions = decision_service_pb2_grpc.DecisionServiceStub(channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(channel)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds until the command's deadline, at least a millisecond."""
        return max(0.001, self._deadline_s - time.monotonic())

    def restart_deadline(self) -> None:
        """Starts the deadline again: somebody was asked a question and took time to answer."""
        self._deadline_s = time.monotonic() + self._timeout_s

    def pages(
        self, method: grpc.UnaryUnaryMultiCallable[Any, _Page], request: _Paged
    ) -> Iterator[_Page]:
        """The replies of a method that lists, page after page; `request` asks for the first one and
        is turned to the next ones."""
        while True:
            page = method(request, timeout=self.remaining_s())
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def list_policies(self, parents: list[str]) -> policy_service_pb2.ListPoliciesResponse:
        """All policies of these parents, as one response."""
        found = policy_service_pb2.ListPoliciesResponse()
        for parent in parents:
            request = policy_service_pb2.ListPoliciesRequest(parent=parent, page_size=PAGE_SIZE)
            for page in self.pages(self.policies.ListPolicies, request):
                found.policies.extend(page.policies)
        return found

    def list_assignments(self, parents: list[str]) -> policy_service_pb2.ListAssignmentsResponse:
        """All assignments of these parents, as one response."""
        found = policy_service_pb2.ListAssignmentsResponse()
        for parent in parents:
            request = policy_service_pb2.ListAssignmentsRequest(parent=parent, page_size=PAGE_SIZE)
            for page in self.pages(self.policies.ListAssignments, request):
                found.assignments.extend(page.assignments)
        return found

    def list_groups(self, parent: str) -> access_service_pb2.ListGroupsResponse:
        """All groups of this parent, as one response."""
        found = access_service_pb2.ListGroupsResponse()
        request = access_service_pb2.ListGroupsRequest(parent=parent, page_size=PAGE_SIZE)
        for page in self.pages(self.access.ListGroups, request):
            found.groups.extend(page.groups)
        return found


def open_channel(options: ClientOptions) -> grpc.Channel:
    """A channel to the server, with TLS where a file of it is named. Raises CommandError."""
    # A proxy of the environment is for the web, not for the service next door.
    settings = [("grpc.enable_http_proxy", 0)]
    if (options.tls_cert is None) != (options.tls_key is None):
        raise CommandError(ExitCode.USAGE, "--tls-cert and --tls-key go together")
    if options.tls_ca is None and options.tls_cert is None:
        return grpc.insecure_channel(options.address, settings)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(options.tls_ca, "--tls-ca"),
        private_key=_read(options.tls_key, "--tls-key"),
        certificate_chain=_read(options.tls_cert, "--tls-cert"),
    )
    return grpc.secure_channel(options.address, credentials, settings)


class _KeyShower(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Shows a key with every call."""

    def __init__(self, key: str) -> None:
        self._shown = ("authorization", f"Bearer {key}")

    def _call(self, proceed: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), self._shown)
        return proceed(details._replace(metadata=metadata), request)

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """One request, one reply."""
        return self._call(continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """One request, a stream of replies."""
        return self._call(continuation, client_call_details, request)


def show_key(channel: grpc.Channel, key: str) -> grpc.Channel:
    """The channel, on which every call shows the key: itself, or `@` and the file that holds it.
    Raises CommandError for a file that cannot be read."""
    if key.startswith("@"):
        data = _read(Path(key[1:]), "--api-key") or b""
        key = data.decode("utf-8", "replace").strip()
    if not key:
        return channel
    if not (key.isascii() and key.isprintable()):
        raise CommandError(ExitCode.USAGE, "--api-key: a key looks like lk_name_…")
    return grpc.intercept_channel(channel, _KeyShower(key))


def _read(path: Path | None, flag: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(ExitCode.USAGE, f"{flag}: {error}") from error


@contextmanager
def connect(options: ClientOptions, locate: Locate | None = None) -> Iterator[Connection]:
    """A connection as `options` say. A failed call leaves it as CommandError; `locate` finds the
    place of a field in the user's file."""
    with open_channel(options) as channel:
        shown = show_key(channel, options.api_key)
        try:
            yield Connection(shown, options.timeout_s)
        except grpc.RpcError as error:
            raise explain(error, options.address, locate) from error
