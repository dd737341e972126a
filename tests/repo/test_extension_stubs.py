"""The .pyi stubs of the extension modules say what the compiled modules are."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.repo.files import ROOT, SOURCE, python_imports, repository_files

ALLOWLIST = Path(__file__).parent / "stubtest-allowlist.txt"
STUBBED = sorted(f"limiter.{path.stem}" for path in SOURCE.glob("_*.pyi"))


def _stubtest(*modules: str, source: Path = ROOT / "src") -> subprocess.CompletedProcess[str]:
    program = shutil.which("stubtest", path=sysconfig.get_path("scripts"))
    assert program is not None, "mypy is not installed: `make setup`"
    paths = {"MYPYPATH": str(source), "PYTHONPATH": str(source)}
    # What a stub leaves out is the module's own; what it says must be so.
    options = ["--concise", "--ignore-missing-stub", "--ignore-unused-allowlist"]
    return subprocess.run(
        [program, *options, "--allowlist", str(ALLOWLIST), *modules],
        cwd=ROOT,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stubs_are_what_the_modules_are() -> None:
    assert len(STUBBED) >= 3
    result = _stubtest(*STUBBED)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stub_that_says_too_much_is_found(tmp_path: Path) -> None:
    package = tmp_path / "limiter"
    package.mkdir()
    for path in SOURCE.iterdir():
        if path.is_file() and path.name.startswith(("_calendar.", "__init__.")):
            shutil.copy(path, package)
    stub = package / "_calendar.pyi"
    stub.write_text(re.sub(r"\bdef (\w*first\w*)\(", r"def \1_renamed(", stub.read_text()))
    result = _stubtest("limiter._calendar", source=tmp_path)
    assert result.returncode != 0
    assert "is not present at runtime" in result.stdout, result.stdout + result.stderr


def test_every_extension_module_that_python_imports_has_a_stub() -> None:
    extensions = {f"limiter.{path.stem}" for path in SOURCE.glob("_*.pyx")}
    imported = {
        name for path in repository_files() if path.suffix == ".py" for name in python_imports(path)
    }
    assert imported & extensions
    assert (imported & extensions) - set(STUBBED) == set()


@pytest.mark.parametrize("module", STUBBED)
def test_stubbed_modules_have_docstrings(module: str) -> None:
    assert (importlib.import_module(module).__doc__ or "").strip()
