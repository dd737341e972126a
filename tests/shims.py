"""Shims: small libraries that a program is started with, to see another world than there is."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["compile_library"]


def compile_library(source: Path, library: Path) -> Path:
    """Compiles a file of C into a library, and gives its path."""
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(source)],
        check=True,
    )
    return library
