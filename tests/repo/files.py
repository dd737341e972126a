"""What the repository holds, for the tests of its form."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
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
    "limiterv1",
    "node_modules",
    "target",
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


@cache
def python_imports(path: Path) -> frozenset[str]:
    """The full names of the modules that a .py or .pyi file imports, at any depth.

    `from a import b` gives both `a` and `a.b`, because b may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def cython_imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a .pyx or .pxd file imports or cimports, at any depth.

    `from a cimport b` gives both `a` and `a.b`, because b may be a module.
    """
    text = re.sub(r"\(([^()]*)\)", lambda found: found[1].replace("\n", " "), path.read_text())
    for line in text.splitlines():
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) > 3 and words[0] == "from" and words[2] in ("import", "cimport"):
            yield words[1]
            yield from (f"{words[1]}.{name}" for name in words[3:])
        elif len(words) > 1 and words[0] in ("import", "cimport", "include"):
            yield from words[1:]
