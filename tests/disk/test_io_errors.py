"""Any write, sync or truncation fails: nothing acknowledged is missing, nothing is there twice.

LIMITER_IO_STEP says at every how many-th operation of the story something fails (default 25).
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.disk.shim import FAST_FOLDER, Control, compile_shim, environment

ROOT: Final = Path(__file__).resolve().parents[2]
STEP: Final = int(os.environ.get("LIMITER_IO_STEP", "25"))

_PROCESSES: Final = 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_fault_loses_what_was_acknowledged(
    tmp_path: Path, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    shim = compile_shim(tmp_path)
    seed = rng.randrange(1 << 31)
    print(f"story {seed}")
    running = []
    with contextlib.ExitStack() as folders:
        for part in range(_PROCESSES):
            root = folders.enter_context(tempfile.TemporaryDirectory(dir=FAST_FOLDER))
            control = tmp_path / f"control-{part}"
            Control(control)
            arguments = ["fail", root, control, seed, STEP, part, _PROCESSES]
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.disk.program", *map(str, arguments)],
                    cwd=ROOT,
                    env=environment(shim, Path(root), control=control),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        printed = [process.communicate()[0] for process in running]
    lives = felt = 0
    for process, text in zip(running, printed, strict=True):
        assert process.returncode == 0, text
        counts = text.split()
        lives += int(counts[0])
        felt += int(counts[1])
    # All are felt but those of a folder that is let go of, where nothing hangs on it.
    assert felt >= 0.95 * lives > 0
    with capsys.disabled():
        print(f"\n{lives} lives of the store with a fault in each")


def test_a_full_disk_serves_again_when_there_is_room(tmp_path: Path, rng: random.Random) -> None:
    shim, control = compile_shim(tmp_path), tmp_path / "control"
    Control(control)
    seed = rng.randrange(1 << 31)
    print(f"story {seed}")
    with tempfile.TemporaryDirectory(dir=FAST_FOLDER) as root:
        found = subprocess.run(
            [sys.executable, "-m", "tests.disk.program", "fill", root, str(control), str(seed)],
            cwd=ROOT,
            env=environment(shim, Path(root), control=control),
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stderr
    lives, felt = map(int, found.stdout.split())
    # A story that trims early needs no more room than the larger disks have.
    assert felt > lives / 2
