"""The commands about accounts and about who has opted out, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from tests.integration.process import START_MS, ServerProcess


class Shell:
    """Runs commands against one server."""

    def __init__(self, address: str) -> None:
        self._environment = {"LIMITER_ADDRESS": address, "COLUMNS": "200"}

    def run(self, *arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, env=self._environment, input=text)

    def ok(self, *arguments: str, text: str | None = None) -> str:
        """Both outputs of a command that succeeds."""
        found = self.run(*arguments, text=text)
        assert found.exit_code == ExitCode.OK, found.output
        return found.output


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS) as server:
        yield Shell(server.address)


def opted_out(shell: Shell) -> list[dict[str, str]]:
    found = json.loads(shell.ok("suppress", "list", "--account", "shop", "--output", "json"))
    people = found.get("suppressions", [])
    assert all(each.pop("createTime") for each in people)
    return [each for each in people if isinstance(each, dict)]


def test_an_account_is_shown_and_changed(shell: Shell) -> None:
    assert "never" in shell.ok("account", "get", "shop")
    shown = shell.ok(
        "account", "set", "shop", "--time-zone", "Asia/Tokyo", "--allow-category", "invoices"
    )
    assert "Asia/Tokyo" in shown
    assert "invoices" in shown
    assert shell.ok("account", "get", "shop") == shown == shell.ok("account", "list")
    shell.ok("account", "set", "shop", "--time-zone", "", "--dry-run")
    shell.ok("account", "set", "shop", "--allow-category", "")
    account = json.loads(shell.ok("account", "get", "shop", "--output", "json"))
    assert (account["timeZone"], account["allowedCategories"]) == ("Asia/Tokyo", [])
    listed = json.loads(shell.ok("account", "list", "--output", "json"))
    assert listed["accounts"] == [account]
    assert "accounts/shop" in shell.ok("audit", "--account", "shop")


def test_nothing_to_change_and_unknown_zones_are_refused(shell: Shell) -> None:
    assert shell.run("account", "set", "shop").exit_code == ExitCode.USAGE
    bad = shell.run("account", "set", "shop", "--time-zone", "Asia/Kyoto")
    assert bad.exit_code == ExitCode.INVALID
    assert "account.time_zone" in bad.output


def test_people_are_noted_listed_and_let_in_again(shell: Shell) -> None:
    added = shell.ok("suppress", "add", "--account", "shop", "ada", "bob", "ada")
    assert "2 of 3 had not opted out before" in added
    shell.ok("suppress", "add", "--account", "shop", "--addresses", "+49")
    assert opted_out(shell) == [{"contact": "ada"}, {"contact": "bob"}, {"address": "+49"}]
    denied = shell.run("check", "--account", "shop", "--contact", "ada")
    assert denied.exit_code == ExitCode.DENIED
    assert "has opted out" in denied.output
    removed = shell.ok("suppress", "remove", "--account", "shop", "ada", "nobody")
    assert "1 of 2 had opted out before" in removed
    shell.ok("check", "--account", "shop", "--contact", "ada")
    table = shell.ok("suppress", "list", "--account", "shop")
    assert "bob" in table
    assert "2027-01-15 08:00:00" in table
    answer = shell.ok("suppress", "remove", "--account", "shop", "bob", "--output", "json")
    assert json.loads(answer) == {"removedCount": "1"}


def test_people_come_from_files(shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("name,address,contact\nAda,+1,ada\nBob,,bob\nCleo,+3,\n")
    added = shell.ok("suppress", "add", "--account", "shop", "-f", str(table))
    assert "4 of 4" in added
    assert opted_out(shell) == [
        {"contact": "ada"}, {"address": "+1"}, {"contact": "bob"}, {"address": "+3"},
    ]  # fmt: skip
    lines = "dora\n\n emil \n"
    shell.ok("suppress", "add", "--account", "shop", "-f", "-", text=lines)
    assert opted_out(shell)[-2:] == [{"contact": "dora"}, {"contact": "emil"}]
    shell.ok("suppress", "remove", "--account", "shop", "--addresses", "-f", "-", text="+1\n+3\n")
    assert all("contact" in each for each in opted_out(shell))


def test_nobody_and_no_file_are_refused(shell: Shell, tmp_path: Path) -> None:
    nobody = shell.run("suppress", "add", "--account", "shop")
    assert nobody.exit_code == ExitCode.USAGE
    missing = shell.run("suppress", "add", "--account", "shop", "-f", str(tmp_path / "none"))
    assert missing.exit_code == ExitCode.USAGE
    assert "cannot read" in missing.output
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert (
        shell.run("suppress", "add", "--account", "shop", "-f", str(empty)).exit_code
        == ExitCode.USAGE
    )
