"""What is on disk: the data folder, its lock and key, and the journal in LMDB.

One of the modules that know LMDB; the others keep the images, the restrictions log and the names of
who has opted out. What flows in: framed groups with their sequence. What flows out: the same bytes
in the same order, or a fault that says what is wrong with the folder.

    limiter-data/            0700
        lock                 held (flock) for the life of the process, names the holder
        digest-key           0600, 32 random bytes: keys the digests of contacts and addresses
        journal/             the LMDB environment of the journal
        images/              that of the images
        restrictions/        the LMDB environment of the restrictions log
        people/              the LMDB environment of who has opted out, in the clear

What always holds:

- One process at most has the folder open. The lock falls with the process, however it ends.
- The digest key is on disk, whole and synced, before anything is derived from it; it is never
  replaced. Key and journal belong together: a journal that holds anything is refused without its
  key or with another one, and a key without its journal too (an empty one would silently forget
  every count).
- A group's key is its sequence as eight big-endian bytes, so that a put always goes to the end; the
  one-byte key of the meta record sorts before all of them. A put and the check that it follows the
  tail are one transaction, which is synced when it returns: NOSYNC, NOMETASYNC, WRITEMAP are off.
- Read transactions are short: each reads a slice and ends, so that no old page is held for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import lmdb

from limiter import bounds, errors
from limiter.journal import FIRST_SEQUENCE, Seen, SequenceConflict

__all__ = [
    "DIGEST_KEY_BYTES",
    "KEY_NAME",
    "DataFolder",
    "LmdbJournal",
    "Snapshot",
    "check_mark",
    "copy_environment",
    "create_environment",
    "environment_fault",
    "fill_file",
    "missing_bytes",
    "open_environment",
    "read_digest_key",
    "rename_folder",
    "replace_environment",
    "write_whole",
]

_log: Final = logging.getLogger(__name__)

DIGEST_KEY_BYTES: Final = 32

# The digest key's file.
KEY_NAME: Final = "digest-key"

# Room that a quota keeps for LMDB's own pages beside a group: a path through the tree, free pages.
_QUOTA_MARGIN_BYTES: Final = 1024 * 1024

# What has to fit into the quota besides for a journal to count as one that can be written: about
# the largest group. One that stopped for a group would otherwise go on only to stop again.
_GROUP_ROOM_BYTES: Final = 1024 * 1024

# The meta record: magic, format version, shard, oldest kept sequence, mark of the digest key,
# checksum of the rest.
_META_KEY: Final = b"\x00"
_META: Final = struct.Struct("<8sIIQ16sI")
_META_MAGIC: Final = b"LIMITERJ"
_META_VERSION: Final = 1

# The mark of a journal that holds nothing yet and belongs to no key.
_NO_MARK: Final = bytes(16)


class DataFolder:
    """The data folder, created if need be and locked until `close`.

    `path` is the folder; `holder` is what the lock tells others beside the process id. Raises
    FailedPrecondition when the folder cannot be used, or is in use: then it names the holder.
    """

    def __init__(self, path: Path, holder: str = "starting") -> None:
        self.path = path
        try:
            if not path.exists():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync_folder(path.parent)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held_by = os.pread(self._lock, 4096, 0).decode("utf-8", "replace").strip()
            os.close(self._lock)
            raise errors.FailedPrecondition(
                "DATA_FOLDER_IN_USE",
                f"the data folder {path} is in use by another server "
                f"({held_by or 'which has not said who it is'})",
            ) from error
        try:
            self.set_holder(holder)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def journal_path(self) -> Path:
        """Where the journal's LMDB environment lives."""
        return self.path / "journal"

    @property
    def images_path(self) -> Path:
        """Where the images' LMDB environment lives."""
        return self.path / "images"

    @property
    def restrictions_path(self) -> Path:
        """Where the restrictions log lives."""
        return self.path / "restrictions"

    @property
    def people_path(self) -> Path:
        """Where the names of those who have opted out live."""
        return self.path / "people"

    def set_holder(self, holder: str) -> None:
        """Writes who holds the folder into the lock file, for whoever is refused."""
        text = f"process {os.getpid()}, {holder}\n".encode()
        try:
            os.pwrite(self._lock, text, 0)
            os.ftruncate(self._lock, len(text))
        except OSError as error:
            raise self._unusable(error) from error

    def open(
        self, *, shard: int = 0, quota_bytes: int = bounds.STORE_MAP_BYTES
    ) -> tuple[LmdbJournal, bytes]:
        """The folder's journal and its key for digests, both made if the folder is new.

        Raises DataLoss when one of them is damaged, or is missing although the other is not,
        FailedPrecondition when the folder cannot be written, and what LmdbJournal raises.
        """
        try:
            return self._open(shard, quota_bytes)
        except OSError as error:
            raise self._unusable(error) from error

    def _open(self, shard: int, quota_bytes: int) -> tuple[LmdbJournal, bytes]:
        key = read_digest_key(self._key_path)
        journal = LmdbJournal(
            self.journal_path, shard=shard, quota_bytes=quota_bytes, must_exist=key is not None
        )
        try:
            if key is None:
                if journal.tail(shard) != 0:
                    raise errors.DataLoss(
                        "DIGEST_KEY_MISSING",
                        f"{self._key_path} is missing: restore it from a backup, the journal "
                        "beside it cannot be read without it",
                    )
                key = self._create_digest_key()
            self._check_mark(journal, key)
        except BaseException:
            journal.close()
            raise
        return journal, key

    def _check_mark(self, journal: LmdbJournal, key: bytes) -> None:
        """Ties an empty journal to the key; refuses one that is tied to another."""
        if journal.mark == _NO_MARK:
            journal.set_mark(_mark_of(key))
        else:
            check_mark(journal, key, self._key_path)

    def _unusable(self, error: OSError) -> errors.FailedPrecondition:
        return errors.FailedPrecondition(
            "DATA_FOLDER_UNUSABLE", f"the data folder {self.path} cannot be used: {error}"
        )

    @property
    def _key_path(self) -> Path:
        return self.path / KEY_NAME

    def _create_digest_key(self) -> bytes:
        key = secrets.token_bytes(DIGEST_KEY_BYTES)
        write_whole(self._key_path, key)
        return key

    def close(self) -> None:
        """Lets go of the folder. Idempotent."""
        if self._lock >= 0:
            # The file stays: removing it would let two processes lock two files of that name. Who
            # held it stays in there if the disk refuses, and misleads nobody: the lock is free.
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1


def read_digest_key(path: Path) -> bytes | None:
    """The key in a file, None where there is none. Raises DataLoss for a damaged one."""
    if not path.exists():
        return None
    key = path.read_bytes()
    if len(key) != DIGEST_KEY_BYTES:
        raise errors.DataLoss(
            "DIGEST_KEY_DAMAGED",
            f"{path} has {len(key)} bytes instead of {DIGEST_KEY_BYTES}: restore it from a "
            "backup, the journal cannot be read without it",
        )
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        _log.warning("%s can be read by others than its owner: chmod 600 it", path)
    return key


def _mark_of(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=len(_NO_MARK), person=b"limiter journal").digest()


def check_mark(journal: LmdbJournal, key: bytes, key_path: Path) -> None:
    """Raises DataLoss unless the journal was written with the key, which `key_path` holds."""
    if journal.mark != _mark_of(key):
        raise errors.DataLoss(
            "DIGEST_KEY_FOREIGN",
            f"{key_path} is not the key that the journal beside it was written with: "
            "restore the one that belongs to it",
        )


class LmdbJournal:
    """The journal of one shard in an LMDB environment: one put for each group.

    Satisfies `limiter.journal.Journal`. One thread appends; any thread may read. `quota_bytes`
    bounds the file: an append that would take it further is refused with Unavailable before
    anything is written. With `must_exist` none is made; one that is `read_only` may belong to a
    server that appends meanwhile. Raises FailedPrecondition when the folder holds something else or
    a newer format, DataLoss when it is damaged, or missing but must exist.
    """

    def __init__(
        self,
        path: Path,
        *,
        shard: int = 0,
        quota_bytes: int = bounds.STORE_MAP_BYTES,
        must_exist: bool = False,
        read_only: bool = False,
    ) -> None:
        self._path = path
        self._shard = shard
        self._quota_bytes = min(quota_bytes, bounds.STORE_MAP_BYTES)
        self._must_exist = must_exist
        data = path / "data.mdb"
        if must_exist and (not data.exists() or data.stat().st_size == 0):
            raise self._missing()
        try:
            if not path.exists():
                create_environment(
                    path, _META_KEY, _pack_meta(self._shard, FIRST_SEQUENCE, _NO_MARK)
                )
            self._env = open_environment(path, read_only=read_only)
        except (OSError, lmdb.Error) as error:
            raise self._fault(error, "cannot be opened") from error
        try:
            self._page_bytes = self._env.stat()["psize"]
            if not read_only:
                fill_file(self._env, path)
            elif missing_bytes(self._env, path) > 0:
                raise errors.DataLoss("JOURNAL_CORRUPT", f"the journal {path} was cut off")
            self._head, self._mark = self._read_meta()
        except BaseException:
            self._env.close()
            raise

    @property
    def used_bytes(self) -> int:
        """How much of the map is in use, as of the last transaction."""
        return (self._env.info()["last_pgno"] + 1) * self._page_bytes

    @property
    def mark(self) -> bytes:
        """Whose journal this is; zeros until it is told."""
        return self._mark

    def set_mark(self, mark: bytes) -> None:
        """Says whose journal this is, durably. Raises Unavailable if it cannot be written."""
        self._mark = mark
        self.check_writable()

    @property
    def quota_bytes(self) -> int:
        """How much of the map may be in use."""
        return self._quota_bytes

    def append(self, shard: int, expected_sequence: int, record: bytes) -> None:
        """Makes `record` the group `expected_sequence` and returns once it is durable."""
        self._check_shard(shard)
        self._check_quota(len(record))
        try:
            with self._env.begin(write=True) as transaction:
                tail = _tail(transaction)
                if tail is None:
                    tail = self._head - 1
                if tail != expected_sequence - 1:
                    raise SequenceConflict(shard, expected_sequence, tail)
                if not transaction.put(_key(expected_sequence), record, append=True):
                    raise SequenceConflict(shard, expected_sequence, tail)
        except (OSError, lmdb.Error) as error:
            raise self._unwritten(error) from error

    def head(self, shard: int) -> int:
        """The sequence of the oldest group kept; the one after the tail when none is."""
        self._check_shard(shard)
        return self._head

    def tail(self, shard: int) -> int:
        """The sequence of the newest group; 0 before the first one."""
        self._check_shard(shard)
        try:
            with self._env.begin() as transaction:
                tail = _tail(transaction)
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error
        return self._head - 1 if tail is None else tail

    def read(self, shard: int, first: int, last: int) -> list[tuple[int, bytes]]:
        """The (sequence, record) pairs kept from `first` to `last`, both inclusive, in order."""
        self._check_shard(shard)
        return self._read_slice(first, last, None)

    def peek(self, shard: int, sequence: int, look: Callable[[memoryview], Seen]) -> Seen | None:
        """What `look` makes of one group's record, read in place; None when it is not kept."""
        self._check_shard(shard)
        if sequence < self._head:
            return None
        try:
            with self._env.begin(buffers=True) as transaction:
                record = transaction.get(_key(sequence))
                return None if record is None else look(memoryview(record))
        except lmdb.Error as error:
            raise self._fault(error, f"cannot be read at group {sequence}") from error

    @contextlib.contextmanager
    def reading(self, shard: int) -> Iterator[Callable[[int], memoryview | None]]:
        """Many groups' records, read in place in one transaction; see `limiter.journal.Journal`."""
        self._check_shard(shard)
        try:
            with self._env.begin(buffers=True) as transaction:
                yield lambda sequence: transaction.get(_key(sequence))
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error

    def replay(self, shard: int, first: int = FIRST_SEQUENCE) -> Iterator[tuple[int, bytes]]:
        """Yields the (sequence, record) pairs from `first` to the tail in order, slice by slice."""
        self._check_shard(shard)
        last = self.tail(shard)
        while first <= last and (
            records := self._read_slice(first, last, bounds.STORE_READ_BYTES_MAX)
        ):
            yield from records
            first = records[-1][0] + 1

    def trim(self, shard: int, before: int) -> None:
        """Drops all groups older than `before`, which may be at most one beyond the tail."""
        self._check_shard(shard)
        if before > self.tail(shard) + 1:
            raise ValueError(f"groups up to {before} were never written")
        if before <= self._head:
            return
        try:
            with self._env.begin(write=True) as transaction:
                cursor = transaction.cursor()
                # The first key after the meta record is the oldest group.
                while cursor.set_range(_key(self._head)) and cursor.key() < _key(before):
                    cursor.delete()
                transaction.put(_META_KEY, _pack_meta(self._shard, before, self._mark))
        except lmdb.Error as error:
            raise errors.Unavailable(
                "JOURNAL_UNAVAILABLE", f"the journal {self._path} cannot be trimmed: {error}"
            ) from error
        self._head = before

    def check_writable(self) -> None:
        """Writes and syncs what is there already. Raises Unavailable if that is not possible, or
        a large group could not be appended."""
        self._check_quota(_GROUP_ROOM_BYTES)
        try:
            with self._env.begin(write=True) as transaction:
                transaction.put(_META_KEY, _pack_meta(self._shard, self._head, self._mark))
        except (OSError, lmdb.Error) as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> errors.Unavailable:
        """What to tell of a write that failed. A disk that is full can look like one that is broken
        to LMDB, so it is said how full it is."""
        message = f"the journal {self._path} cannot be written: {error}"
        with contextlib.suppress(OSError):
            free_bytes = shutil.disk_usage(self._path).free
            if free_bytes < _QUOTA_MARGIN_BYTES:
                message += f" (its disk has {free_bytes} bytes left)"
        return errors.Unavailable("JOURNAL_UNAVAILABLE", message)

    def _check_quota(self, record_bytes: int) -> None:
        if self.used_bytes + record_bytes + _QUOTA_MARGIN_BYTES > self._quota_bytes:
            raise errors.Unavailable(
                "JOURNAL_UNAVAILABLE",
                f"the journal {self._path} has reached its quota of {self._quota_bytes} bytes",
            )

    def close(self) -> None:
        """Closes the environment. Idempotent. Nothing may be reading or appending."""
        self._env.close()

    def _read_slice(self, first: int, last: int, byte_limit: int | None) -> list[tuple[int, bytes]]:
        records: list[tuple[int, bytes]] = []
        byte_count = 0
        try:
            with self._env.begin() as transaction:
                cursor = transaction.cursor()
                if not cursor.set_range(_key(max(first, FIRST_SEQUENCE))):
                    return records
                for key, record in cursor.iternext():
                    sequence = int.from_bytes(key, "big")
                    if len(key) != _KEY_BYTES or sequence > last:
                        break
                    records.append((sequence, record))
                    byte_count += len(record)
                    if byte_limit is not None and byte_count >= byte_limit:
                        break
        except lmdb.Error as error:
            after = records[-1][0] if records else first - 1
            raise self._fault(error, f"cannot be read after group {after}") from error
        return records

    def _read_meta(self) -> tuple[int, bytes]:
        """Checks the meta record; returns head and mark."""
        try:
            with self._env.begin() as transaction:
                meta = transaction.get(_META_KEY)
                is_empty = meta is None and not transaction.cursor().first()
        except lmdb.Error as error:
            raise self._fault(error, "cannot be read") from error
        if is_empty and self._must_exist:
            raise self._missing()
        # The magic and the version are the only parts that every version agrees about.
        if meta is None or len(meta) < 12 or meta[:8] != _META_MAGIC:
            if self._must_exist:
                raise self._damaged_meta()
            raise errors.FailedPrecondition(
                "JOURNAL_FORMAT", f"{self._path} is an LMDB environment, but not limiter's journal"
            )
        version = int.from_bytes(meta[8:12], "little")
        if version != _META_VERSION:
            raise errors.FailedPrecondition(
                "JOURNAL_FORMAT",
                f"the journal {self._path} has format version {version}, this version of limiter "
                f"reads format version {_META_VERSION}: use the version that wrote it",
            )
        if len(meta) != _META.size or zlib.crc32(meta[:-4]) != int.from_bytes(meta[-4:], "little"):
            raise self._damaged_meta()
        _, _, shard, head, mark, _ = _META.unpack(meta)
        if shard != self._shard:
            raise errors.FailedPrecondition(
                "JOURNAL_SHARD",
                f"the journal {self._path} belongs to shard {shard}, not to {self._shard}",
            )
        return head, mark

    def _damaged_meta(self) -> errors.DataLoss:
        return errors.DataLoss(
            "JOURNAL_CORRUPT", f"the meta record of the journal {self._path} is damaged"
        )

    def _missing(self) -> errors.DataLoss:
        return errors.DataLoss(
            "JOURNAL_MISSING",
            f"the journal {self._path} is missing or empty, although its digest-key is there: "
            "restore it from a backup (or remove digest-key to begin anew, without any counts)",
        )

    def _check_shard(self, shard: int) -> None:
        if shard != self._shard:
            raise ValueError(f"this journal holds shard {self._shard}, not {shard}")

    def _fault(self, error: Exception, what: str) -> errors.LimiterError:
        """What LMDB or the file system says, as one of ours."""
        return environment_fault(error, f"the journal {self._path} {what}: {error}", "JOURNAL")


def environment_fault(error: Exception, message: str, store: str) -> errors.LimiterError:
    """What LMDB or the file system says of an environment, as one of ours: what the operating
    system refuses is no damage. The reason begins with the `store`'s name."""
    # A plain Error is what the operating system said: an input or output error, no memory, …
    unusable = OSError | lmdb.LockError | lmdb.ReadonlyError | lmdb.DiskError
    if isinstance(error, unusable) or type(error) is lmdb.Error:
        return errors.FailedPrecondition("DATA_FOLDER_UNUSABLE", message)
    # A write has failed, and since then LMDB refuses to read too, until it is opened again.
    if isinstance(error, lmdb.PanicError):
        return errors.Unavailable(f"{store}_UNAVAILABLE", message)
    if isinstance(error, lmdb.VersionMismatchError):
        return errors.FailedPrecondition(f"{store}_FORMAT", message)
    return errors.DataLoss(f"{store}_CORRUPT", message)


def create_environment(path: Path, key: bytes, value: bytes) -> None:
    """Makes an environment that holds one record, which is there under its name once all of it is
    on disk. LMDB writes a new file in place: cut off there, it could never be opened again."""
    draft = path.with_name(f"{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    environment = open_environment(draft)
    try:
        with environment.begin(write=True) as transaction:
            transaction.put(key, value)
    finally:
        environment.close()
    _sync_folder(draft)
    rename_folder(draft, path)


def fill_file(environment: lmdb.Environment, path: Path) -> None:
    """Makes the file of an environment as long as its own record says it is.

    A file that was cut short (a copy that was interrupted) would otherwise end the process with a
    bus error at the first read beyond its end; this way the hole reads as zeros, which the checks
    of LMDB and of the records find.
    """
    cut_bytes = missing_bytes(environment, path)
    if cut_bytes > 0:
        data = path / "data.mdb"
        _log.error("%s is %d bytes shorter than it says: it was cut off", data, cut_bytes)
        os.truncate(data, data.stat().st_size + cut_bytes)


class Snapshot:
    """An LMDB environment as it stands at one instant, until `close`; others may write to it
    meanwhile. With `hold` nobody, in whatever process, does so before `release`. Raises
    FailedPrecondition where it cannot be read, DataLoss where it was cut off."""

    def __init__(self, path: Path, *, hold: bool = False) -> None:
        self._path = path
        try:
            self._env = open_environment(path, read_only=not hold)
        except (OSError, lmdb.Error) as error:
            raise self._fault(error) from error
        try:
            if missing_bytes(self._env, path) > 0:
                raise errors.DataLoss("JOURNAL_CORRUPT", f"{path / 'data.mdb'} was cut off")
            self._holding = self._env.begin(write=True) if hold else None
            self._reading = self._env.begin()
        except BaseException as error:
            self._env.close()
            if isinstance(error, OSError | lmdb.Error):
                raise self._fault(error) from error
            raise

    def release(self) -> None:
        """Lets others write."""
        if self._holding is not None:
            self._holding.abort()
            self._holding = None

    def copy(self, target: Path) -> None:
        """Copies it to a folder that is not there yet, compacted, and syncs the copy. Raises
        FailedPrecondition where it cannot be read or written."""
        try:
            target.mkdir(mode=0o700)
            self._env.copy(str(target), compact=True, txn=self._reading)
            _sync_file(target / "data.mdb")
            _sync_folder(target)
        except (OSError, lmdb.Error) as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Lets go of it. Idempotent."""
        self.release()
        self._reading.abort()
        self._env.close()

    def _fault(self, error: Exception) -> errors.FailedPrecondition:
        return errors.FailedPrecondition(
            "DATA_FOLDER_UNUSABLE", f"{self._path} cannot be copied: {error}"
        )


def copy_environment(source: Path, target: Path) -> None:
    """Copies an LMDB environment as it stands now, compacted, and syncs the copy. Raises as
    `Snapshot` does."""
    with contextlib.closing(Snapshot(source)) as snapshot:
        snapshot.copy(target)


def missing_bytes(environment: lmdb.Environment, path: Path) -> int:
    """How much shorter the file of an environment is than it says: to read beyond its end would
    end the process."""
    used_bytes = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    return used_bytes - (path / "data.mdb").stat().st_size


def write_whole(path: Path, content: bytes) -> None:
    """Puts a file there that only its owner may read: all of it, synced, or nothing."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
    _sync_folder(path.parent)


def replace_environment(path: Path, draft: Path) -> None:
    """Puts the file of one environment, which nobody has open, into the place of another one's."""
    (draft / "data.mdb").rename(path / "data.mdb")
    _sync_folder(path)
    shutil.rmtree(draft)


def rename_folder(path: Path, target: Path) -> None:
    """Renames a folder durably."""
    path.rename(target)
    _sync_folder(target.parent)


def open_environment(path: Path, *, read_only: bool = False) -> lmdb.Environment:
    """The environment in a folder, made if it holds none."""
    return lmdb.open(
        str(path),
        map_size=bounds.STORE_MAP_BYTES,
        mode=0o600,
        max_dbs=0,
        max_spare_txns=2,
        readonly=read_only,
        create=not read_only,
    )


_KEY_BYTES: Final = 8


def _key(sequence: int) -> bytes:
    return sequence.to_bytes(_KEY_BYTES, "big")


def _tail(transaction: lmdb.Transaction[bytes]) -> int | None:
    """The sequence of the last group, None when there is none."""
    cursor = transaction.cursor()
    if not cursor.last() or cursor.key() == _META_KEY:
        return None
    return int.from_bytes(cursor.key(), "big")


def _pack_meta(shard: int, head: int, mark: bytes) -> bytes:
    meta = _META.pack(_META_MAGIC, _META_VERSION, shard, head, mark, 0)[:-4]
    return meta + zlib.crc32(meta).to_bytes(4, "little")


def _sync_folder(path: Path) -> None:
    """Makes the entries of a folder durable: files created or renamed in it."""
    _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
