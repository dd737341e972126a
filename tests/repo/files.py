"""What the repository holds, for the tests of its form."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = ROOT / "src" / "limiter"

# Folders that are built, cached or an environment, never part of the repository.
_LEFT_OUT = {
    ".asv",
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    "limiter-data",
    "venv",
}
_BUILT = {".c", ".cpp", ".html", ".o", ".pyc", ".so"}


def repository_files() -> list[Path]:
    """Every file of the repository but what .gitignore leaves out, in a fixed order."""
    found = []
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = sorted(
            name for name in subfolders if name not in _LEFT_OUT and not name.endswith(".egg-info")
        )
        found += [Path(folder, name) for name in sorted(names)]
    return [path for path in found if path.suffix not in _BUILT and path.name != ".coverage"]


def is_generated(path: Path) -> bool:
    """Whether a tool writes the file: stubs, locked requirements."""
    return "_pb2" in path.name or path.parent.name == "requirements"


def python_imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a .py or .pyi file imports, at any depth.

    `from a import b` gives both `a` and `a.b`, because b may be a module.
    """
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cython_imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a .pyx or .pxd file imports or cimports, one line each."""
    for line in path.read_text().splitlines():
        words = line.replace(",", " ").split()
        if not words or words[0] not in ("from", "import", "cimport", "include"):
            continue
        if words[0] == "from" and len(words) > 3:
            yield words[1]
            yield from (f"{words[1]}.{name.strip('()')}" for name in words[3:])
        else:
            yield from words[1:]
