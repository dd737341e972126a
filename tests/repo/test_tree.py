"""What the repository may not hold, and what it must."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import limiter
from tests.repo.files import ROOT, repository_files

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Split, so that this file does not hold them.
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "python" + "hosted",
    "npm" + "js.org",
    "crates" + ".io",
    "ghcr" + ".io",
    "docker" + ".io",
    "proxy.go" + "lang",
    "buf" + ".build",
]
# Absolute paths of somebody's machine.
MACHINE_PATHS = re.compile(r"(?<![\w.~/$}])/(?:work|root|home|tmp|Users)" + r"/[\w.]")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every text of the repository by its path."""
    found = {}
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found[path.relative_to(ROOT).as_posix()] = content.decode()
    assert {"Makefile", "pyproject.toml", "src/limiter/bounds.py"} <= set(found)
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_file_names_a_registry(texts: dict[str, str], host: str) -> None:
    assert [path for path, text in texts.items() if host in text] == []


def test_no_file_names_a_path_of_one_machine(texts: dict[str, str]) -> None:
    assert [path for path, text in texts.items() if MACHINE_PATHS.search(text)] == []


def test_a_path_of_one_machine_would_be_found() -> None:
    assert MACHINE_PATHS.search("cd /" + "home/someone")
    assert not MACHINE_PATHS.search("tests/work/a, ./tmp/b and $HOME/tmp/c")


def test_no_file_is_empty_or_ends_raggedly(texts: dict[str, str]) -> None:
    markers = {"py.typed", "__init__.py"}
    ragged = [
        path
        for path, text in texts.items()
        if (not text.endswith("\n") or text.endswith("\n\n"))
        and path.rpartition("/")[2] not in markers
    ]
    assert ragged == []


def test_nothing_built_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout.splitlines()
    assert "Makefile" in listed
    built = re.compile(
        r"^src/.*\.c$|\.(so|o|pyc|html)$|(^|/)(build|dist|\.venv|__pycache__)/|\.egg-info/"
    )
    assert [path for path in listed if built.search(path)] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_everything_that_is_installed_is_pinned_and_hashed(path: Path) -> None:
    text = re.sub(r" *\\\n *", " ", path.read_text())
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert entries
    form = re.compile(r"[a-z0-9._-]+==[\w.]+( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+")
    assert [entry.split(" --hash")[0] for entry in entries if not form.fullmatch(entry)] == []


def _pins(name: str) -> dict[str, str]:
    """The locked version of each package."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))


def test_locks_hold_what_the_project_asks_for(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    asked = {
        "run.txt": project["project"]["dependencies"] + extras["build"],
        "demo.txt": extras["demo"],
        "dev.txt": project["project"]["dependencies"] + extras["test"] + extras["dev"],
    }
    for name, requirements in asked.items():
        names = {re.split(r"[\[<>=~!; ]", requirement)[0] for requirement in requirements}
        assert names - {"limiter"} <= set(_pins(name)), f"requirements/{name}: run `make lock`"


def test_run_and_dev_lock_the_same_versions() -> None:
    assert len(_pins("run.txt")) > 10
    assert _pins("run.txt").items() <= _pins("dev.txt").items()


def test_what_is_pinned_twice_is_pinned_to_the_same(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert project["build-system"]["requires"] == extras["build"]
    tzdata = [entry for entry in project["project"]["dependencies"] if entry.startswith("tzdata")]
    assert [re.fullmatch(r"tzdata==[\d.]+", entry) is not None for entry in tzdata] == [True]


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{limiter.__version__}]" in text


def test_continuous_integration_runs_the_tests_in_an_environment_of_its_own() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in script
    assert "set -euo pipefail" in script
    assert "VENV=$scratch" in script


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE)) - {"modules-missing"}
    shown = subprocess.run(
        ["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert {"help", "run", "test", "lint", "stubs", "lock", "bench", "torture", "clean"} <= phony
    assert {
        target for target in phony if not re.search(rf"^  make {target} ", shown, re.MULTILINE)
    } == set()


def test_hooks_check_what_make_lint_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {word.rpartition("/")[2] for hook in hooks for word in hook["entry"].split()}
    assert {"ruff", "mypy", "cython-lint", "buf"} <= tools
