"""The command line against the server that it starts itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.v1 import test_clock_service_pb2, test_clock_service_pb2_grpc

PATIENCE_S = 90
START = "2025-03-03T12:00:00Z"
POLICY = """\
policies:
  - name: policies/two
    displayName: 2 people in any 24 hours
    limits:
      - limitId: people
        cap: {measure: MEASURE_CONTACTS, maxCount: 2, window: {rolling: 86400s}}
        enforcement: ENFORCEMENT_ENFORCED
assignments:
  - name: assignments/two
    policy: policies/two
"""


@pytest.fixture(autouse=True)
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks: a width that the environment sets must not cut what is compared."""
    monkeypatch.delenv("COLUMNS", raising=False)


def command(data_dir: Path, *options: str) -> list[str]:
    folder = ["--data-dir", str(data_dir)]
    return [
        sys.executable,
        "-m",
        "limiter.cli",
        "serve",
        "--listen",
        "127.0.0.1:0",
        *folder,
        *options,
    ]


@contextmanager
def serving(data_dir: Path, *options: str) -> Iterator[str]:
    """A server in a process of its own, which also has to end well; gives its address."""
    with subprocess.Popen(
        command(data_dir, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("limiter serving on 127.0.0.1:"), process.communicate()
            yield line.split()[-1]
            process.send_signal(signal.SIGTERM)
            rest, log = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == ExitCode.OK, log
            assert rest == ""
        finally:
            process.kill()


def refused(data_dir: Path, *options: str) -> tuple[int, str]:
    """The exit code and the errors of a server that does not start."""
    found = subprocess.run(
        command(data_dir, *options), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    return found.returncode, found.stderr


def run(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"LIMITER_ADDRESS": address})


def write(folder: Path, text: str) -> str:
    path = folder / "policy.yaml"
    path.write_text(text)
    return str(path)


def test_a_day_at_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, POLICY)
    with serving(tmp_path / "data", "--clock", "driven", "--clock-start", START) as address:
        assert run(address, "diff", "-f", file).exit_code == ExitCode.DIFFERENT
        assert run(address, "apply", "-f", file, "--yes").exit_code == ExitCode.OK
        assert run(address, "diff", "-f", file, "--prune").exit_code == ExitCode.OK
        first = run(address, "commit", "--account", "a", "--contact", "1", "--request-id", "r")
        assert first.exit_code == ExitCode.OK
        again = run(address, "commit", "--account", "a", "--contact", "1", "--request-id", "r")
        assert "counted before, not again" in again.stdout
        assert run(address, "commit", "--account", "a", "--contact", "2").exit_code == ExitCode.OK
        denied = run(address, "commit", "--account", "a", "--contact", "3")
        assert denied.exit_code == ExitCode.DENIED
        assert denied.stdout.splitlines()[:3] == [
            "DENIED    the cap on contacts is full",
            "limit     people of policies/two",
            "count     2 of 2 contacts used, 0 left",
        ]
        assert "try again in 1 d, at " in denied.stdout
        with grpc.insecure_channel(address) as channel:
            later = test_clock_service_pb2.SetTestClockRequest()
            later.current_time.FromJsonString("2025-03-03T20:47:30Z")
            test_clock_service_pb2_grpc.TestClockServiceStub(channel).Set(later)
        later_denied = run(address, "check", "--account", "a", "--contact", "3")
        assert later_denied.exit_code == ExitCode.DENIED
        assert "try again in 15 h 13 min, at " in later_denied.stdout
        usage = run(address, "usage", "--account", "a", "--contact", "1", "-o", "json")
        assert json.loads(usage.stdout)["limitStatuses"][0]["usedCount"] == "2"


def test_what_the_server_refuses_has_exit_codes_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as address:
        file = write(tmp_path, POLICY)
        assert run(address, "apply", "-f", file, "--yes").exit_code == ExitCode.OK
        assigned = run(address, "delete", "policy", "two", "--yes")
        assert assigned.exit_code == ExitCode.CONFLICT
        assert "POLICY_ASSIGNED" in assigned.stderr
        missing = run(address, "get", "policy", "none")
        assert missing.exit_code == ExitCode.NOT_FOUND
        options = ("--contact", "1", "--request-id", "r")
        assert run(address, "commit", "--account", "a", *options).exit_code == ExitCode.OK
        reused = run(address, "commit", "--account", "a", "--contact", "2", "--request-id", "r")
        assert reused.exit_code == ExitCode.INVALID
        assert "REQUEST_ID_REUSED" in reused.stderr
        no_contact = run(address, "check", "--account", "a")
        assert no_contact.exit_code == ExitCode.INVALID
        assert "attempt.contact" in no_contact.stderr
        wrong = write(tmp_path, POLICY.replace("maxCount: 2", "maxCount: -2"))
        found = run(address, "apply", "-f", wrong)
        assert found.exit_code == ExitCode.INVALID
        assert f"policies[0].limits[0].cap.max_count ({wrong}:6): " in found.stderr
        assert run(address, "delete", "assignment", "two", "--yes").exit_code == ExitCode.OK
        assert run(address, "delete", "policy", "two", "--yes").exit_code == ExitCode.OK
        assert json.loads(run(address, "get", "policies", "-o", "json").stdout)["policies"] == []


def test_a_policy_may_be_required(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--require-policy") as address:
        denied = run(address, "check", "--account", "a", "--contact", "1")
        assert denied.exit_code == ExitCode.DENIED
        assert "no policy is assigned, and the server requires one" in denied.stdout


def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as address:
        exit_code, message = refused(tmp_path / "data")
        assert exit_code == ExitCode.CONFLICT
        assert address in message


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--listen", "here"], ExitCode.USAGE, "--listen: must be HOST:PORT"),
        (["--transport", "pigeon"], ExitCode.USAGE, "pigeon"),
        (["--clock-start", START], ExitCode.USAGE, "--clock-start: needs a driven clock"),
        (
            ["--clock", "driven", "--clock-start", "noon"],
            ExitCode.USAGE,
            "'noon' is not an instant",
        ),
        (["--clock", "driven", "--clock-start", START[:-1]], ExitCode.USAGE, "is not an instant"),
        (["--clock", "sundial"], ExitCode.USAGE, "sundial"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, options: list[str], exit_code: ExitCode, message: str
) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path / "data"), *options]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == exit_code
    assert message in found.stderr


def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    file = Path(write(tmp_path, ""))
    exit_code, message = refused(file)
    assert exit_code not in {ExitCode.OK, ExitCode.USAGE}
    assert str(file) in message
