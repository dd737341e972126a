"""The restrictions log on disk: an LMDB environment of its own beside the journal.

In flow packed rows and counts of what was dropped; out flow rows again, of one account, in the
order of their first denials. The second and last module that knows LMDB.

    limiter-data/restrictions/
        0x00                                   the meta record
        d day account                          how many denials could not be kept
        r day account first number             one row: a head to filter by, and the row, sealed
        x day identity                         which row denials with this identity belong to

A day is that of the first denial, in UTC, so what has passed its retention lies together and leaves
whole. Accounts and identities are keyed digests, and so are contacts, campaigns and limits in the
heads; everything that was sent stands in the sealed part only, which opens in its place and with
its head alone.

What always holds: a transaction is synced when it returns. The file is no larger than its quota:
what is full makes room by letting go of its oldest day, and counts what goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from limiter import bounds, errors
from limiter.restriction_records import (
    Forgotten,
    Parts,
    Restriction,
    day_of,
    merge,
    parts_of,
    restriction_of,
    without_names,
)
from limiter.sealing import Sealer
from limiter.store import create_environment, environment_fault

__all__ = ["Found", "Position", "RestrictionStore", "Wanted"]

_META_KEY: Final = b"\x00"
# Magic, format version, mark of the key, journal position up to which all is known, number of the
# next row, checksum of the rest.
_META: Final = struct.Struct("<8sI16sQQI")
_META_MAGIC: Final = b"LIMITERR"
_META_VERSION: Final = 1

_ROW: Final = b"r"
_INDEX: Final = b"x"
_DROPPED: Final = b"d"

_TAG_BYTES: Final = 16
_PLACE: Final = struct.Struct(">QQ")
# Tags of the contact, the campaign and the limit; the newest denial; how many there were.
_HEAD: Final = struct.Struct(">8s8s8sqq")
_COUNT: Final = struct.Struct(">q")
# A row's key: kind, day, account, place.
_DAY_AT: Final = 1
_ACCOUNT_AT: Final = 5
_PLACE_AT: Final = _ACCOUNT_AT + _TAG_BYTES

# Beyond this share of the quota the oldest day makes room; the rest is what transactions work with.
_CROWDED: Final = 0.8

# Before there is a journal to compare with, all of it is known.
_ALL_KNOWN: Final = 2**64 - 1


class Position(NamedTuple):
    """Where a row stands in the order of its account: its first denial, and a number among all."""

    first_ms: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows of an account are asked for; empty texts and None mean all. `from_day` is the
    oldest day that is kept still."""

    account: str
    campaign: str = ""
    contact: str = ""
    limit_id: str = ""
    start_ms: int | None = None
    end_ms: int | None = None
    from_day: int = 0

    def admits(self, found: Restriction) -> bool:
        """Whether a row is one of them; tags are digests, so only this is the truth."""
        return (
            found.account == self.account
            and self.campaign in ("", found.campaign)
            and self.contact in ("", found.contact)
            and self.limit_id in ("", found.limit_id)
            and (self.start_ms is None or found.last_ms >= self.start_ms)
            and (self.end_ms is None or found.first_ms < self.end_ms)
        )


class Found(NamedTuple):
    """Rows in order, and after which position to go on; None when these were the last."""

    rows: list[Restriction]
    next: Position | None


class RestrictionStore:
    """Opened at `path`, made there if need be. `folder_key` is the data folder's key. One thread
    writes, any may read.

    Raises FailedPrecondition when the folder holds something else or a newer format, DataLoss when
    it is damaged or was written with another key.
    """

    def __init__(
        self, path: Path, folder_key: bytes, quota_bytes: int = bounds.RESTRICTIONS_BYTES_DEFAULT
    ) -> None:
        self._path = path
        self._quota_bytes = quota_bytes
        self._sealer = Sealer(folder_key, "restrictions")
        self._tag_key = hashlib.blake2b(
            folder_key, digest_size=32, person=b"limiter denials"
        ).digest()
        self._mark = hashlib.blake2b(
            folder_key, digest_size=16, person=b"limiter restrict"
        ).digest()
        self._account_tag = lru_cache(4096)(self._tag)
        self._label_tag = lru_cache(4096)(self._short_tag)
        try:
            if not path.exists():
                create_environment(path, _META_KEY, self._pack_meta(_ALL_KNOWN, 0))
        except (OSError, lmdb.Error) as error:
            raise self._unopened(error) from error
        self._env = self._opened()
        # Who reads just now; the environment is not replaced meanwhile.
        self._quiet = threading.Condition()
        self._reader_count = 0
        self._used_bytes = 0
        try:
            self._known_up_to, self._next_number = self._read_meta()
        except BaseException:
            self._env.close()
            raise

    @property
    def known_up_to(self) -> int:
        """Up to which position of the journal it is known what became of each denial."""
        return self._known_up_to

    @property
    def used_bytes(self) -> int:
        """How much the rows take on disk, free pages apart; as far as is known."""
        # Without an environment, because it could not be opened again, it is what it was.
        with contextlib.suppress(lmdb.Error):
            stat = self._env.stat()
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            self._used_bytes = int(pages * stat["psize"])
        return self._used_bytes

    @property
    def is_crowded(self) -> bool:
        """Whether the oldest day must make room."""
        return self.used_bytes > self._quota_bytes * _CROWDED

    def close(self) -> None:
        """Closes the environment. Idempotent. Nothing may be reading or writing."""
        self._env.close()

    def renew(self) -> None:
        """Opens the environment again if LMDB does not go on since a write has failed. For the one
        who writes. Raises FailedPrecondition while the disk does not let it, and DataLoss."""
        with contextlib.suppress(lmdb.Error), self._env.begin():
            return
        with self._quiet:
            self._quiet.wait_for(lambda: self._reader_count == 0)
            self._env.close()
            self._env = self._opened()
        self._known_up_to, self._next_number = self._read_meta()

    def _opened(self) -> lmdb.Environment:
        try:
            return lmdb.open(
                str(self._path),
                map_size=self._quota_bytes,
                mode=0o600,
                max_dbs=0,
                max_spare_txns=4,
            )
        except (OSError, lmdb.Error) as error:
            raise self._unopened(error) from error

    def _unopened(self, error: Exception) -> errors.FailedPrecondition:
        return errors.FailedPrecondition(
            "DATA_FOLDER_UNUSABLE", f"the restrictions log {self._path} cannot be opened: {error}"
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A transaction of any thread. Raises Unavailable or DataLoss where it cannot read."""
        with self._quiet:
            self._reader_count += 1
        try:
            with self._env.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self._unreadable(error) from error
        finally:
            with self._quiet:
                self._reader_count -= 1
                self._quiet.notify_all()

    # --- Writing ----------------------------------------------------------------------------------

    def write(
        self,
        rows: Iterable[bytes],
        dropped: Mapping[str, int],
        day: int,
        known_up_to: int | None = None,
    ) -> None:
        """Adds packed rows, each new or to the row that it belongs to, and what was dropped, to the
        count of the day; all or nothing. Raises Unavailable."""
        number = self._next_number
        known = self._known_up_to if known_up_to is None else known_up_to
        try:
            with self._env.begin(write=True) as transaction:
                for packed in rows:
                    self._put_row(transaction, packed, number)
                    number += 1
                for account, count in dropped.items():
                    self._add_dropped(transaction, day, self._account_tag(account.encode()), count)
                transaction.put(_META_KEY, self._pack_meta(known, number))
        except (OSError, lmdb.Error) as error:
            raise errors.Unavailable(
                "RESTRICTIONS_UNAVAILABLE",
                f"the restrictions log {self._path} cannot be written: {error}",
            ) from error
        self._known_up_to, self._next_number = known, number

    def _put_row(self, transaction: lmdb.Transaction[bytes], packed: bytes, number: int) -> None:
        parts = parts_of(packed)
        day = day_of(parts.first_ms).to_bytes(4, "big")
        index_key = _INDEX + day + self._identity(parts)
        account = self._account_tag(parts.account)
        place = transaction.get(index_key)
        if place is None:
            place = _PLACE.pack(parts.first_ms, number)
            transaction.put(index_key, place)
            key = _ROW + day + account + place
        else:
            key = _ROW + day + account + place
            value = transaction.get(key)
            if value is None:
                raise _damaged(self._path, "an index names a row that is not there")
            packed = merge(self._unsealed(key, value), packed)
            parts = parts_of(packed)
        self._put_sealed(transaction, key, packed, parts)

    def _put_sealed(
        self, transaction: lmdb.Transaction[bytes], key: bytes, packed: bytes, parts: Parts
    ) -> None:
        head = _HEAD.pack(
            self._short_tag(parts.contact),
            self._label_tag(parts.campaign),
            self._label_tag(parts.limit_id),
            parts.last_ms,
            parts.denial_count,
        )
        transaction.put(key, head + self._sealer.seal(packed, key + head))

    def _add_dropped(
        self, transaction: lmdb.Transaction[bytes], day: int, account: bytes, count: int
    ) -> None:
        key = _DROPPED + day.to_bytes(4, "big") + account
        before = transaction.get(key)
        if before is not None:
            count += _COUNT.unpack(before)[0]
        transaction.put(key, _COUNT.pack(count))

    # --- Forgetting -------------------------------------------------------------------------------

    def about(
        self, who: Forgotten, after: Position | None, scan_count_max: int
    ) -> tuple[list[bytes], Position | None]:
        """The keys of the rows about somebody, beyond a position, and after which position to go
        on; looks at so many at most. Raises DataLoss for a row that does not open."""
        keys: list[bytes] = []
        last: Position | None = None
        tag = self._short_tag(who.contact.encode()) if who.contact else None
        try:
            with self._env.begin() as transaction:
                wanted = Wanted(account=who.account)
                for scanned, (key, value) in enumerate(self._rows_of(transaction, wanted, after)):
                    if scanned == scan_count_max:
                        return keys, last
                    if (tag is None or _HEAD.unpack_from(value)[0] == tag) and who.is_in(
                        parts_of(self._unsealed(key, value))
                    ):
                        keys.append(key)
                    last = Position(*_PLACE.unpack_from(key, _PLACE_AT))
        except lmdb.Error as error:
            raise self._unreadable(error) from error
        return keys, None

    def forget(self, who: Forgotten, keys: Iterable[bytes]) -> int:
        """Erases from these rows what could tell who they are about; how many it were. Their counts
        stay, and denials of the same person that come later are rows of their own. Raises
        Unavailable."""
        count = 0
        try:
            with self._env.begin(write=True) as transaction:
                for key in keys:
                    value = transaction.get(key)
                    # A day may have made room meanwhile.
                    if value is not None:
                        packed = self._unsealed(key, value)
                        day = key[_DAY_AT:_ACCOUNT_AT]
                        transaction.delete(_INDEX + day + self._identity(parts_of(packed)))
                        packed = without_names(packed, who)
                        self._put_sealed(transaction, key, packed, parts_of(packed))
                        count += 1
        except (OSError, lmdb.Error) as error:
            raise errors.Unavailable(
                "RESTRICTIONS_UNAVAILABLE",
                f"the restrictions log {self._path} cannot be written: {error}",
            ) from error
        return count

    # --- Letting go -------------------------------------------------------------------------------

    def trim(self, before_day: int, key_count_max: int) -> int:
        """Lets go of up to so many keys of days before this one; how many it were. Raises
        Unavailable."""
        return self._let_go(before_day, key_count_max, None)

    def make_room(self, today: int, key_count_max: int) -> int:
        """Lets go of up to so many keys of the oldest day before this one, counting the denials as
        dropped `today`; how many keys it were. Raises Unavailable."""
        oldest = self.oldest_day()
        if oldest is None or oldest >= today:
            return 0
        return self._let_go(oldest + 1, key_count_max, today)

    def oldest_day(self) -> int | None:
        """The oldest day of which there are rows."""
        with self._reading() as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(_ROW) or cursor.key()[:1] != _ROW:
                return None
            return _day_in(cursor.key())

    def _let_go(self, before_day: int, key_count_max: int, counted_on: int | None) -> int:
        gone = 0
        dropped: dict[bytes, int] = {}
        # Rows first: what an index names must be there.
        kinds = (_INDEX, _ROW) if counted_on is not None else (_INDEX, _ROW, _DROPPED)
        try:
            with self._env.begin(write=True) as transaction:
                cursor = transaction.cursor()
                for kind in kinds:
                    while gone < key_count_max and cursor.set_range(kind):
                        key = cursor.key()
                        if key[:1] != kind or _day_in(key) >= before_day:
                            break
                        if counted_on is not None and kind == _ROW:
                            account = key[_ACCOUNT_AT:_PLACE_AT]
                            count = _HEAD.unpack_from(cursor.value())[4]
                            dropped[account] = dropped.get(account, 0) + count
                        cursor.delete()
                        gone += 1
                for account, count in dropped.items():
                    assert counted_on is not None
                    self._add_dropped(transaction, counted_on, account, count)
        except (OSError, lmdb.Error) as error:
            raise errors.Unavailable(
                "RESTRICTIONS_UNAVAILABLE",
                f"the restrictions log {self._path} cannot be trimmed: {error}",
            ) from error
        return gone

    # --- Reading ----------------------------------------------------------------------------------

    def find(
        self,
        wanted: Wanted,
        after: Position | None,
        count: int,
        scan_count_max: int = bounds.RESTRICTIONS_SCAN_MAX,
        admits: Callable[[Restriction], bool] = lambda _found: True,
    ) -> Found:
        """Up to `count` rows that are wanted and that `admits`, beyond a position; looks at so many
        at most. Raises DataLoss for a row that does not open."""
        rows: list[Restriction] = []
        last: Position | None = None
        scanned = 0
        tags = self._tags(wanted)
        with self._reading() as transaction:
            for key, value in self._rows_of(transaction, wanted, after):
                position = Position(*_PLACE.unpack_from(key, _PLACE_AT))
                if wanted.end_ms is not None and position.first_ms >= wanted.end_ms:
                    return Found(rows, None)
                if scanned == scan_count_max:
                    return Found(rows, last)
                scanned += 1
                if _may_match(value, tags, wanted.start_ms):
                    found = restriction_of(self._unsealed(key, value))
                    if wanted.admits(found) and admits(found):
                        if len(rows) == count:
                            return Found(rows, last)
                        rows.append(found)
                last = position
        return Found(rows, None)

    def dropped_count(self, account: str, from_day: int, to_day: int) -> int:
        """How many denials of the account could not be kept in these days, both inclusive."""
        tag = self._account_tag(account.encode())
        total = 0
        with self._reading() as transaction:
            for day in range(from_day, to_day + 1):
                count = transaction.get(_DROPPED + day.to_bytes(4, "big") + tag)
                if count is not None:
                    total += _COUNT.unpack(count)[0]
        return total

    def _rows_of(
        self, transaction: lmdb.Transaction[bytes], wanted: Wanted, after: Position | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """The account's rows in order: from day to day, since days come before accounts."""
        account = self._account_tag(wanted.account.encode())
        day = wanted.from_day
        if wanted.start_ms is not None:
            # A row ends on the day on which it begins.
            day = max(day, day_of(wanted.start_ms))
        place = b""
        if after is not None and day_of(after.first_ms) >= day:
            day = day_of(after.first_ms)
            place = _PLACE.pack(after.first_ms, after.number + 1)
        cursor = transaction.cursor()
        while cursor.set_range(_ROW + day.to_bytes(4, "big") + account + place):
            for key, value in cursor.iternext():
                if key[:1] != _ROW:
                    return
                if _day_in(key) != day or key[_ACCOUNT_AT:_PLACE_AT] != account:
                    # On to the day of whatever comes next, or over what is left of this one.
                    day = max(_day_in(key), day + 1)
                    if _day_in(key) == day and key[_ACCOUNT_AT:_PLACE_AT] > account:
                        day += 1
                    break
                yield key, value
            else:
                return
            place = b""

    def _tags(self, wanted: Wanted) -> tuple[bytes | None, ...]:
        return (
            self._short_tag(wanted.contact.encode()) if wanted.contact else None,
            self._label_tag(wanted.campaign.encode()) if wanted.campaign else None,
            self._label_tag(wanted.limit_id.encode()) if wanted.limit_id else None,
        )

    # --- Keys -------------------------------------------------------------------------------------

    def _tag(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, digest_size=_TAG_BYTES, key=self._tag_key).digest()

    def _short_tag(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, digest_size=8, key=self._tag_key).digest()

    def _identity(self, parts: Parts) -> bytes:
        """The digest of what denials of one day must share to be one row."""
        texts = (parts.account, parts.person, parts.campaign, parts.policy, parts.limit_id)
        whole = struct.pack(">5HiB", *map(len, texts), parts.reason, parts.shadow) + b"".join(texts)
        return self._tag(whole)

    def _unsealed(self, key: bytes, value: bytes) -> bytes:
        return self._sealer.open(value[_HEAD.size :], key + value[: _HEAD.size])

    # --- The meta record --------------------------------------------------------------------------

    def _pack_meta(self, known_up_to: int, number: int) -> bytes:
        meta = _META.pack(_META_MAGIC, _META_VERSION, self._mark, known_up_to, number, 0)[:-4]
        return meta + zlib.crc32(meta).to_bytes(4, "little")

    def _read_meta(self) -> tuple[int, int]:
        """Checks the meta record, writing it if the environment is new."""
        try:
            with self._env.begin() as transaction:
                meta = transaction.get(_META_KEY)
                is_new = meta is None and not transaction.cursor().first()
            if is_new:
                with self._env.begin(write=True) as transaction:
                    transaction.put(_META_KEY, self._pack_meta(_ALL_KNOWN, 0))
                return _ALL_KNOWN, 0
        except lmdb.Error as error:
            raise self._unreadable(error) from error
        if meta is None or meta[:8] != _META_MAGIC:
            raise errors.FailedPrecondition(
                "RESTRICTIONS_FORMAT",
                f"{self._path} is an LMDB environment, but not limiter's restrictions log",
            )
        version = int.from_bytes(meta[8:12], "little")
        if version != _META_VERSION:
            raise errors.FailedPrecondition(
                "RESTRICTIONS_FORMAT",
                f"the restrictions log {self._path} has format version {version}, this version of"
                f" limiter reads format version {_META_VERSION}: use the version that wrote it",
            )
        if len(meta) != _META.size or zlib.crc32(meta[:-4]) != int.from_bytes(meta[-4:], "little"):
            raise _damaged(self._path, "its meta record is damaged")
        _, _, mark, known_up_to, number, _ = _META.unpack(meta)
        if mark != self._mark:
            raise errors.DataLoss(
                "RESTRICTIONS_KEY_FOREIGN",
                f"the restrictions log {self._path} was written with another digest-key: restore"
                " both from one backup, or move it away to begin an empty one",
            )
        return known_up_to, number

    def _unreadable(self, error: lmdb.Error) -> errors.LimiterError:
        message = f"the restrictions log {self._path} cannot be read: {error}"
        fault = environment_fault(error, message, "RESTRICTIONS")
        if isinstance(fault, errors.DataLoss):
            return _damaged(self._path, f"it cannot be read: {error}")
        return fault


def _damaged(path: Path, what: str) -> errors.DataLoss:
    return errors.DataLoss(
        "RESTRICTIONS_CORRUPT",
        f"the restrictions log {path}: {what}; restore it from a backup, or move it away to begin"
        " an empty one",
    )


def _day_in(key: bytes) -> int:
    return int.from_bytes(key[_DAY_AT:_ACCOUNT_AT], "big")


def _may_match(value: bytes, tags: tuple[bytes | None, ...], start_ms: int | None) -> bool:
    """Whether a row can be one of those wanted, by its head alone."""
    contact, campaign, limit_id, last_ms, _ = _HEAD.unpack_from(value)
    return (
        (tags[0] is None or contact == tags[0])
        and (tags[1] is None or campaign == tags[1])
        and (tags[2] is None or limit_id == tags[2])
        and (start_ms is None or last_ms >= start_ms)
    )
