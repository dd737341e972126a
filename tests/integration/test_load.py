"""Loads of a few calls on running servers: everything that was sent is accounted for."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from typer.testing import CliRunner

from limiter import errors, load, load_server
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.v1 import policy_service_pb2
from tests.integration.process import ServerProcess

SMALL: dict[str, Any] = {
    "accounts": 4,
    "contacts": 5,
    "distribution": "uniform",
    "connections": 3,
    "streams": 4,
    "duration_s": 30.0,
}
SMALL_OPTIONS = [
    "--accounts=4",
    "--distribution=uniform",
    "--contacts=5",
    "--connections=3",
    "--streams=4",
    "--warmup=0",
    "--count=300",
]
LIMITED = {
    "policies": [
        {
            "name": "policies/few",
            "limits": [
                {
                    "limitId": "few",
                    "cap": {
                        "measure": "MEASURE_MESSAGES",
                        "maxCount": 7,
                        "window": {"rolling": "86400s"},
                    },
                    "enforcement": "ENFORCEMENT_ENFORCED",
                }
            ],
        }
    ],
    "assignments": [{"name": "assignments/few", "policy": "policies/few"}],
}


@pytest.fixture(params=["native", "grpcio"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", transport=request.param) as started:
        yield started


def limit(server: ServerProcess) -> None:
    request = json_format.ParseDict(LIMITED, policy_service_pb2.ApplyPoliciesRequest())
    server.policies.ApplyPolicies(request, timeout=30)


def measure(address: str, **changes: Any) -> load.Measurement:
    return load.run(load.Plan(**{**SMALL, **changes}), address, lambda progress: None)


@pytest.mark.parametrize(
    "shape",
    [
        {"mode": "unary"},
        {"mode": "unary", "request_ids": True, "check_share": 0.5},
        {"mode": "batch", "batch_size": 4},
        {"mode": "batch", "batch_size": 4, "check_share": 0.5, "request_ids": True},
        {"mode": "stream", "depth": 3, "request_ids": True},
    ],
    ids=str,
)
def test_every_call_is_accounted_for(server: ServerProcess, shape: dict[str, Any]) -> None:
    limit(server)
    measured = measure(server.address, call_count=200, **shape)
    assert measured.sent_in_all == measured.calls == 200
    assert measured.decisions == 200 * shape.get("batch_size", 1)
    assert measured.failures == {}
    assert measured.lost_connections == 0
    # 4 accounts may send 7 messages each; Checks count nothing.
    assert measured.denied > 0
    if "check_share" not in shape:
        assert measured.allowed == 4 * 7
    assert sum(count for _, count in measured.classes) == 200
    assert 0 < measured.quantiles_ms[50.0] <= measured.quantiles_ms[99.9] <= measured.max_ms


def test_the_same_seed_asks_for_the_same(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        first = measure(server.address, call_count=50)
        again = measure(server.address, call_count=50, connections=1)
        other = measure(server.address, call_count=50, seed=2)
    assert first.work == again.work != other.work


def test_request_ids_are_never_those_of_an_earlier_run(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        limit(server)
        plan: dict[str, Any] = {"call_count": 7, "request_ids": True, "accounts": 1}
        assert measure(server.address, **plan).allowed == 7
        # Repeats of the same ids would be answered as before.
        assert measure(server.address, **plan).denied == 7


def test_an_open_load_keeps_its_rate(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        measured = measure(server.address, rate=1_000.0, duration_s=0.5, warmup_s=0.0)
    # No call is sent before it is due, however fast the server is.
    assert 0 < measured.sent_in_all <= 1_000 * (measured.duration_s + 60)
    assert measured.decisions_per_s < 2_000
    assert measured.samples


def test_the_servers_processor_time_is_found(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        port = int(server.address.rpartition(":")[2])
        assert load_server.listening_process(port) == server.process.pid
        before_s = load_server.cpu_s(server.process.pid)
        measure(server.address, call_count=5_000)
        after_s = load_server.cpu_s(server.process.pid)
    assert before_s is not None
    assert after_s is not None
    assert after_s > before_s


def test_calls_that_are_refused_are_failures(tmp_path: Path) -> None:
    """A limit that needs a field which the load does not give."""
    limits = json.loads(json.dumps(LIMITED))
    limits["policies"][0]["limits"][0]["cap"]["per"] = ["DIMENSION_CAMPAIGN"]
    with ServerProcess(tmp_path / "data") as server:
        request = json_format.ParseDict(limits, policy_service_pb2.ApplyPoliciesRequest())
        server.policies.ApplyPolicies(request, timeout=30)
        unary = measure(server.address, call_count=30)
        stream = measure(server.address, call_count=30, mode="stream")
    for measured in (unary, stream):
        assert measured.decisions == 0
        assert sum(measured.failures.values()) == 30
        assert measured.failures["INVALID_ARGUMENT"] > 0
        assert measured.first_failure is not None
        assert "attempt.campaign" in measured.first_failure


def test_nobody_there_is_said() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(errors.Unavailable, match=str(port)):
        measure(f"127.0.0.1:{port}")


def test_a_server_that_hangs_up_is_said() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def hang_up() -> None:
            for _ in range(SMALL["connections"]):
                listening.accept()[0].close()

        closing_thread = threading.Thread(target=hang_up)
        closing_thread.start()
        with pytest.raises(errors.Unavailable, match="closed all connections"):
            measure(f"127.0.0.1:{listening.getsockname()[1]}", warmup_s=0.0)
        closing_thread.join()


def bench(*arguments: str) -> Any:
    environment = {"LIMITER_ADDRESS": "127.0.0.1:1", "COLUMNS": "160"}
    return CliRunner().invoke(app, ["bench", *arguments], env={**os.environ, **environment})


def test_the_command_starts_a_server_of_its_own() -> None:
    result = bench(*SMALL_OPTIONS, "--output=json")
    assert result.exit_code == ExitCode.OK, result.output
    told = json.loads(result.stdout)
    assert told["servers"][0]["allowed"] == 300
    assert told["plan"]["call_count"] == 300
    assert "a server of its own" in result.stderr


def test_the_command_compares_and_takes_its_policy_away(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "first") as first,
        ServerProcess(tmp_path / "second", transport="grpcio") as second,
    ):
        plot = tmp_path / "plot.png"
        result = bench(
            *SMALL_OPTIONS, f"--address={first.address}", f"--compare={second.address}",
            f"--plot={plot}",
        )  # fmt: skip
        assert result.exit_code == ExitCode.OK, result.output
        assert "first / second" in result.stdout
        assert plot.exists()
        for server in (first, second):
            listed = server.policies.ListPolicies(policy_service_pb2.ListPoliciesRequest())
            assert list(listed.policies) == []


def test_the_command_leaves_policies_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policies.json"
    file.write_text(json.dumps(LIMITED))
    with ServerProcess(tmp_path / "data") as server:
        arguments = [*SMALL_OPTIONS, f"--address={server.address}"]
        result = bench(*arguments, f"--policies={file}", "--output=json")
        assert result.exit_code == ExitCode.OK, result.output
        assert json.loads(result.stdout)["servers"][0]["allowed"] == 28
        # The built-in policy finds its place taken.
        refused = bench(*arguments)
        assert refused.exit_code == ExitCode.CONFLICT
        assert "--policies FILE" in refused.stderr
        server.policies.GetPolicy(policy_service_pb2.GetPolicyRequest(name="policies/few"))


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    wrong = bench("--duration=0", "--address=127.0.0.1:1")
    assert wrong.exit_code == ExitCode.USAGE
    assert "--duration: must be above 0" in wrong.stderr
    absent = bench(*SMALL_OPTIONS, "--address=127.0.0.1:1")
    assert absent.exit_code == ExitCode.UNAVAILABLE
    limits = json.loads(json.dumps(LIMITED))
    limits["policies"][0]["limits"][0]["cap"]["per"] = ["DIMENSION_CAMPAIGN"]
    file = tmp_path / "policies.json"
    file.write_text(json.dumps(limits))
    with ServerProcess(tmp_path / "data") as server:
        failing = bench(*SMALL_OPTIONS, f"--address={server.address}", f"--policies={file}")
    assert failing.exit_code == ExitCode.FAILURE
    assert "INVALID_ARGUMENT" in failing.stdout
