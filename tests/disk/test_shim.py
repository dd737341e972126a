"""The shim ends a program at the operation that is meant, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disk.shim import Control, compile_shim, environment

# In two folders: makes a file (1), writes to it (2), syncs it (3), writes to it (4).
_PROGRAM = """
import os, sys
for folder in ("other", "meant"):
    os.mkdir(f"{sys.argv[1]}/{folder}")
    file = os.open(f"{sys.argv[1]}/{folder}/file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"one.")
    os.fsync(file)
    os.write(file, b"two.")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(
    ("place", "how", "content"),
    [
        (1, "", None),
        (1, "after", b""),
        (2, "", b""),
        (2, "half", b"on"),
        (2, "after", b"one."),
        (3, "half", b"one."),
        (4, "", b"one."),
        (4, "half", b"one.tw"),
        (4, "after", b"one.two."),
        (5, "", b"one.two."),
    ],
)
def test_a_program_ends_where_it_is_told(
    tmp_path: Path, shim: Path, place: int, how: str, content: bytes | None
) -> None:
    root, control_path = tmp_path / "root", tmp_path / "control"
    root.mkdir()
    control = Control(control_path)
    control.end(place, after=how == "after", half=how == "half", name="meant/")
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(root)],
        env=environment(shim, root, control=control_path),
        check=False,
    )
    assert found.returncode == (0 if place == 5 else -signal.SIGKILL)
    file = root / "meant" / "file"
    assert (file.read_bytes() if file.exists() else None) == content
    assert (root / "other" / "file").read_bytes() == b"one.two."
