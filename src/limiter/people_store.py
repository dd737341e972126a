"""Who has opted out, in the clear: an LMDB environment of its own beside the journal.

In flow the keys of people (what kind of name it is, and its digest) with their names; out flow the
same. That somebody has opted out is for the journal to say; what is here says what they are called.

    limiter-data/people/
        0x00                   the meta record
        p account key          since when, and the name, sealed; without a name: forgotten
        u account key          unsettled: whether the row is to stay is for the journal to say; the
                               account's id

Accounts are keyed digests. A name opens in its place alone.

What always holds: what is written is synced when it returns, and all of it is there or nothing. A
row comes before the event that makes its person opt out, and goes after the event that lets them in
again; in between it is unsettled. So there is a row for everybody who has opted out, whenever a
crash comes, and a row too many is one of the few that are unsettled.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import lmdb

from limiter import bounds, errors
from limiter.sealing import Sealer
from limiter.store import create_environment, environment_fault, missing_bytes

__all__ = ["Change", "Kept", "PeopleStore"]

_Result = TypeVar("_Result")

_META_KEY: Final = b"\x00"
# Magic, format version, mark of the key, whether all that the journal had is here, checksum of the
# rest.
_META: Final = struct.Struct("<8sI16s?I")
_META_MAGIC: Final = b"LIMITERP"
_META_VERSION: Final = 1

_PERSON: Final = b"p"
_UNSETTLED: Final = b"u"

_TAG_BYTES: Final = 16
_KEY_AT: Final = 1 + _TAG_BYTES
_SINCE: Final = struct.Struct(">q")


class Kept(NamedTuple):
    """What is known of somebody: since when they have opted out, and what they are called; None
    where that has been forgotten."""

    since_ms: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written of one account's people, by their keys, in this order: of whom it is
    settled whether their rows stay, rows, and whose are unsettled from now on."""

    account: str
    settled: Mapping[bytes, bool] = field(default_factory=dict)
    put: Mapping[bytes, Kept] = field(default_factory=dict)
    unsettled: Collection[bytes] = ()


class PeopleStore:
    """Opened at `path`, made there if need be. `folder_key` is the data folder's key. One thread
    writes, any may read.

    Raises FailedPrecondition when the folder holds something else or a newer format, DataLoss when
    it is damaged or was written with another key.
    """

    def __init__(self, path: Path, folder_key: bytes, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._sealer = Sealer(folder_key, "people")
        self._tag_key = hashlib.blake2b(
            folder_key, digest_size=32, person=b"limiter people"
        ).digest()
        self._mark = hashlib.blake2b(folder_key, digest_size=16, person=b"limiter whose").digest()
        self._tag = lru_cache(4096)(self._make_tag)
        # Guards the environment against being closed while somebody reads.
        self._lock = threading.RLock()
        self._is_closed = False
        # An empty folder is somebody's word that there is nothing to look for.
        self.may_lack_names = path.is_dir() and not any(path.iterdir())
        try:
            if self.may_lack_names or not path.exists():
                create_environment(path, _META_KEY, self._pack_meta(False))
            self._env: lmdb.Environment | None = self._opened()
        except (OSError, lmdb.Error) as error:
            raise errors.FailedPrecondition(
                "DATA_FOLDER_UNUSABLE", f"{path} cannot be opened: {error}"
            ) from error
        try:
            if missing_bytes(self._env, path) > 0:
                raise self._damaged("it was cut off")
            self.is_complete = self._read_meta()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the environment. Idempotent."""
        self._is_closed = True
        self._let_go()

    # --- Writing ----------------------------------------------------------------------------------

    def write(self, changes: Iterable[Change]) -> None:
        """Makes these so, in their order, all or nothing. Raises Unavailable; whether they are so
        is unknown then."""

        def make(transaction: lmdb.Transaction[bytes]) -> None:
            for change in changes:
                self._change(transaction, change)

        self._write(make)

    def complete(self) -> None:
        """Notes that everybody is here whom the journal knew by name. Raises Unavailable."""
        self._write(lambda transaction: transaction.put(_META_KEY, self._pack_meta(True)))
        self.is_complete = True

    def _change(self, transaction: lmdb.Transaction[bytes], change: Change) -> None:
        tag = self._tag(change.account)
        for key, stays in change.settled.items():
            transaction.delete(_UNSETTLED + tag + key)
            if not stays:
                transaction.delete(_PERSON + tag + key)
        for key, kept in change.put.items():
            place = _PERSON + tag + key
            head = _SINCE.pack(kept.since_ms)
            sealed = b""
            if kept.name is not None:
                sealed = self._sealer.seal(kept.name.encode(), place + head)
            transaction.put(place, head + sealed)
        for key in change.unsettled:
            transaction.put(_UNSETTLED + tag + key, change.account.encode())

    def _write(self, make: Callable[[lmdb.Transaction[bytes]], object]) -> None:
        try:
            with self._environment().begin(write=True) as transaction:
                make(transaction)
        except (OSError, lmdb.Error) as error:
            # What LMDB thinks of a file that it could not write is not relied on.
            self._let_go()
            raise errors.Unavailable(
                "PEOPLE_UNAVAILABLE", f"{self._path} cannot be written: {error}"
            ) from error

    # --- Reading ----------------------------------------------------------------------------------

    def find(self, account: str, keys: Sequence[bytes]) -> list[Kept | None]:
        """What is known of these, in their order; None where there is no row. Raises Unavailable,
        and DataLoss for a row that does not open."""
        tag = self._tag(account)

        def read(transaction: lmdb.Transaction[bytes]) -> list[Kept | None]:
            places = [_PERSON + tag + key for key in keys]
            return [self._kept(place, transaction.get(place)) for place in places]

        return self._read(read)

    def unsettled(self) -> list[tuple[str, bytes]]:
        """The accounts and keys of the rows that are unsettled. Raises Unavailable."""

        def read(transaction: lmdb.Transaction[bytes]) -> list[tuple[str, bytes]]:
            found = _from(transaction, _UNSETTLED)
            return [(account.decode(), place[_KEY_AT:]) for place, account in found]

        return self._read(read)

    def check(self, on_row: Callable[[], None] = lambda: None) -> int:
        """Opens every row; how many there are. Raises DataLoss for one that does not open."""

        def read(transaction: lmdb.Transaction[bytes]) -> int:
            count = 0
            for place, value in _from(transaction, _PERSON):
                self._kept(place, value)
                count += 1
                on_row()
            return count

        return self._read(read)

    def _kept(self, place: bytes, value: bytes | None) -> Kept | None:
        if value is None:
            return None
        head, sealed = value[: _SINCE.size], value[_SINCE.size :]
        if len(head) != _SINCE.size:
            raise self._damaged("a row is too short")
        name = self._sealer.open(sealed, place + head).decode() if sealed else None
        return Kept(_SINCE.unpack(head)[0], name)

    def _read(self, read: Callable[[lmdb.Transaction[bytes]], _Result]) -> _Result:
        with self._lock:
            try:
                with self._environment().begin() as transaction:
                    return read(transaction)
            except lmdb.Error as error:
                message = f"{self._path} cannot be read: {error}"
                raise environment_fault(error, message, "PEOPLE") from error

    # --- The environment --------------------------------------------------------------------------

    def _environment(self) -> lmdb.Environment:
        """The environment, opened anew after a write that failed."""
        with self._lock:
            if self._is_closed:
                raise errors.Unavailable("PEOPLE_UNAVAILABLE", f"{self._path} is closed")
            if self._env is None:
                try:
                    self._env = self._opened()
                except (OSError, lmdb.Error) as error:
                    raise errors.Unavailable(
                        "PEOPLE_UNAVAILABLE", f"{self._path} cannot be opened: {error}"
                    ) from error
            return self._env

    def _let_go(self) -> None:
        with self._lock:
            if self._env is not None:
                self._env.close()
            self._env = None

    def _opened(self) -> lmdb.Environment:
        return lmdb.open(
            str(self._path),
            map_size=bounds.PEOPLE_BYTES_MAX,
            mode=0o600,
            max_dbs=0,
            max_spare_txns=2,
            readonly=self._read_only,
            create=False,
        )

    def _make_tag(self, account: str) -> bytes:
        return hashlib.blake2b(account.encode(), digest_size=_TAG_BYTES, key=self._tag_key).digest()

    def _pack_meta(self, is_complete: bool) -> bytes:
        meta = _META.pack(_META_MAGIC, _META_VERSION, self._mark, is_complete, 0)[:-4]
        return meta + zlib.crc32(meta).to_bytes(4, "little")

    def _read_meta(self) -> bool:
        """Checks the meta record; whether everybody is here whom the journal knew by name."""
        meta = self._read(lambda transaction: transaction.get(_META_KEY))
        if meta is None or meta[:8] != _META_MAGIC:
            raise errors.FailedPrecondition(
                "PEOPLE_FORMAT", f"{self._path} is an LMDB environment, but not limiter's people"
            )
        version = int.from_bytes(meta[8:12], "little")
        if version != _META_VERSION:
            raise errors.FailedPrecondition(
                "PEOPLE_FORMAT",
                f"{self._path} has format version {version}, this version of limiter reads format"
                f" version {_META_VERSION}: use the version that wrote it",
            )
        if len(meta) != _META.size or zlib.crc32(meta[:-4]) != int.from_bytes(meta[-4:], "little"):
            raise self._damaged("its meta record is damaged")
        _, _, mark, is_complete, _ = _META.unpack(meta)
        if mark != self._mark:
            raise errors.DataLoss(
                "PEOPLE_KEY_FOREIGN",
                f"{self._path} was written with another digest-key: restore both from one backup",
            )
        return bool(is_complete)

    def _damaged(self, what: str) -> errors.DataLoss:
        return errors.DataLoss(
            "PEOPLE_CORRUPT", f"{self._path}: {what}; restore it from a backup with its journal"
        )


def _from(transaction: lmdb.Transaction[bytes], kind: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of one kind."""
    cursor = transaction.cursor()
    if cursor.set_range(kind):
        for key, value in cursor.iternext():
            if key[:1] != kind:
                return
            yield key, value
