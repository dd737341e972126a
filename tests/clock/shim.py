"""The shim before the wall clock: compiled, loaded into servers, told what they are to see."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import Final

from tests.shims import compile_library

__all__ = ["WallClock", "compile_shim"]

_SOURCE: Final = Path(__file__).with_name("shim.c")

# As in shim.c: struct control.
_CONTROL: Final = struct.Struct("=2q")

_MS: Final = 1_000_000


def compile_shim(folder: Path) -> Path:
    """Compiles the shim into a folder."""
    return compile_library(_SOURCE, folder / "clock-shim.so")


class WallClock:
    """The wall clock of the programs that are started with `environment`; this program's stays as
    it is."""

    def __init__(self, shim: Path, folder: Path) -> None:
        path = folder / "clock-control"
        path.write_bytes(bytes(_CONTROL.size))
        self.environment = {"LD_PRELOAD": str(shim), "LIMITER_CLOCK_CONTROL": str(path)}
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _CONTROL.size)

    @property
    def now_ms(self) -> int:
        """What it shows."""
        offset_ns, stands_ns = _CONTROL.unpack_from(self._memory)
        shown_ns: int = stands_ns or time.time_ns() + offset_ns
        return shown_ns // _MS

    def set_off(self, offset_ms: int) -> None:
        """It runs, and is ahead of the true time by so much."""
        _CONTROL.pack_into(self._memory, 0, offset_ms * _MS, 0)

    def stand(self) -> None:
        """It shows what it shows now until it is set."""
        offset_ns, _ = _CONTROL.unpack_from(self._memory)
        _CONTROL.pack_into(self._memory, 0, offset_ns, time.time_ns() + offset_ns)
