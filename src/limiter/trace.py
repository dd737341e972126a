"""Traces of attempts in files: read block by block, plain or compressed by gzip.

In flow paths; out flow blocks of text, and how far into the file they reach. A trace is read once
and as it comes; where it turns out not to be in the order of time, it is read once more.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from limiter import bounds

__all__ = ["STANDARD_INPUT", "Block", "TraceFile"]

# In place of a path.
STANDARD_INPUT: Final = "-"

_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a trace; `is_last` if nothing follows it. `read_bytes` of the file, which may be
    compressed, were read up to here."""

    text: bytes
    is_last: bool
    read_bytes: int


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file, or standard input for `-`."""

    path: str

    @property
    def can_be_read_again(self) -> bool:
        """Whether it is kept anywhere."""
        return self.path != STANDARD_INPUT and Path(self.path).is_file()

    @property
    def size_bytes(self) -> int | None:
        """The size of the file as it is kept; None where that is not known."""
        return Path(self.path).stat().st_size if self.can_be_read_again else None

    def blocks(self) -> Iterator[Block]:
        """The whole trace in blocks, at least one. Raises OSError for a file that cannot be read,
        or whose compressed data are damaged."""
        with ExitStack() as stack:
            file: BinaryIO
            if self.path == STANDARD_INPUT:
                file = sys.stdin.buffer
            else:
                file = stack.enter_context(Path(self.path).open("rb"))
            yield from _blocks(file, stack)


def _blocks(file: BinaryIO, stack: ExitStack) -> Iterator[Block]:
    plain = _Ahead(file)
    source: _Ahead | gzip.GzipFile = plain
    if plain.head[:2] == _GZIP_MAGIC:
        source = stack.enter_context(gzip.GzipFile(fileobj=cast(BinaryIO, plain), mode="rb"))
    try:
        text = source.read(bounds.TRACE_BLOCK_BYTES)
        while True:
            following = source.read(bounds.TRACE_BLOCK_BYTES)
            yield Block(text, not following, plain.read_bytes)
            if not following:
                return
            text = following
    except EOFError as error:
        raise OSError("its compressed data end too early") from error


class _Ahead:
    """A file whose first bytes were looked at, and that counts what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.head = file.read(2)
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes; none at the end."""
        found, self.head = self.head, b""
        # A pipe gives what it has.
        while size < 0 or len(found) < size:
            more = self._file.read(size - len(found) if size >= 0 else -1)
            found += more
            if not more:
                break
        self.read_bytes += len(found)
        return found
