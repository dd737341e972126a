"""Copies of a data folder: made while a server works in it, checked, and put back.

In flow data folders, out flow backups, and the other way round. A backup is a folder as the data
folder is, each LMDB environment compacted, beside a manifest that says what is in it:

    backup/                  0700
        manifest.json        written last: a copy without one was cut off
        images/              what accounts had come to, as of an instant before
        journal/             the journal as it stood at one instant
        people/              the names of who had opted out by then
        restrictions/        the log of restrictions, if there was one, as it stood a moment later
        digest-key           with the keys only

What always holds: nothing appears under its name before all of it is on disk and every checksum in
it has been read again. Without its digest key a journal is worth nothing; whoever has both can look
for people in it. So a backup says whether the key is in it, and is not restored without one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from limiter import bounds, errors
from limiter._suppressions import Suppressions
from limiter.image_store import ImageStore
from limiter.journal import FIRST_SEQUENCE, read_groups
from limiter.people_store import PeopleStore
from limiter.reviving import Revived, compare
from limiter.store import (
    KEY_NAME,
    DataFolder,
    LmdbJournal,
    Snapshot,
    check_mark,
    copy_environment,
    read_digest_key,
    rename_folder,
    replace_environment,
    write_whole,
)

__all__ = ["Manifest", "OnProgress", "Verified", "back_up", "compact", "restore", "verify"]

# Those of version 1 have no people: their journals hold the names.
_FORMAT_VERSION: Final = 2
_FORMAT_VERSION_OLDEST: Final = 1
_MANIFEST_NAME: Final = "manifest.json"
# In the order in which their instants are taken.
_ENVIRONMENTS: Final = ("people", "images", "journal", "restrictions")
# Nobody writes to these until the journal's instant is taken: names that would be missing, and
# images that a journal was trimmed for.
_HELD: Final = ("people", "images")
_SHARD: Final = 0

# Told what is being done, how much of it is done, and how much there is of it.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds: `head` and `tail` are the first and the last group of its journal,
    `byte_count` the size of its files."""

    format_version: int
    create_time: str
    includes_keys: bool
    head: int
    tail: int
    tail_checksum: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What a data folder turned out to hold; instants are ms since the epoch, `people_count` how
    many have opted out, `image_count` how many accounts have images. These `agree` with the journal
    if it is whole; where it was trimmed they can only be read."""

    head: int
    tail: int
    tail_checksum: int
    event_count: int
    account_count: int
    policy_revision: int
    last_event_ms: int
    people_count: int
    image_count: int
    images_agree: bool


def back_up(
    data_dir: Path, target: Path, *, include_keys: bool, on_progress: OnProgress
) -> Manifest:
    """Copies a data folder, also under a working server, to a folder that is not there yet.

    Raises FailedPrecondition where one of the folders cannot be used, DataLoss where the copy does
    not hold what was written.
    """
    _require_absent(target)
    key = _required_key(data_dir)
    with _draft_of(target) as draft:
        _copy_all(data_dir, draft, on_progress, is_live=True)
        head, tail, checksum = _check(draft / "journal", key, data_dir / KEY_NAME, on_progress)
        _check_people(draft, key, on_progress)
        if include_keys:
            write_whole(draft / KEY_NAME, key)
        manifest = Manifest(
            _FORMAT_VERSION,
            dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            include_keys,
            head,
            tail,
            checksum,
            _byte_count(draft),
        )
        write_whole(draft / _MANIFEST_NAME, json.dumps(asdict(manifest), indent=2).encode())
    return manifest


def restore(
    source: Path, data_dir: Path, *, key_path: Path | None, on_progress: OnProgress
) -> Manifest:
    """Makes a data folder of a backup; `key_path` is the digest key of one without keys.

    Raises FailedPrecondition where there is a data folder already, the backup is of a newer format
    or no key is at hand, and DataLoss where the backup is not what its manifest says.
    """
    _require_absent(data_dir)
    manifest = _read_manifest(source)
    key = _key_of(source, manifest, key_path)
    with _draft_of(data_dir) as draft:
        _copy_all(source, draft, on_progress, is_live=False)
        found = _check(draft / "journal", key, key_path or source / KEY_NAME, on_progress)
        if found != (manifest.head, manifest.tail, manifest.tail_checksum):
            raise errors.DataLoss(
                "BACKUP_DAMAGED", f"the journal in {source} is not the one of its manifest"
            )
        _check_people(draft, key, on_progress)
        write_whole(draft / KEY_NAME, key)
    return manifest


def verify(data_dir: Path, on_progress: OnProgress, key_path: Path | None = None) -> Verified:
    """Reads and replays the journal of a data folder or a backup, also under a working server,
    compares the images with it, and reads the names beside it; `key_path` is the digest key of a
    backup without keys. Raises FailedPrecondition where no key is at hand, and DataLoss at the
    first thing that is not as it was written."""
    key = _required_key(data_dir) if key_path is None else _key_at(key_path)
    with contextlib.ExitStack() as opened:
        journal = LmdbJournal(data_dir / "journal", must_exist=True, read_only=True)
        opened.callback(journal.close)
        check_mark(journal, key, key_path or data_dir / KEY_NAME)
        images = None
        if "images" in _present(data_dir):
            # First, so that no image is newer than what is read of the journal.
            images = ImageStore(
                data_dir / "images", shard=_SHARD, mark=journal.mark, read_only=True, stands=True
            )
            opened.callback(images.close)
        is_whole = journal.head(_SHARD) == FIRST_SEQUENCE
        lived = Revived(key, journal, None if is_whole else images, on_progress)
        tail = lived.recovered.tail
        image_count = 0
        if images is not None:
            imaged = Revived(key, journal, images, on_progress, last=tail) if is_whole else lived
            image_count = compare(lived, imaged, images, on_progress)
        members = Suppressions(lived.core)
        people_count, has_all = _check_people(data_dir, key, on_progress, members)
        if not has_all and journal.tail(_SHARD) == tail:
            # Else somebody may have been let in again since.
            raise errors.DataLoss(
                "PEOPLE_MISSING",
                f"{data_dir / 'people'} lacks names of people who have opted out by the journal"
                " beside it: restore both from one backup",
            )
        return Verified(
            journal.head(_SHARD),
            tail,
            lived.recovered.tail_checksum,
            lived.recovered.event_count,
            lived.core.account_count,
            lived.policies.revision,
            lived.core.last_event_ms,
            people_count,
            image_count,
            is_whole,
        )


def compact(data_dir: Path, on_progress: OnProgress) -> tuple[int, int]:
    """Gives back the room that trimmed groups took; returns the bytes before and after. No server
    may run. Raises FailedPrecondition if one does, DataLoss if the copy is not what was there."""
    folder = DataFolder(data_dir, "compacting")
    try:
        before = _byte_count(data_dir)
        key = _required_key(data_dir)
        for name in _present(data_dir):
            on_progress(f"compacting {name}", 0, 1)
            _replace(data_dir / name, key, on_progress)
        return before, _byte_count(data_dir)
    finally:
        folder.close()


def _replace(path: Path, key: bytes, on_progress: OnProgress) -> None:
    """Puts a compacted copy in the place of an environment: one of them is there at any time."""
    draft = path.with_name(f"{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    copy_environment(path, draft)
    if path.name == "journal":
        _check(draft, key, path.with_name(KEY_NAME), on_progress)
    replace_environment(path, draft)


def _copy_all(source: Path, draft: Path, on_progress: OnProgress, *, is_live: bool) -> None:
    """Copies every environment. Under a working server nobody opts out or in until the journal's
    instant is taken, so that whoever has opted out by it has a name; and no image is written, so
    that none knows more than the journal, nor the journal less than the images need."""
    names = _present(source)
    with contextlib.ExitStack() as stack:
        snapshots = [
            stack.enter_context(
                contextlib.closing(Snapshot(source / name, hold=is_live and name in _HELD))
            )
            for name in names
        ]
        for snapshot in snapshots:
            snapshot.release()
        for place, (name, snapshot) in enumerate(zip(names, snapshots, strict=True)):
            on_progress(f"copying {name}", place, len(names))
            snapshot.copy(draft / name)


def _check_people(
    folder: Path, key: bytes, on_progress: OnProgress, members: Suppressions | None = None
) -> tuple[int, bool]:
    """How many people the folder holds, once the name of each has been opened, and whether all of
    the `members` are among them. Folders of older versions have none."""
    if "people" not in _present(folder):
        return 0, True
    store = PeopleStore(folder / "people", key, read_only=True)
    try:
        on_progress("checking who has opted out", 0, 1)
        count = store.check()
        if members is None or not store.is_complete:
            return count, True
        for account in members.accounts():
            position = place = 0
            while noted := members.page(account, position, place, bounds.PAGE_SIZE_MAX):
                position, place = noted[-1].position, noted[-1].place
                if None in store.find(account, [each.key for each in noted]):
                    return count, False
        return count, True
    finally:
        store.close()


def _check(path: Path, key: bytes, key_path: Path, on_progress: OnProgress) -> tuple[int, int, int]:
    """The first and the last group of a journal and the last one's checksum, once all of them are
    read and the key is found to be theirs."""
    journal = LmdbJournal(path, must_exist=True)
    try:
        check_mark(journal, key, key_path)
        head, tail, checksum = journal.head(_SHARD), journal.tail(_SHARD), 0
        for group in read_groups(journal, _SHARD):
            checksum = group.checksum
            on_progress("checking the journal", group.sequence - head + 1, tail - head + 1)
        return head, tail, checksum
    finally:
        journal.close()


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A folder that becomes the target when all is well, and goes away otherwise."""
    draft = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        yield draft
        rename_folder(draft, target)
    except OSError as error:
        raise errors.FailedPrecondition(
            "DATA_FOLDER_UNUSABLE", f"{target} cannot be written: {error}"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_absent(target: Path) -> None:
    if target.exists():
        raise errors.FailedPrecondition(
            "DATA_FOLDER_EXISTS", f"{target} is there already: name a folder that is not"
        )


def _required_key(data_dir: Path) -> bytes:
    key = read_digest_key(data_dir / KEY_NAME)
    if key is None:
        raise errors.FailedPrecondition(
            "DIGEST_KEY_MISSING",
            f"{data_dir} has no {KEY_NAME}: it is no data folder, or a backup without keys,"
            " whose key has to be named",
        )
    return key


def _key_of(source: Path, manifest: Manifest, key_path: Path | None) -> bytes:
    if key_path is not None:
        return _key_at(key_path)
    key = read_digest_key(source / KEY_NAME) if manifest.includes_keys else None
    if key is None:
        why = "its keys are missing" if manifest.includes_keys else "it was made without keys"
        raise errors.FailedPrecondition(
            "DIGEST_KEY_MISSING",
            f"{source}: {why}, and nothing in it can be read without them: name the {KEY_NAME} of "
            "the data folder that it was made of",
        )
    return key


def _key_at(path: Path) -> bytes:
    """The key in a file that somebody has named."""
    try:
        key = read_digest_key(path)
    except OSError as error:
        raise errors.FailedPrecondition(
            "DIGEST_KEY_MISSING", f"{path} cannot be read: {error}"
        ) from error
    if key is None:
        raise errors.FailedPrecondition("DIGEST_KEY_MISSING", f"there is no {path}")
    return key


def _read_manifest(source: Path) -> Manifest:
    path = source / _MANIFEST_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields["format_version"]
        if not _FORMAT_VERSION_OLDEST <= version <= _FORMAT_VERSION:
            raise errors.FailedPrecondition(
                "BACKUP_FORMAT",
                f"{source} has format version {version}, this version of limiter reads "
                f"{_FORMAT_VERSION_OLDEST} to {_FORMAT_VERSION}: use the version that wrote it",
            )
        return Manifest(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.FailedPrecondition(
            "NO_BACKUP", f"{source} is no backup, or one that was cut off: {error}"
        ) from error


def _present(data_dir: Path) -> list[str]:
    """The environments that a folder has; the journal is always one."""
    return [
        name
        for name in _ENVIRONMENTS
        if name == "journal" or (data_dir / name / "data.mdb").exists()
    ]


def _byte_count(data_dir: Path) -> int:
    return sum((data_dir / name / "data.mdb").stat().st_size for name in _present(data_dir))
