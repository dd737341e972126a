"""TLS 1.3 and client certificates: who gets in, by which name, and what is refused."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from limiter import errors
from limiter.cli.app import app
from limiter.listening import Address
from limiter.server import Config, Server
from limiter.tls import ServerFiles
from limiter.v1 import decision_service_pb2, decision_service_pb2_grpc
from tests.integration import transports
from tests.integration.inside import refused
from tests.integration.process import ServerProcess
from tests.transport.served import served


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Issues certificates into a folder."""

    folder: Path
    ca: trustme.CA

    @property
    def file(self) -> Path:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    def issue(self, *names: str, common_name: str | None = None) -> Pair:
        issued = self.ca.issue_cert(*names, common_name=common_name)
        stem = names[0].replace("/", "-").replace(":", "-")
        pair = Pair(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.key)
        return pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), trustme.CA())


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("127.0.0.1", "localhost")


def credentials(authority: Authority, pair: Pair | None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        authority.file.read_bytes(),
        None if pair is None else pair.key.read_bytes(),
        None if pair is None else pair.cert.read_bytes(),
    )


def check(channel: grpc.Channel) -> decision_service_pb2.CheckResponse:
    request = decision_service_pb2.CheckRequest()
    request.attempt.account = "a"
    request.attempt.contact = "c"
    return decision_service_pb2_grpc.DecisionServiceStub(channel).Check(request, timeout=30)


async def who(_request: bytes, context: Any) -> bytes:
    context_text = sorted(context.auth_context().items())
    return repr((context.peer_identities(), context_text)).encode()


async def test_a_handler_is_told_who_calls(authority: Authority, server_pair: Pair) -> None:
    context = ServerFiles(server_pair.cert, server_pair.key, authority.file).context()
    client = authority.issue("sender.example", common_name="sender")
    context_of_client = [
        ("transport_security_type", [b"ssl"]),
        ("x509_common_name", [b"sender"]),
        ("x509_subject_alternative_name", [b"sender.example"]),
    ]
    async with served(context, Who=who) as running:
        shown = credentials(authority, client)
        async with grpc.aio.secure_channel(running.address, shown) as channel:
            method: Any = channel.unary_unary("/test.T/Who")
            expected = ((b"sender.example",), context_of_client)
            assert await method(b"") == repr(expected).encode()


async def test_nobody_is_named_without_a_certificate(
    authority: Authority, server_pair: Pair
) -> None:
    context = ServerFiles(server_pair.cert, server_pair.key, None).context()
    async with served(context, Who=who) as running:
        shown = credentials(authority, None)
        async with grpc.aio.secure_channel(running.address, shown) as channel:
            method: Any = channel.unary_unary("/test.T/Who")
            expected = (None, [("transport_security_type", [b"ssl"])])
            assert await method(b"") == repr(expected).encode()
    async with served(Who=who) as running, grpc.aio.insecure_channel(running.address) as channel:
        method = channel.unary_unary("/test.T/Who")
        assert await method(b"") == repr((None, [])).encode()


def handshake(address: str, adapt: Callable[[ssl.SSLContext], None]) -> bytes:
    """What the server says first to a client of TLS that is adapted. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    adapt(context)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain) as channel,
    ):
        said = b""
        while data := channel.recv(4096):
            said += data
            # SETTINGS is the first frame of all; who is not let in gets a GOAWAY and the end.
            if len(said) > 3 and adapt is as_it_is:
                break
        return said


def as_it_is(_context: ssl.SSLContext) -> None:
    pass


def old(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def without_h2(context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["http/1.1"])


def test_only_new_tls_that_speaks_http2_is_let_in(
    tmp_path: Path, authority: Authority, server_pair: Pair
) -> None:
    files = {"tls_cert": server_pair.cert, "tls_key": server_pair.key}
    with ServerProcess(tmp_path / "data", **files) as server:
        assert handshake(server.address, as_it_is)[3] == 4
        with pytest.raises(ssl.SSLError):
            handshake(server.address, old)
        said = handshake(server.address, without_h2)
        # The last frame is a GOAWAY: INADEQUATE_SECURITY.
        assert said[-17 + 3] == 7
        assert said[-1] == 0xC
        with grpc.secure_channel(server.address, credentials(authority, None)) as channel:
            assert check(channel).decision.outcome


@pytest.mark.parametrize("transport", transports.TRANSPORTS)
def test_who_shows_no_certificate_is_not_let_in(
    transport: str,
    tmp_path: Path,
    authority: Authority,
    server_pair: Pair,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = authority.issue("client.example")
    other = Authority(tmp_path, trustme.CA()).issue("client.example")
    settings = {
        "tls_cert": server_pair.cert,
        "tls_key": server_pair.key,
        "tls_client_ca": authority.file,
        "transport": transport,
    }
    with ServerProcess(tmp_path / "data", **settings) as server:
        with grpc.secure_channel(server.address, credentials(authority, client)) as channel:
            assert check(channel).decision.outcome
        for pair in (None, other):
            with (
                grpc.secure_channel(server.address, credentials(authority, pair)) as channel,
                pytest.raises(grpc.RpcError) as caught,
            ):
                check(channel)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        command = ["check", "--address", server.address, "--account", "a", "--contact", "c"]
        files = ["--tls-ca", str(authority.file)]
        files += ["--tls-cert", str(client.cert), "--tls-key", str(client.key)]
        with pytest.raises(SystemExit) as ended:
            app(command + files)
        assert ended.value.code == 0
        assert "ALLOWED" in capsys.readouterr().out
        assert "neither client certificates" not in server.log


@pytest.mark.parametrize("asks", [False, True])
def test_tls_alone_is_not_enough_where_others_can_reach_it(
    asks: bool, authority: Authority, server_pair: Pair
) -> None:
    """Who asks no certificates of its clients asks for keys."""
    server = Server(
        Config(
            tls_cert=server_pair.cert,
            tls_key=server_pair.key,
            tls_client_ca=authority.file if asks else None,
        )
    )
    server._check_exposure([Address("192.0.2.1", 50051)])
    assert server._gate.demanded is not asks


@pytest.mark.parametrize("transport", transports.TRANSPORTS)
@pytest.mark.parametrize("wrong", ["tls_cert", "tls_key", "tls_client_ca", "swapped"])
async def test_files_that_are_none_are_named(
    wrong: str, transport: str, tmp_path: Path, authority: Authority, server_pair: Pair
) -> None:
    files = {
        "tls_cert": server_pair.cert,
        "tls_key": server_pair.key,
        "tls_client_ca": authority.file,
    }
    if wrong == "swapped":
        files |= {"tls_cert": server_pair.key, "tls_key": server_pair.cert}
    else:
        files[wrong] = tmp_path / "none.pem"
    error = await refused(tmp_path / "data", transport=transport, **files)
    assert isinstance(error, errors.InvalidArgument)
    assert error.message.startswith("tls_cert:" if wrong == "swapped" else f"{wrong}:")


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"tls_cert": Path("c")}, "tls_key"),
        ({"tls_key": Path("k")}, "tls_cert"),
        ({"tls_client_ca": Path("a")}, "tls_cert"),
    ],
)
def test_what_goes_together_is_asked_for(settings: dict[str, Any], missing: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"^{missing}: must be given"):
        Config(**settings)
