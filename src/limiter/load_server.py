"""The server under load: starting one, finding the one that listens, and its processor time.

In: an address, or a folder for a server of our own. Out: where it listens, and how much processor
time its process has used so far. Both come from the system's own tables, so what runs elsewhere has
no such figure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from limiter import errors

__all__ = ["cpu_s", "listening_process", "own_server"]

# The state of a listening socket in the system's table.
_LISTEN: Final = "0A"

# Fields of a process's stat behind its name: time in user mode, then in the system, in ticks.
_USER_TICKS: Final = 11
_SYSTEM_TICKS: Final = 12

# How long a server of our own may take to end.
_PATIENCE_S: Final = 60


@contextmanager
def own_server(folder: Path, *flags: str) -> Iterator[str]:
    """Starts a server on a new data folder inside `folder`, with more flags if any are given, and
    gives its address; ends it after.

    Raises Unavailable, with what it said, when it does not start.
    """
    command = ["serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data")]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "limiter.cli", *command, *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if " serving on " not in ready:
                process.wait(_PATIENCE_S)
                log.seek(0)
                raise errors.Unavailable(
                    "SERVER_DID_NOT_START", f"the server did not start: {log.read().strip()}"
                )
            yield ready.split()[-1]
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)
            if process.stdout is not None:
                process.stdout.close()


def listening_process(port: int) -> int | None:
    """The id of the process that listens on a port of this machine; None when it cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            found = any(str(each.readlink()) in inodes for each in descriptors.iterdir())
        except OSError:
            # It belongs to somebody else, or has just ended.
            continue
        if found:
            return int(descriptors.parent.name)
    return None


def cpu_s(process: int | None) -> float | None:
    """Processor time that a process has used, in seconds; None when it cannot be seen."""
    if process is None:
        return None
    try:
        stat = Path("/proc", str(process), "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    return ticks / os.sysconf("SC_CLK_TCK")
