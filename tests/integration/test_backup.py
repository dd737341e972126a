"""Copies of a data folder: made under load, put back, checked, and refused where they must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.v1 import attempt_pb2, decision_service_pb2, restriction_pb2
from tests.integration.process import ServerProcess
from tests.integration.requests import assign, cap, commit_request


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def told(*arguments: object) -> dict[str, Any]:
    """What a command that must succeed prints as JSON."""
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def used(server: ServerProcess, account: str) -> int:
    request = decision_service_pb2.GetUsageRequest(attempt=attempt_pb2.Attempt(account=account))
    (status,) = server.decisions.GetUsage(request).limit_statuses
    return status.used_count


def missed(server: ServerProcess, account: str) -> list[str]:
    request = restriction_pb2.ListRestrictionsRequest(account=account)
    found = server.decisions.ListRestrictions(request).restrictions
    return [each.attempt.contact for each in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder whose server has ended: five people in account `a`."""
    with ServerProcess(tmp_path / "data") as server:
        assign(server, "a", cap(10))
        for number in range(5):
            server.decisions.Commit(commit_request("a", f"c{number}", request_id=f"r{number}"))
    return tmp_path / "data"


def test_a_backup_of_a_working_server_is_restored(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with ServerProcess(tmp_path / "data") as server:
        assign(server, "a", cap(10))
        for number in range(5):
            server.decisions.Commit(commit_request("a", f"c{number}", request_id=f"r{number}"))
        made = told("backup", backup, "--data-dir", tmp_path / "data")
        assert made["includes_keys"]
        # What comes after it is not in it.
        server.decisions.Commit(commit_request("a", "later"))
        assert used(server, "a") == 6
    assert not (backup / "operator.key").exists()
    verified = told("verify", "--data-dir", backup)
    assert (verified["tail"], verified["account_count"]) == (made["tail"], 1)
    restored = tmp_path / "restored"
    told("restore", backup, "--data-dir", restored)
    with ServerProcess(restored) as server:
        assert used(server, "a") == 5
        again = server.decisions.Commit(commit_request("a", "c3", request_id="r3"))
        assert again.replayed


def test_whom_somebody_missed_is_in_a_backup(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        assign(server, "a", cap(1))
        for contact in ("ada", "bob"):
            server.decisions.Commit(commit_request("a", contact))
        assert missed(server, "a") == ["bob"]
        told("backup", tmp_path / "backup", "--data-dir", tmp_path / "data")
    told("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    with ServerProcess(tmp_path / "restored") as server:
        assert missed(server, "a") == ["bob"]


def test_a_backup_without_keys_needs_them(folder: Path, tmp_path: Path) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    assert not told("backup", backup, "--data-dir", folder, "--without-keys")["includes_keys"]
    assert not (backup / "digest-key").exists()
    refused = run("restore", backup, "--data-dir", restored)
    assert refused.exit_code == ExitCode.CONFLICT
    assert "made without keys" in refused.output
    assert not restored.exists()
    foreign = tmp_path / "foreign"
    foreign.write_bytes(bytes(32))
    refused = run("restore", backup, "--data-dir", restored, "--key", foreign)
    assert "is not the key" in refused.output
    assert not restored.exists()
    told("restore", backup, "--data-dir", restored, "--key", folder / "digest-key")
    with ServerProcess(restored) as server:
        assert used(server, "a") == 5


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    told("backup", backup, "--data-dir", folder)
    assert run("backup", backup, "--data-dir", folder).exit_code == ExitCode.CONFLICT
    assert run("restore", backup, "--data-dir", folder).exit_code == ExitCode.CONFLICT
    assert told("verify", "--data-dir", folder)["event_count"] > 5


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_damage_is_found(folder: Path, tmp_path: Path, place: float) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    told("backup", backup, "--data-dir", folder)
    file = backup / "journal" / "data.mdb"
    content = bytearray(file.read_bytes())
    # In the pages of the tree, past the two that describe it.
    at = 8_192 + int((len(content) - 8_192) * place)
    while not any(content[at : at + 8]):
        at += 1
    content[at : at + 8] = bytes(byte ^ 0xFF for byte in content[at : at + 8])
    file.write_bytes(content)
    for command in (("verify", "--data-dir", backup), ("restore", backup, "--data-dir", restored)):
        result = run(*command)
        assert result.exit_code != 0, result.output
        assert "Traceback" not in result.output
    assert not restored.exists()


def test_what_is_no_backup_is_refused(folder: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    told("backup", backup, "--data-dir", folder)
    manifest = backup / "manifest.json"
    whole = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**whole, "format_version": 2}))
    newer = run("restore", backup, "--data-dir", tmp_path / "restored")
    assert newer.exit_code == ExitCode.CONFLICT
    assert "format version 2" in newer.output
    manifest.write_text(json.dumps({**whole, "tail": whole["tail"] + 1}))
    assert (
        "not the one of its manifest"
        in run("restore", backup, "--data-dir", tmp_path / "restored").output
    )
    manifest.unlink()
    refused = run("restore", backup, "--data-dir", tmp_path / "restored")
    assert "is no backup, or one that was cut off" in refused.output
    assert run("backup", tmp_path / "x", "--data-dir", tmp_path / "none").exit_code != 0


def test_compacting_gives_back_room_and_loses_nothing(folder: Path) -> None:
    before = told("verify", "--data-dir", folder)
    assert told("compact", "--data-dir", folder)["bytes_after"] > 0
    assert told("verify", "--data-dir", folder) == before
    with ServerProcess(folder) as server:
        assert used(server, "a") == 5
        refused = run("compact", "--data-dir", folder)
        assert refused.exit_code == ExitCode.CONFLICT
        assert "in use by another server" in refused.output
        server.decisions.Commit(commit_request("a", "after"))
        assert used(server, "a") == 6


def test_a_copy_that_was_cut_off_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = broken / "journal" / "data.mdb"
    file.write_bytes(file.read_bytes()[:-4_096])
    result = run("backup", tmp_path / "backup", "--data-dir", broken)
    assert result.exit_code != 0, result.output
    assert [path.name for path in tmp_path.glob("backup*")] == []
