"""Who installs the wheel needs nothing else: it carries the library that speaks HTTP/2."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repo.files import ROOT, SOURCE


def needed_libraries(module: Path) -> list[str]:
    """The shared libraries that an extension module is loaded with."""
    program = shutil.which("readelf")
    if program is None:
        pytest.skip("readelf is not installed")
    lines = subprocess.run(
        [program, "-d", str(module)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


def foreign_libraries(modules: list[Path]) -> set[str]:
    """All of them that are not part of every system."""
    assert any("http2" in module.name for module in modules)
    names = {name for module in modules for name in needed_libraries(module)}
    return {name for name in names if not name.startswith(("libc.", "libm.", "libpthread.", "ld-"))}


def test_the_modules_in_place_need_nothing_else() -> None:
    assert foreign_libraries(list(SOURCE.glob("_*.so"))) == set()


@pytest.mark.slow
def test_a_wheel_needs_nothing_else(tmp_path: Path) -> None:
    """Made of a copy in which everything is compiled already, so that it is only linked and
    packed."""
    copy = tmp_path / "limiter"
    ignored = shutil.ignore_patterns(".git", ".venv", ".hypothesis", ".*_cache", "docs", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)],
        cwd=copy,
        check=True,
        capture_output=True,
        timeout=500,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    modules = list((tmp_path / "unpacked/limiter").glob("_*.so"))
    assert len(modules) == len(list(SOURCE.glob("_*.pyx")))
    assert foreign_libraries(modules) == set()
