"""The command plan against a running server: lists in, tables, JSON and files out."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from tests.integration import transports
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request

pytestmark = transports.BOTH


@pytest.fixture
def server(transport: str, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as running:
        yield running


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def plan(server: ServerProcess, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(
        app,
        ["plan", "--account", "acme", *arguments],
        env={"LIMITER_ADDRESS": server.address, "COLUMNS": "120"},
        input=stdin,
    )


def test_a_table_by_day_and_the_list(server: ServerProcess) -> None:
    assign(server, "acme", cap(2))
    result = plan(server, "-f", "-", "--count", "3", stdin="contact\nann\nben\ncleo\ndora\n")
    assert result.exit_code == ExitCode.OK
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert lines == [
        "4 of 4 can go, from Fri 15 Jan 2027 08:00:00 UTC to Sat 16 Jan 2027 08:00:00 UTC.",
        "day             recipients  from      to",
        "Fri 2027-01-15           2  08:00:00  08:00:00",
        "Sat 2027-01-16           2  08:00:00  08:00:00",
        "contact  goes at",
        "ann      2027-01-15 08:00:00 (now)",
        "ben      2027-01-15 08:00:00 (now)",
        "cleo     2027-01-16 08:00:00",
        "1 more recipients are not listed; --export FILE has all.",
    ]


def test_who_cannot_go_is_told_why(server: ServerProcess) -> None:
    result = plan(server, "-f", "-", "--limit", "0 messages in day", stdin="contact\nann\n")
    assert result.exit_code == ExitCode.OK
    assert "0 of 1 can go." in result.output
    assert "1 cannot go within 400 days: the attempt is larger than the cap itself." in (
        result.output
    )


def test_json_is_the_reply(server: ServerProcess) -> None:
    text = "reference,contact\nr1,ann\nr2,ben\n"
    result = plan(server, "-f", "-", "--spread", "1h", "-o", "json", stdin=text)
    reply = json.loads(result.output)
    assert [each["reference"] for each in reply["results"]] == ["r1", "r2"]
    assert [each["sendTime"] for each in reply["results"]] == [
        "2027-01-15T08:00:00Z",
        "2027-01-15T08:30:00Z",
    ]


def test_an_export_is_a_list_to_plan_from(server: ServerProcess, tmp_path: Path) -> None:
    """Whatever the values look like, and with columns that nobody asked for."""
    assign(server, "acme", cap(2))
    contacts = ["=SUM(A1)", "'quoted", "+49 151", "ä,b", "-x"]
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Name", "Contact", "contact_time_zone"))
        writer.writerows(
            ("someone", "'" + each if each[0] in "='-" else each, "Europe/Berlin")
            for each in contacts
        )
    result = plan(server, "-f", str(source), "--export", str(target))
    assert result.exit_code == ExitCode.OK
    assert target.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert [row["contact"] for row in rows] == ["'=SUM(A1)", "''quoted", "+49 151", "ä,b", "'-x"]
    assert [row["send_time"] for row in rows] == [
        *["2027-01-15T08:00:00Z"] * 2,
        *["2027-01-16T08:00:00Z"] * 2,
        "2027-01-17T08:00:00Z",
    ]
    assert {row["reason"] for row in rows} == {"within_limits"}
    assert {row["contact_time_zone"] for row in rows} == {"Europe/Berlin"}
    # What was sent to somebody of the first list is known when the second one is planned.
    server.decisions.Commit(commit_request("acme", "=SUM(A1)"))
    again = plan(server, "-f", str(target), "--export", "-")
    printed = list(csv.DictReader(io.StringIO(again.stdout)))
    assert [row["contact"] for row in printed] == [row["contact"] for row in rows]
    assert [row["send_time"] for row in printed] == [row["send_time"] for row in rows]


def test_an_export_of_restrictions_is_a_list(server: ServerProcess, tmp_path: Path) -> None:
    assign(server, "acme", cap(1))
    for contact in ("ann", "ben", "cleo"):
        server.decisions.Commit(commit_request("acme", contact))
    missed = tmp_path / "missed.csv"
    exported = CliRunner().invoke(
        app,
        ["restrictions", "--account", "acme", "--export", str(missed), "--contacts"],
        env={"LIMITER_ADDRESS": server.address},
    )
    assert exported.exit_code == ExitCode.OK, exported.output
    result = plan(server, "-f", str(missed), "--export", "-")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["contact"], row["send_time"][:10]) for row in rows] == [
        ("ben", "2027-01-16"),
        ("cleo", "2027-01-17"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", ExitCode.INVALID, "one of them is contact"),
        ("name\nann\n", ExitCode.INVALID, "one of them is contact"),
        ("contact,contact\na,b\n", ExitCode.INVALID, "two columns are called contact"),
        ("contact\n", ExitCode.INVALID, "there is nobody in it"),
        ("contact,reference\nann\n", ExitCode.INVALID, ":2: has 1 values"),
        ('contact\n"ann\n', ExitCode.INVALID, "unexpected end of data"),
        ("contact\nann\n" + "x" * 300 + "\n", ExitCode.INVALID, ":3"),
        ("contact\n\nann\n,\n", ExitCode.INVALID, ":4: has 2 values"),
        ("contact\n" + "a\n" * 100_001, ExitCode.INVALID, "100,000 recipients at most"),
        ("contact\n" + ("a" * 200 + "\n") * 30_000, ExitCode.INVALID, "split the file"),
        ("contact,contact_time_zone\nann,Mars\n", ExitCode.INVALID, ":2"),
    ],
)
def test_what_is_no_list(
    server: ServerProcess, tmp_path: Path, text: str, code: ExitCode, words: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    result = plan(server, "-f", str(path))
    assert result.exit_code == code
    assert words in result.output


def test_what_the_command_line_cannot_be(server: ServerProcess, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_bytes(b"contact\n\xff\n")
    assert plan(server, "-f", str(listed)).exit_code == ExitCode.INVALID
    assert plan(server, "-f", str(tmp_path / "none.csv")).exit_code == ExitCode.USAGE
    listed.write_text("contact\nann\n", encoding="utf-8")
    for arguments in (("--spread", "soon"), ("--export", "plan.txt")):
        result = plan(server, "-f", str(listed), *arguments)
        assert result.exit_code == ExitCode.USAGE
        assert arguments[0] in result.output
