"""limiter simulate over a trace: what it prints, draws and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode

POLICY = """policies:
  - name: policies/people
    limits:
      - limitId: two-people-a-day
        enforcement: ENFORCEMENT_ENFORCED
        cap: {measure: MEASURE_CONTACTS, maxCount: 2, window: {rolling: 86400s}}
      - limitId: by-campaign
        enforcement: ENFORCEMENT_SHADOW
        cap:
          measure: MEASURE_MESSAGES
          maxCount: 1
          per: [DIMENSION_CAMPAIGN]
          window: {calendar: {unit: CALENDAR_UNIT_DAY}}
"""

# Three people on one day, of whom the third is denied, twice; on the next day he passes.
TRACE = """account,contact,time,campaign
acme,ana,2025-03-03T12:00:00Z,spring
acme,ben,2025-03-03T12:00:01Z,
acme,cleo,2025-03-03T12:00:02Z,spring
acme,cleo,2025-03-03T12:00:03Z,spring
bolt,cleo,2025-03-03T12:00:04Z,spring
acme,cleo,2025-03-04T12:00:00Z,
"""


class Files:
    """A policy file and a trace, and the command that reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy.yaml"
        self.trace = folder / "trace.csv"
        self.policy.write_text(POLICY)
        self.trace.write_text(TRACE)

    def run(self, *options: str, stdin: bytes = b"", **paths: str) -> Result:
        """Runs the command on them; `policy` or `trace` name others."""
        policy, trace = paths.get("policy", str(self.policy)), paths.get("trace", str(self.trace))
        command = ["simulate", "--policy", policy, "--trace", trace, *options]
        return CliRunner().invoke(app, command, input=stdin, env={"COLUMNS": "120"})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def found(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_rows_tell_limit_account_and_day(files: Files) -> None:
    told = found(files.run("-o", "json"))
    assert (told["attemptCount"], told["allowedCount"], told["deniedCount"]) == ("6", "4", "2")
    # The attempts without a campaign lack what the limit by campaign needs.
    assert told["notEvaluatedCount"] == "2"
    assert told["rows"] == [
        {
            "policy": "policies/people",
            "limitId": "two-people-a-day",
            "enforcement": "ENFORCEMENT_ENFORCED",
            "account": "acme",
            "day": "2025-03-03",
            "deniedCount": "2",
            "bindingCount": "2",
            "deniedContactCount": "1",
        },
        {
            "policy": "policies/people",
            "limitId": "by-campaign",
            "enforcement": "ENFORCEMENT_SHADOW",
            "account": "acme",
            "day": "2025-03-03",
            "deniedCount": "2",
            "bindingCount": "0",
            "deniedContactCount": "1",
        },
    ]
    assert told["days"] == [
        {"day": "2025-03-03", "attemptCount": "5", "deniedCount": "2"},
        {"day": "2025-03-04", "attemptCount": "1", "deniedCount": "0"},
    ]


def test_tables_are_for_people(files: Files) -> None:
    result = files.run()
    assert result.exit_code == 0
    lines = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["6 attempts on 2 days: 4 allowed, 2 denied (33.3%)."] in lines
    assert [
        "two-people-a-day", "at most 2 contacts in any 24 h (enforced)", "2", "2", "1", "1"
    ] in lines  # fmt: skip
    assert ["acme", "two-people-a-day", "2", "2025-03-03", "2"] in lines
    assert ["2025-03-03", "5", "2", "40.0%"] in lines
    assert "2 attempts lacked a field that a limit needs" in result.stdout


def test_only_a_span_is_reported_and_what_came_before_counts(files: Files) -> None:
    told = found(
        files.run(
            "-o", "json", "--since", "2025-03-03T12:00:03Z", "--until", "2025-03-04T12:00:00Z"
        )
    )
    assert (told["attemptCount"], told["deniedCount"]) == ("2", "1")


def test_assignments_decide_where_there_are_some(files: Files) -> None:
    scoped = "assignments:\n  - {name: accounts/bolt/assignments/a, policy: policies/people,"
    files.policy.write_text(POLICY + scoped + " scope: {account: bolt}}\n")
    assert found(files.run("-o", "json"))["deniedCount"] == "0"
    files.policy.write_text(POLICY + "  - name: policies/other\n")
    refused = files.run()
    assert refused.exit_code == ExitCode.INVALID
    assert "assignments: there are none, and 2 policies" in refused.stderr


def test_an_accounts_own_policy_and_one_without_a_name_are_tried_for_all(files: Files) -> None:
    for name in ("accounts/zed/policies/people", ""):
        files.policy.write_text(
            POLICY.replace("policies/people", name)
            if name
            else POLICY.replace("name: policies/people\n    ", "")
        )
        told = found(files.run("-o", "json"))
        assert told["deniedCount"] == "2"
        assert "two-people-a-day" in files.run().stdout


def test_a_plot_is_drawn(files: Files) -> None:
    picture = files.folder / "plot.png"
    result = files.run("--plot", str(picture))
    assert result.exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"The plot is in {picture}." in result.stderr
    files.trace.write_text(TRACE.splitlines()[0])
    assert files.run("--plot", str(picture)).exit_code == 0
    nowhere = files.run("--plot", str(files.folder / "none" / "plot.png"))
    assert nowhere.exit_code == ExitCode.USAGE
    assert "cannot write the plot" in nowhere.stderr


def test_without_matplotlib_there_is_a_way_out(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.cli.plots.importlib.util.find_spec", lambda name: None)
    result = files.run("--plot", str(files.folder / "plot.png"))
    assert result.exit_code == ExitCode.USAGE
    assert "pip install 'limiter[plot]'" in result.stderr
    assert result.stdout == ""


def test_faults_name_the_place(files: Files) -> None:
    files.trace.write_text(TRACE + "acme,dora,yesterday,\n")
    result = files.run()
    assert result.exit_code == ExitCode.INVALID
    assert result.stderr.startswith(f"error: {files.trace}:8: time: 'yesterday' is no instant")
    files.trace.write_text(TRACE)
    files.policy.write_text(POLICY.replace("86400s", "0s"))
    result = files.run()
    assert result.exit_code == ExitCode.INVALID
    assert f"policies[0].limits[0].cap.window.rolling ({files.policy}:6)" in result.stderr
    files.policy.write_text(POLICY)
    result = files.run(trace=str(files.folder / "none.csv"))
    assert result.exit_code == ExitCode.USAGE
    assert "none.csv: No such file or directory" in result.stderr


def test_standard_input_is_read_once(files: Files) -> None:
    told = found(files.run("-o", "json", trace="-", stdin=TRACE.encode()))
    assert told["deniedCount"] == "2"
    told = found(files.run("-o", "json", policy="-", stdin=POLICY.encode()))
    assert told["deniedCount"] == "2"
    backward = files.run(trace="-", stdin=TRACE.encode() + b"acme,ana,1,\n")
    assert backward.exit_code == ExitCode.INVALID
    assert "standard input:8: it is earlier than the one before it" in backward.stderr
    both = files.run(policy="-", trace="-")
    assert both.exit_code == ExitCode.USAGE


def test_rows_in_any_order_are_tried_in_that_of_time(files: Files) -> None:
    head, *rows = TRACE.splitlines()
    told = found(files.run("-o", "json"))
    files.trace.write_text("\n".join([head, *reversed(rows)]))
    assert found(files.run("-o", "json")) == told
