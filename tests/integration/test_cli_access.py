"""The commands about keys, the audit and versions, against a real server that asks for keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from tests.integration.process import ServerProcess


class Shell:
    """Runs commands against one server as somebody."""

    def __init__(self, address: str, operator_file: Path) -> None:
        self._address = address
        self.operator = f"@{operator_file}"

    def run(self, key: str, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        environment = {"LIMITER_ADDRESS": self._address, "LIMITER_API_KEY": key}
        found = CliRunner().invoke(app, arguments, env=environment)
        return found.exit_code, found.stdout, found.stderr

    def ok(self, key: str, *arguments: str) -> str:
        """Standard output of a command that succeeds."""
        exit_code, output, errors = self.run(key, *arguments)
        assert exit_code == ExitCode.OK, errors
        return output


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with ServerProcess(tmp_path / "data", require_keys=True) as server:
        assert "operator.key" in server.log
        assert "clear text" in server.log
        yield Shell(server.address, tmp_path / "data" / "operator.key")


def test_a_key_is_made_used_rotated_and_revoked(shell: Shell) -> None:
    operator = shell.operator
    sender = ("key", "create", "web", "--role", "sender", "--account", "shop")
    first = shell.ok(operator, *sender).strip()
    assert first.startswith("lk_web_")
    commit = ("commit", "--account", "shop", "--contact", "ada")
    shell.ok(first, *commit)
    exit_code, _, errors = shell.run("", *commit)
    assert exit_code == ExitCode.REFUSED
    assert "--api-key" in errors
    exit_code, _, errors = shell.run(first, "commit", "--account", "bank", "--contact", "ada")
    assert (exit_code, "apiKeys/web is not for 'bank'" in errors) == (ExitCode.REFUSED, True)
    second = shell.ok(operator, "key", "rotate", "web", "--grace", "1h").strip()
    shell.ok(first, *commit)
    shell.ok(second, *commit)
    shell.ok(operator, "key", "revoke", "apiKeys/web")
    assert shell.run(second, *commit)[0] == ExitCode.REFUSED
    listed = shell.ok(operator, "key", "list")
    assert "revoked" in listed
    assert first not in listed
    assert shell.run(operator, *sender)[0] == ExitCode.CONFLICT
    assert shell.run(operator, "key", "revoke", "operator")[0] == ExitCode.CONFLICT


def test_the_audit_says_who_did_what(shell: Shell) -> None:
    master = shell.ok(
        shell.operator, "key", "create", "ada", "--role", "master", "--account", "shop"
    ).strip()
    policy = "accounts/shop/policies/p"
    file = {"policies": [{"name": policy, "displayName": "one"}]}
    for text in ("one", "two"):
        file["policies"][0]["displayName"] = text
        path = Path(shell.operator[1:]).with_name("policy.json")
        path.write_text(json.dumps(file))
        shell.ok(master, "apply", "-f", str(path), "--yes")
    shell.ok(master, "clone", policy, "accounts/shop/policies/q")
    lines = [line.split()[-3:] for line in shell.ok(master, "audit").splitlines()[1:]]
    assert lines == [
        ["apiKeys/ada", "create", "accounts/shop/policies/q"],
        ["apiKeys/ada", "change", policy],
        ["apiKeys/ada", "create", policy],
    ]
    all_of_it = json.loads(shell.ok(shell.operator, "audit", "--output", "json"))["entries"]
    assert [each["resource"] for each in all_of_it[3:]] == ["apiKeys/ada", "apiKeys/operator"]
    shown = json.loads(shell.ok(master, "versions", policy, "--output", "json"))["versions"]
    assert [each["policy"]["displayName"] for each in shown] == ["two", "one"]
    assert "apiKeys/ada" in shell.ok(master, "versions", policy)
    shell.ok(master, "rollback", policy, shown[1]["revision"])
    found = json.loads(shell.ok(master, "get", "policy", policy, "--output", "json"))
    assert found["displayName"] == "one"


def test_a_key_that_cannot_be_made_says_why(shell: Shell) -> None:
    exit_code, _, errors = shell.run(shell.operator, "key", "create", "x", "--role", "viewer")
    assert (exit_code, "accounts" in errors) == (ExitCode.INVALID, True)
    bad = ("key", "create", "x", "--permission", "everything", "--account", "a")
    assert shell.run(shell.operator, *bad)[0] == ExitCode.USAGE
    assert shell.run("@nowhere.key", "key", "list")[0] == ExitCode.USAGE
