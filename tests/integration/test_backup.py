"""Copies of a data folder: made under load, put back, checked, and refused where they must be."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.people_store import PeopleStore
from limiter.v1 import (
    account_pb2,
    attempt_pb2,
    decision_service_pb2,
    policy_service_pb2,
    restriction_pb2,
)
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


def test_every_way_to_the_keys(folder: Path, tmp_path: Path) -> None:
    bare, whole, restored = (tmp_path / name for name in ("bare", "whole", "restored"))
    key = folder / "digest-key"
    told("backup", bare, "--data-dir", folder, "--without-keys")
    told("backup", whole, "--data-dir", folder)
    for backup, includes in ((bare, False), (whole, True)):
        manifest = json.loads((backup / "manifest.json").read_text())
        assert manifest["includes_keys"] is includes
        assert (backup / "digest-key").exists() is includes
        assert backup.stat().st_mode & 0o077 == 0
    short = tmp_path / "short"
    short.write_bytes(bytes(31))
    for wrong, why in (
        (tmp_path / "nowhere", "there is no"),
        (tmp_path, "cannot be read"),
        (short, "31 bytes instead of 32"),
        (bare / "manifest.json", "bytes instead of 32"),
    ):
        for command in (("restore", bare, "--data-dir", restored), ("verify", "--data-dir", bare)):
            refused = run(*command, "--key", wrong)
            assert refused.exit_code not in (0, 2)
            assert why in refused.output
            assert "Traceback" not in refused.output
    assert "whose key has to be named" in run("verify", "--data-dir", bare).output
    assert told("verify", "--data-dir", bare, "--key", key)["account_count"] == 1
    # A key that is named is good for a backup with keys too; one that was lost is told.
    told("restore", whole, "--data-dir", tmp_path / "again", "--key", key)
    (whole / "digest-key").rename(tmp_path / "kept")
    refused = run("restore", whole, "--data-dir", restored)
    assert refused.exit_code == ExitCode.CONFLICT
    assert "its keys are missing" in refused.output
    # A key that lies in a backup made without keys is nobody's word that it is the right one.
    (bare / "digest-key").write_bytes(key.read_bytes())
    assert "made without keys" in run("restore", bare, "--data-dir", restored).output
    assert not restored.exists()
    told("restore", bare, "--data-dir", restored, "--key", tmp_path / "kept")
    assert (restored / "digest-key").stat().st_mode & 0o077 == 0


def opt_out(server: ServerProcess, *names: str) -> int:
    people = [account_pb2.Suppression(contact=name) for name in names]
    request = policy_service_pb2.AddSuppressionsRequest(parent="accounts/a", suppressions=people)
    return server.policies.AddSuppressions(request).added_count


def opt_in(server: ServerProcess, *names: str) -> int:
    people = [account_pb2.Suppression(contact=name) for name in names]
    request = policy_service_pb2.RemoveSuppressionsRequest(parent="accounts/a", suppressions=people)
    return server.policies.RemoveSuppressions(request).removed_count


def opted_out(server: ServerProcess) -> list[str]:
    request = policy_service_pb2.ListSuppressionsRequest(parent="accounts/a", page_size=1_000)
    return [each.contact for each in server.policies.ListSuppressions(request).suppressions]


def test_whoever_has_opted_out_has_a_name_in_every_backup(tmp_path: Path) -> None:
    """Copies made while people opt out and in again, as fast as they can."""
    is_over = threading.Event()

    def change(server: ServerProcess) -> None:
        for number in itertools.count():
            opt_out(server, f"p{number}", f"p{number % 7}")
            opt_in(server, f"p{number - 3}", f"p{(number + 4) % 7}")
            if is_over.is_set():
                return

    with ServerProcess(tmp_path / "data") as server:
        changing = threading.Thread(target=change, args=(server,))
        changing.start()
        try:
            for number in range(4):
                backup = tmp_path / f"backup-{number}"
                told("backup", backup, "--data-dir", tmp_path / "data")
                # Under the server too, whatever has changed meanwhile.
                told("verify", "--data-dir", tmp_path / "data")
        finally:
            is_over.set()
            changing.join()
    for number in range(4):
        backup = tmp_path / f"backup-{number}"
        told("verify", "--data-dir", backup)
        told("restore", backup, "--data-dir", tmp_path / f"restored-{number}")
        with ServerProcess(tmp_path / f"restored-{number}") as server:
            assert all(opted_out(server))
        told("verify", "--data-dir", tmp_path / f"restored-{number}")


def test_a_name_that_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ServerProcess(folder) as server:
        opt_out(server, "ada", "bob")
    assert told("verify", "--data-dir", folder)["people_count"] == 2
    key = (folder / "digest-key").read_bytes()
    for row, why in ((None, "lacks names"), (bytes(90), "cannot be opened")):
        broken = tmp_path / f"broken {why}"
        shutil.copytree(folder, broken)
        with lmdb.open(str(broken / "people")) as people, people.begin(write=True) as transaction:
            cursor = transaction.cursor()
            cursor.set_range(b"p")
            transaction.delete(cursor.key()) if row is None else transaction.put(cursor.key(), row)
        refused = run("verify", "--data-dir", broken)
        assert refused.exit_code != 0
        assert why in refused.output
    PeopleStore(folder / "people", key).close()


def test_a_folder_that_lost_its_people_is_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ServerProcess(folder) as server:
        opt_out(server, "ada")
    shutil.rmtree(folder / "people")
    with ServerProcess(folder) as server:
        assert server.wait() == 3
        assert "DATA_LOSS PEOPLE_MISSING" in server.log
        assert "'a'" in server.log
        assert "ada" not in server.log


def test_compacting_leaves_nothing_of_what_was_forgotten(tmp_path: Path) -> None:
    """Not even sealed: pages that are free hold it until then."""
    folder = tmp_path / "data"
    with ServerProcess(folder) as server:
        assign(server, "a", cap(0))
        server.decisions.Commit(commit_request("a", "ada"))
        opt_out(server, "ada")
        assert missed(server, "a") == ["ada"]
    key = (folder / "digest-key").read_bytes()
    sealed = {}
    for name in ("people", "restrictions"):
        with lmdb.open(str(folder / name)) as environment, environment.begin() as transaction:
            sealed[name] = max((value for _, value in transaction.cursor()), key=len)[-60:]
    with ServerProcess(folder) as server:
        request = policy_service_pb2.ForgetContactRequest(name="accounts/a", contact="ada")
        found = server.policies.ForgetContact(request)
        assert (found.restriction_count, found.suppression_count) == (1, 1)
    told("compact", "--data-dir", folder)
    for name, ciphertext in sealed.items():
        assert ciphertext not in (folder / name / "data.mdb").read_bytes()
    store = PeopleStore(folder / "people", key)
    assert store.check() == 1
    store.close()


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
    manifest.write_text(json.dumps({**whole, "format_version": 3}))
    newer = run("restore", backup, "--data-dir", tmp_path / "restored")
    assert newer.exit_code == ExitCode.CONFLICT
    assert "format version 3" in newer.output
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
