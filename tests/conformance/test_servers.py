"""Other people's tests pass: h2spec on HTTP/2, grpc-go's interoperability tests on gRPC.

`make conformance` runs them; `make test` leaves them out, because they are built first.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import trustme
from grpc_tools import protoc

from tests.clients.languages import ROOT
from tests.conformance.tools import H2SPEC, INTEROP, run
from tests.integration.process import ServerProcess

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1_500)]

PROTO = Path(__file__).parent / "proto"
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
)


def test_h2spec_passes_whole(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", transport="native") as server:
        host, port = server.address.split(":")
        done = run(H2SPEC, "--strict", "--host", host, "--port", port, "--timeout", "5")
        assert done.returncode == 0, done.stdout
        found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
        assert found is not None, done.stdout
        total, *rest = (int(count) for count in found.groups())
        assert total > 140
        assert rest == [total, 0, 0]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the test service's stubs."""
    folder = tmp_path_factory.mktemp("stubs")
    package = folder / "grpc_testing_stubs"
    package.mkdir()
    (package / "test.proto").write_text((PROTO / "grpc/testing/test.proto").read_text())
    status: int = protoc.main(
        [
            "protoc",
            f"--proto_path={folder}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            str(package / "test.proto"),
        ]
    )
    assert status == 0
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An authority, and a certificate and key of it for the server."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("foo.test.google.fr")
    paths = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority.cert_pem.write_to_path(paths[0])
    for blob in issued.cert_chain_pems:
        blob.write_to_path(paths[1], append=True)
    issued.private_key_pem.write_to_path(paths[2])
    return paths


@pytest.fixture(scope="module", params=["plain", "tls"])
def client(
    request: pytest.FixtureRequest, stubs: Path, certificates: tuple[Path, Path, Path]
) -> Iterator[list[str]]:
    """The arguments of a client of a running test service."""
    authority, *pair = map(str, certificates)
    is_tls = request.param == "tls"
    command = [sys.executable, "-m", "tests.conformance.interop", str(stubs)]
    with subprocess.Popen(
        command + (pair if is_tls else []), stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        arguments = [f"--server_port={int(server.stdout.readline())}", "--server_host=127.0.0.1"]
        if is_tls:
            override = "--server_host_override=foo.test.google.fr"
            arguments += ["--use_tls", "--use_test_ca", f"--ca_file={authority}", override]
        yield arguments
        server.kill()


@pytest.mark.parametrize("case", CASES)
def test_grpc_gos_client_is_content(case: str, client: list[str]) -> None:
    done = run(INTEROP, *client, f"--test_case={case}", timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
