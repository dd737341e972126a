"""What may be on a disk after the power went: from a recording of writes and syncs.

A file's writes are durable once it is synced, a folder's entries once the folder is. Of what is not
durable any part may be there: entries up to some point, in their order; of the writes any subset,
each whole or in pieces of sectors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.disk.shim import Kind, Operation

__all__ = ["Disk", "State"]

_SECTOR_BYTES: Final = (512, 4_096)

# Operations on the names of a folder.
_ON_NAMES: Final = frozenset({Kind.CREATE, Kind.MAKE_FOLDER, Kind.RENAME, Kind.UNLINK})


@dataclass
class _File:
    """A file: its durable bytes, and what was done to it since it was synced."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.durable, operation.kind, operation.offset, operation.data)
        self.pending.clear()


@dataclass(frozen=True, slots=True)
class State:
    """What one loss of power leaves: folders, and files by their names."""

    folders: tuple[str, ...]
    files: dict[str, bytes]

    def write_to(self, root: Path) -> None:
        """Makes it so in an empty folder."""
        for folder in self.folders:
            (root / folder).mkdir()
        for name, data in self.files.items():
            (root / name).write_bytes(data)
            (root / name).chmod(0o600)


class Disk:
    """A disk on which operations arrive one after the other."""

    def __init__(self) -> None:
        # The entries of folders, by name: a file, None for a folder.
        self._durable: dict[str, _File | None] = {}
        self._now: dict[str, _File | None] = {}
        self._pending: list[tuple[Operation, _File | None]] = []

    def arrive(self, operation: Operation) -> None:
        """The operation returns."""
        if operation.kind in _ON_NAMES:
            made = _File() if operation.kind is Kind.CREATE else None
            self._pending.append((operation, made))
            _apply_name(self._now, operation, made)
            return
        file = self._now.get(operation.name)
        if operation.kind is Kind.SYNC:
            if file is None:
                self._sync_folder(operation.name)
            else:
                file.sync()
        elif file is not None:
            file.pending.append(operation)
            if operation.is_durable:
                file.pending.pop()
                _apply(file.durable, operation.kind, operation.offset, operation.data)

    def _sync_folder(self, folder: str) -> None:
        """What was done to the entries of a folder is durable, and all that came before it."""
        last = max(
            (place for place, (each, _) in enumerate(self._pending) if _folder_of(each) == folder),
            default=-1,
        )
        for operation, made in self._pending[: last + 1]:
            _apply_name(self._durable, operation, made)
        del self._pending[: last + 1]

    def nothing_more(self) -> State:
        """The state in which nothing is there that was not durable."""
        return self._state(dict(self._durable), lambda file: bytes(file.durable))

    def everything(self) -> State:
        """The state in which all that was written is there."""
        return self._state(self._now, _all_of)

    def states(self, rng: random.Random, count: int) -> Iterator[State]:
        """So many states, each with a part of what was not durable."""
        for _ in range(count):
            entries = dict(self._durable)
            for operation, made in self._pending[: rng.randint(0, len(self._pending))]:
                _apply_name(entries, operation, made)
            yield self._state(entries, lambda file: _part_of(file, rng))

    @staticmethod
    def _state(entries: dict[str, _File | None], content: object) -> State:
        folders = tuple(sorted(name for name, file in entries.items() if file is None))
        assert callable(content)
        files = {name: content(file) for name, file in entries.items() if file is not None}
        return State(folders, files)


def _folder_of(operation: Operation) -> str:
    return operation.name.rpartition("/")[0]


def _apply_name(entries: dict[str, _File | None], operation: Operation, made: _File | None) -> None:
    if operation.kind in {Kind.CREATE, Kind.MAKE_FOLDER}:
        entries[operation.name] = made
    elif operation.kind is Kind.UNLINK:
        entries.pop(operation.name, None)
    else:
        # A folder takes with it what is in it.
        for name in [each for each in entries if f"{each}/".startswith(f"{operation.name}/")]:
            entries[operation.other + name.removeprefix(operation.name)] = entries.pop(name)


def _apply(content: bytearray, kind: Kind, offset: int, data: bytes) -> None:
    """Writes or truncates."""
    if kind is Kind.TRUNCATE:
        if offset < len(content):
            del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _all_of(file: _File) -> bytes:
    content = bytearray(file.durable)
    for each in file.pending:
        _apply(content, each.kind, each.offset, each.data)
    return bytes(content)


def _part_of(file: _File, rng: random.Random) -> bytes:
    """The durable bytes and a part of what came after."""
    content = bytearray(file.durable)
    for each in file.pending:
        fate = rng.random()
        if fate < 0.3:
            continue
        if each.kind is Kind.TRUNCATE or fate < 0.5:
            _apply(content, each.kind, each.offset, each.data)
            continue
        for offset, data in _sectors(each, rng.choice(_SECTOR_BYTES)):
            if rng.random() < 0.5:
                _apply(content, Kind.WRITE, offset, data)
    return bytes(content)


def _sectors(operation: Operation, size: int) -> Iterable[tuple[int, bytes]]:
    """The pieces of a write that a disk writes whole."""
    place = 0
    while place < len(operation.data):
        until = (operation.offset + place) // size * size + size - operation.offset
        yield operation.offset + place, operation.data[place:until]
        place = until
