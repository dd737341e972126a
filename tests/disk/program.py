"""What runs under the shim: `record ROOT LOG SEED`, `fail ROOT CONTROL SEED STEP PART OF`, and
`fill ROOT CONTROL SEED`.

`record` plays the story once and marks in the log which groups are durable. `fail` plays it once
for every STEP-th operation of it from number PART (of OF processes) on, lets it fail in each
of the ways that disks have, and checks after each life what is on disk. It prints how many lives
there were, and how many of them felt the fault. `fill` plays it on disks that
are full after so many bytes, and get room again when the store has found out three times. It prints
the same.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

from limiter.journal import FIRST_SEQUENCE
from tests.disk.shim import Control, write_mark
from tests.disk.story import Story, check

# How an operation fails: the error, whether half of a write gets through, and how many operations
# fail from there on.
WAYS = (
    (errno.EIO, False, 1),
    (errno.EIO, True, 1),
    (errno.ENOSPC, False, 3),
)

# How large the files of a full disk are.
ROOMS = (4_096, 8_192, 16_384, *range(20_000, 200_000, 9_000))


def record(root: Path, log_path: Path, seed: int) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    Story(root / "data", seed, lambda sequence: write_mark(log, sequence)).play()


def fail(root: Path, control: Control, seed: int, places: range) -> None:
    lives = felt = 0
    for place in places:
        for error, half, length in WAYS:
            folder = root / "data"
            durable: list[int] = [FIRST_SEQUENCE - 1]
            control.fail(place, place + length - 1, error=error, half=half)
            story = Story(folder, seed, durable.append)
            try:
                story.play()
                control.heal()
                check(folder, seed, max(durable), max(durable))
            except BaseException:
                print(f"operation {place}, error {error}, half {half}, {length} in a row")
                raise
            lives += 1
            felt += story.fault_count > 0
            shutil.rmtree(folder)
    print(lives, felt)


def fill(root: Path, control: Control, seed: int) -> None:
    lives = felt = 0
    for room_bytes in ROOMS:
        folder = root / "data"
        durable: list[int] = [FIRST_SEQUENCE - 1]
        control.fill(room_bytes)

        def found_out(count: int) -> None:
            if count == 3:
                control.heal()

        story = Story(folder, seed, durable.append, found_out)
        story.play()
        check(folder, seed, max(durable), max(durable))
        lives += 1
        felt += story.fault_count >= 3
        shutil.rmtree(folder)
    print(lives, felt)


def main() -> None:
    command, root, path, seed, *rest = sys.argv[1:]
    if command == "record":
        record(Path(root), Path(path), int(seed))
        return
    control = Control(Path(path))
    if command == "fill":
        fill(Path(root), control, int(seed))
        return
    control.heal()
    Story(Path(root) / "data", int(seed)).play()
    operation_count = control.count
    shutil.rmtree(Path(root) / "data")
    step, part, of = (int(each) for each in rest)
    fail(Path(root), control, int(seed), range(1 + part * step, operation_count + 1, of * step))


if __name__ == "__main__":
    main()
