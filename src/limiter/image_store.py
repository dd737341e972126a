"""Images on disk: what the journal's past has come to, in an LMDB environment of its own.

One of the modules that know LMDB. What flows in: records that `baseline` and `imaging` make, a
slice at a time. What flows out: the same records, checked.

    meta                     magic, format version, shard, mark of the digest key
    baseline                 the head of the newest baseline
    piece kind number        pieces of baselines
    account id               an account's image, whole, or how many parts it has
    part id generation part  parts of a large one
    clock                    the latest instant by which any image was written

What always holds:

- each record carries a checksum of its key and content, and is checked when it is read;
- a slice is one transaction, synced when it returns. A large image is there once its last slice is,
  which replaces the one before it;
- images may be lost: without them a start reads the whole journal, as far as that is kept whole.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb

from limiter import bounds, errors
from limiter._residence import is_quiet
from limiter.store import create_environment, environment_fault, fill_file, open_environment

__all__ = ["ImageStore", "Record", "piece_key"]

# A key and what it holds from now on; None deletes it.
Record = tuple[bytes, bytes | None]

_META_KEY: Final = b"\x00"
_BASELINE_KEY: Final = b"\x01"
_PIECE: Final = b"\x02"
_ACCOUNT: Final = b"\x03"
_PART: Final = b"\x04"
_CLOCK_KEY: Final = b"\x05"

# Magic, format version, shard, mark of the digest key.
_META: Final = struct.Struct("<8sII16s")
_META_MAGIC: Final = b"LIMITERI"
_META_VERSION: Final = 1

_CHECKSUM: Final = struct.Struct("<I")

# How an account's record begins: 0, and the image follows; 1, and it says which parts there are.
_WHOLE: Final = b"\x00"
_PARTED: Final = b"\x01"
_PARTS: Final = struct.Struct("<IIQ")

_INSTANT: Final = struct.Struct("<q")

# Records, and keys, that are looked at in one go.
_SOME_BYTES: Final = 256 * 1024
_SOME_KEYS: Final = 1_000

# Room that a quota keeps for LMDB's own pages.
_QUOTA_MARGIN_BYTES: Final = 1024 * 1024


def piece_key(kind: bytes, number: int) -> bytes:
    """The key of a baseline's piece; `kind` is one byte."""
    return _PIECE + kind + number.to_bytes(8, "big")


def _account_key(account: int) -> bytes:
    return _ACCOUNT + account.to_bytes(4, "big")


def _part_key(account: int, generation: int, part: int) -> bytes:
    return (
        _PART + account.to_bytes(4, "big") + generation.to_bytes(4, "big") + part.to_bytes(4, "big")
    )


class ImageStore:
    """The images of one shard, made if there are none. `mark` says whose they are, as the journal's
    does.

    One thread writes; any thread may read. `quota_bytes` bounds the file. One that `stands` shows
    the images as they are now, whatever is written later, to one thread. Raises FailedPrecondition
    when the folder holds something else, a newer format or images of another journal, DataLoss when
    it is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        shard: int,
        mark: bytes,
        quota_bytes: int = bounds.STORE_MAP_BYTES,
        read_only: bool = False,
        stands: bool = False,
    ) -> None:
        self._path = path
        self.quota_bytes = quota_bytes
        meta = _META.pack(_META_MAGIC, _META_VERSION, shard, mark)
        try:
            if not path.exists():
                create_environment(path, _META_KEY, meta + _checksum(_META_KEY, meta))
            self._env = open_environment(path, read_only=read_only)
        except (OSError, lmdb.Error) as error:
            raise self._fault(error, "cannot be opened") from error
        self._standing: lmdb.Transaction[bytes] | None = None
        try:
            if stands:
                self._standing = self._env.begin()
            self._page_bytes = self._env.stat()["psize"]
            if not read_only:
                fill_file(self._env, path)
            self._check_meta(meta)
        except BaseException:
            self._env.close()
            raise

    @property
    def used_bytes(self) -> int:
        """How much of the map has ever been in use."""
        return int((self._env.info()["last_pgno"] + 1) * self._page_bytes)

    def write(self, records: Sequence[Record]) -> None:
        """Makes so what the records say, in one transaction, and returns once it is durable. Raises
        Unavailable if it cannot; what was there before is then there still."""
        size = sum(len(content) for _, content in records if content is not None)
        if self.used_bytes + size + _QUOTA_MARGIN_BYTES > self.quota_bytes:
            raise errors.Unavailable(
                "IMAGES_UNAVAILABLE",
                f"the images {self._path} have reached their quota of {self.quota_bytes} bytes",
            )
        try:
            with self._env.begin(write=True) as transaction:
                for key, content in records:
                    if content is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, content + _checksum(key, content))
        except (OSError, lmdb.Error) as error:
            raise errors.Unavailable(
                "IMAGES_UNAVAILABLE", f"the images {self._path} cannot be written: {error}"
            ) from error

    def as_of_ms(self) -> int:
        """The latest instant by which any image was written, which no instant may lie before; 0
        where there is none, or where a version has written that did not tell."""
        record = self._read(_CLOCK_KEY)
        return 0 if record is None else int(_INSTANT.unpack(record)[0])

    @staticmethod
    def clock_record(now_ms: int) -> Record:
        """What tells by which instant images were written: to be written with them."""
        return _CLOCK_KEY, _INSTANT.pack(now_ms)

    # --- baselines --------------------------------------------------------------------------------

    def baseline(self) -> bytes | None:
        """The head of the newest baseline, None where there is none yet."""
        return self._read(_BASELINE_KEY)

    @staticmethod
    def baseline_record(head: bytes) -> Record:
        """What makes a baseline the newest one: to be written last."""
        return _BASELINE_KEY, head

    def pieces(self, kind: bytes, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yields the pieces of a kind from a number on, in order; a few in memory at a time."""
        key = piece_key(kind, first)
        while found := self._next(key, _PIECE + kind):
            for key, content in found:
                yield int.from_bytes(key[2:], "big"), content
            key += b"\x00"

    def piece_numbers(self, kind: bytes, first: int = 0) -> Iterator[int]:
        """Yields the numbers of a kind's pieces, from one on."""
        for key in self._all_keys(piece_key(kind, first), _PIECE + kind):
            yield int.from_bytes(key[2:], "big")

    # --- images -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], bytes | None]]:
        """What `get` gives of many accounts, as long as it is entered."""

        def get(account: int) -> bytes | None:
            key = _account_key(account)
            content = transaction.get(key)
            return None if content is None else self._image_in(account, _checked(key, content))

        try:
            with self._transaction() as transaction:
                yield get
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error

    def get(self, account: int) -> bytes | None:
        """The newest image of an account, None where it has none. Raises DataLoss where it is
        damaged."""
        record = self._read(_account_key(account))
        return None if record is None else self._image_in(account, record)

    def _image_in(self, account: int, record: bytes) -> bytes:
        if record[:1] == _WHOLE:
            return record[1:]
        generation, part_count, size = self._parts_in(record)
        parts = [self._read(_part_key(account, generation, number)) for number in range(part_count)]
        if None in parts or sum(len(part) for part in parts if part is not None) != size:
            raise _damaged(f"parts of the image of account {account} are missing")
        return b"".join(part for part in parts if part is not None)

    @staticmethod
    def whole_record(account: int, image: bytes) -> Record:
        """What makes an image the newest one of its account."""
        return _account_key(account), _WHOLE + image

    def next_generation(self, account: int) -> int:
        """The number of an account's next image in parts."""
        record = self._read(_account_key(account))
        return 1 if record is None or record[:1] == _WHOLE else self._parts_in(record)[0] + 1

    @staticmethod
    def part_record(account: int, generation: int, number: int, part: bytes) -> Record:
        """A part of an image that is not the newest one yet."""
        return _part_key(account, generation, number), part

    @staticmethod
    def parted_record(account: int, generation: int, part_count: int, size: int) -> Record:
        """What makes an image in parts, all of which are there, the newest one."""
        return _account_key(account), _PARTED + _PARTS.pack(generation, part_count, size)

    def other_parts(self, account: int, generation: int, most: int) -> list[Record]:
        """What deletes up to so many parts of other images of an account."""
        prefix = _PART + account.to_bytes(4, "big")
        own = prefix + generation.to_bytes(4, "big")
        others = (key for key in self._all_keys(prefix, prefix) if not key.startswith(own))
        return [(key, None) for key in islice(others, most)]

    def accounts(self, start: int = 0) -> Iterator[int]:
        """Yields the accounts that have images, in the order of their numbers."""
        for key in self._all_keys(_account_key(start), _ACCOUNT):
            yield int.from_bytes(key[1:], "big")

    def quiet(self, before: int, start: int) -> tuple[list[int], int]:
        """Of some accounts with images, from a number on, those whose images may say less by now,
        as their newest events lie before a position; and where to go on, 0 behind the last."""
        found: list[int] = []
        next_start = 0
        for key, record in self._next(_account_key(start), _ACCOUNT, _SOME_BYTES):
            account = int.from_bytes(key[1:], "big")
            if record[:1] == _PARTED or is_quiet(account, record[1:], before):
                found.append(account)
            next_start = account + 1
        return found, next_start

    def close(self) -> None:
        """Closes the environment. Idempotent. Nothing may be reading or writing."""
        if self._standing is not None:
            self._standing.abort()
            self._standing = None
        self._env.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction[bytes]]:
        """What is read in."""
        if self._standing is not None:
            yield self._standing
            return
        with self._env.begin() as transaction:
            yield transaction

    def _parts_in(self, record: bytes) -> tuple[int, int, int]:
        if record[:1] != _PARTED or len(record) != 1 + _PARTS.size:
            raise _damaged("an account's record says neither an image nor which parts it has")
        generation, part_count, size = _PARTS.unpack_from(record, 1)
        return generation, part_count, size

    def _read(self, key: bytes) -> bytes | None:
        try:
            with self._transaction() as transaction:
                content = transaction.get(key)
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error
        return None if content is None else _checked(key, content)

    def _all_keys(self, key: bytes, prefix: bytes) -> Iterator[bytes]:
        """Keys from one on, as far as they share a prefix, without what they hold."""
        while found := self._keys(key, prefix):
            yield from found
            key = found[-1] + b"\x00"

    def _keys(self, key: bytes, prefix: bytes) -> list[bytes]:
        """Some of them, at least one if there are any."""
        found: list[bytes] = []
        try:
            with self._transaction() as transaction:
                cursor = transaction.cursor()
                if cursor.set_range(key):
                    for at in islice(cursor.iternext(keys=True, values=False), _SOME_KEYS):
                        if not at.startswith(prefix):
                            break
                        found.append(at)
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error
        return found

    def _next(
        self, key: bytes, prefix: bytes, byte_limit: int = bounds.STORE_READ_BYTES_MAX
    ) -> list[tuple[bytes, bytes]]:
        """Records from a key on, as far as they share a prefix and up to a size, at least one."""
        found: list[tuple[bytes, bytes]] = []
        byte_count = 0
        try:
            with self._transaction() as transaction:
                cursor = transaction.cursor()
                if cursor.set_range(key):
                    for at, content in cursor.iternext():
                        if not at.startswith(prefix) or byte_count >= byte_limit:
                            break
                        found.append((at, _checked(at, content)))
                        byte_count += len(content)
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error
        return found

    def _check_meta(self, expected: bytes) -> None:
        meta = self._read(_META_KEY)
        if meta is None or meta[:8] != _META_MAGIC:
            raise errors.FailedPrecondition(
                "IMAGE_FORMAT", f"{self._path} is an LMDB environment, but holds no images"
            )
        version = int.from_bytes(meta[8:12], "little")
        if version != _META_VERSION:
            raise errors.FailedPrecondition(
                "IMAGE_FORMAT",
                f"the images {self._path} have format version {version}, this version of limiter "
                f"reads format version {_META_VERSION}: use the version that wrote them",
            )
        if meta != expected:
            raise errors.FailedPrecondition(
                "IMAGE_FOREIGN",
                f"the images {self._path} belong to another journal than the one beside them: "
                "restore both from one backup",
            )

    def _fault(self, error: Exception, what: str) -> errors.LimiterError:
        return environment_fault(error, f"the images {self._path} {what}: {error}", "IMAGE")


def _checksum(key: bytes, content: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(key)))


def _checked(key: bytes, content: bytes) -> bytes:
    """A record's content without its checksum. Raises DataLoss where that does not match."""
    if len(content) < _CHECKSUM.size:
        raise _damaged("a record is shorter than its checksum")
    body = content[: -_CHECKSUM.size]
    if _checksum(key, body) != content[-_CHECKSUM.size :]:
        raise _damaged("the checksum of a record does not match its bytes")
    return body


def _damaged(what: str) -> errors.DataLoss:
    return errors.DataLoss("IMAGE_CORRUPT", f"the images are damaged: {what}")
