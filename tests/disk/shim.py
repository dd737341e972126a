"""The shim before the disk: compiled, loaded into a program, told when to fail or to end it, read
back."""

from __future__ import annotations

import enum
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.shims import compile_library

__all__ = [
    "FAST_FOLDER",
    "Control",
    "Kind",
    "Operation",
    "compile_shim",
    "environment",
    "read_log",
    "write_mark",
]

_SOURCE: Final = Path(__file__).with_name("shim.c")

# Memory, where there is some: what is only tried never needs to be on a disk.
FAST_FOLDER: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# As in shim.c: struct record and struct control.
_RECORD: Final = struct.Struct("=IIQIIQ")
_CONTROL: Final = struct.Struct("=7q64s")

# Of a control's `ending`.
_BEFORE: Final = 1
_AFTER: Final = 2


class Kind(enum.IntEnum):
    """What an operation does."""

    CREATE = 1
    WRITE = 2
    SYNC = 3
    TRUNCATE = 4
    MAKE_FOLDER = 5
    RENAME = 6
    UNLINK = 7
    # Not of the shim: the program says that it got so far.
    MARK = 8


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the file `name`, inside the root. `offset` is a truncation's size and a
    mark's number; `is_durable`: on disk when it returns."""

    kind: Kind
    name: str
    other: str = ""
    offset: int = 0
    data: bytes = b""
    is_durable: bool = False


def compile_shim(folder: Path) -> Path:
    """Compiles the shim into a folder."""
    return compile_library(_SOURCE, folder / "shim.so")


def environment(
    shim: Path, root: Path, *, log: Path | None = None, control: Path | None = None
) -> dict[str, str]:
    """The environment of a program whose disk, below `root`, is looked at."""
    found = {**os.environ, "LD_PRELOAD": str(shim), "LIMITER_DISK_ROOT": str(root)}
    if log is not None:
        found["LIMITER_DISK_LOG"] = str(log)
    if control is not None:
        found["LIMITER_DISK_CONTROL"] = str(control)
    return found


class Control:
    """Tells a program's shim when to fail, from inside or outside of the program."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_CONTROL.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _CONTROL.size)

    @property
    def count(self) -> int:
        """How many operations there have been since the last order, on what it looks at."""
        return int(_CONTROL.unpack_from(self._memory)[0])

    def fail(
        self,
        first: int,
        last: int | None = None,
        *,
        error: int = errno.EIO,
        half: bool = False,
        name: str = "",
    ) -> None:
        """Lets the operations from `first` (1 is the next one) to `last` fail, without a last one
        all of them; with `half` a write gets half of its bytes onto the disk before. Only those on
        files and folders whose names begin with `name` are counted and fail."""
        until = 1 << 62 if last is None else last + 1
        self._order(first=first, until=until, error=error, half=half, name=name)

    def end(self, place: int, *, after: bool = False, half: bool = False, name: str = "") -> None:
        """Ends the program as kill -9 does: right before the operation `place` (1 is the next one)
        on what begins with `name`, or right `after` it, or with `half` of it written."""
        ending = _AFTER if after else _BEFORE
        self._order(first=place, until=place + 1, half=half, ending=ending, name=name)

    def fill(self, room_bytes: int) -> None:
        """Lets no file grow beyond so many bytes."""
        self._order(room=room_bytes)

    def heal(self, *, name: str = "") -> None:
        """Lets everything succeed, and counts what is done on what begins with `name`."""
        self._order(name=name)

    def _order(
        self,
        *,
        first: int = 0,
        until: int = 0,
        error: int = 0,
        half: bool = False,
        room: int = 0,
        ending: int = 0,
        name: str = "",
    ) -> None:
        values = (0, first, until, error, half, room, ending, name.encode())
        _CONTROL.pack_into(self._memory, 0, *values)


def write_mark(log: int, number: int) -> None:
    """Notes in the log, an open descriptor that appends, that the program got so far."""
    os.write(log, _RECORD.pack(Kind.MARK, 0, number, 0, 0, 0))


def read_log(path: Path) -> Iterator[Operation]:
    """The operations of a log, in their order."""
    log = memoryview(path.read_bytes())
    place = 0
    while place < len(log):
        kind, durable, offset, *sizes = _RECORD.unpack_from(log, place)
        place += _RECORD.size
        parts = []
        for size in sizes:
            parts.append(bytes(log[place : place + size]))
            place += size
        name, other, data = parts
        yield Operation(Kind(kind), name.decode(), other.decode(), offset, data, bool(durable))
