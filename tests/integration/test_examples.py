"""The examples and the README do what they say, against a running server.

The console blocks of the README are run in their order, and what they print is compared: "…" stands
for any text in a line, a line "..." for any lines.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limiter.cli.app import app
from limiter.cli.exit_codes import MEANINGS
from limiter.cli.files import load_policy_file
from tests.integration.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRODUCTS = ("contact_cap", "social_outbox", "marketing", "batch_sms", "support_desk")

# Monday, 2025-03-03T12:00:00Z.
NOON_MS = 1_741_003_200_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("examples") / "data"
    with ServerProcess(folder, clock_start_ms=NOON_MS) as running:
        yield running


def run(command: str, address: str) -> str:
    """What a command of the README prints, errors included, at 120 columns and in UTC."""
    name, *arguments = shlex.split(command)
    environment = {"LIMITER_ADDRESS": address, "TZ": "UTC", "COLUMNS": "120"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for key, value in environment.items():
            patch.setenv(key, value)
        time.tzset()
        try:
            if name == "limiter":
                return CliRunner().invoke(app, arguments).output
            assert name == "python"
            patch.setattr(sys, "argv", arguments)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                try:
                    runpy.run_path(arguments[0], run_name="__main__")
                except SystemExit as end:
                    if end.code:
                        raise
            return printed.getvalue()
        finally:
            patch.undo()
            time.tzset()


def console_commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of the console blocks, with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def pattern(expected: list[str]) -> str:
    """A regular expression for the lines of an expected output."""
    parts = (
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace("…", ".*") + r" *\n"
        for line in expected
    )
    return "".join(parts)


def test_the_readme_tells_the_truth(server: ServerProcess) -> None:
    commands = console_commands(README)
    assert len(commands) >= 3 * len(PRODUCTS)
    for command, expected in commands:
        printed = run(command, server.address)
        assert re.fullmatch(pattern(expected), printed), f"$ {command}\n{printed}"


def test_a_readme_that_lies_would_be_found() -> None:
    assert re.fullmatch(pattern(["a … c", "...", "z"]), "a b c\n1\n2\nz\n")
    assert not re.fullmatch(pattern(["a … c"]), "a b d\n")
    assert not re.fullmatch(pattern(["a"]), "a\nb\n")


@pytest.mark.parametrize("product", [*PRODUCTS, "send_loop"])
def test_the_readme_shows_each_client_as_it_is(product: str) -> None:
    client = (ROOT / "examples" / product / "client.py").read_text(encoding="utf-8")
    assert f"```python\n{client}```" in README


def test_the_readme_lists_the_exit_codes() -> None:
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |\n" in README


def test_every_example_is_applied_as_it_is(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", clock_start_ms=NOON_MS) as fresh:
        for path in sorted((ROOT / "examples").glob("*/policy.yaml")):
            file = load_policy_file(str(path))
            printed = run(f"limiter apply -f {path} --yes -o json", fresh.address)
            changes = json.loads(printed)["changes"]
            assert len(changes) == len(file.policies) + len(file.assignments)
            again = run(f"limiter apply -f {path}", fresh.address)
            assert again == "No difference: the server has all of this already.\n"


@pytest.mark.slow
def test_the_replay_gives_its_known_result(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    script = ROOT / "examples" / "collegemsg" / "replay.py"
    found = subprocess.run(
        [sys.executable, str(script), "--messages", "600", "--summary", str(summary)],
        capture_output=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr.decode()
    assert json.loads(summary.read_text()) == {
        "messages": 600,
        "allowed": 514,
        "denied": 86,
        "exceeded": {"people-a-day": 0, "messages-a-person": 86, "people-hard-limit": 0},
        "binding": {"people-a-day": 0, "messages-a-person": 86, "people-hard-limit": 0},
        "sha256": "dd8da2fa4e0287aa8897ab1b6841e69f0c0ee462e7ae668c631118e850ab1183",
    }
    assert "Every answer agrees with a second count" in found.stdout.decode()


def test_a_replay_that_is_wrong_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second count with another limit disagrees, and the exit code tells."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "collegemsg")
    replay = importlib.import_module("replay")
    monkeypatch.setattr(replay, "MESSAGES_A_PERSON", 2)
    monkeypatch.setattr(sys, "argv", ["replay.py", "--messages", "100"])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert replay.main() == 1
    assert "exceeds {'messages-a-person'}, but the server says" in said.getvalue()
