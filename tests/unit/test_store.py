from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import lmdb
import pytest

from limiter import bounds, errors
from limiter.journal import Journal, SequenceConflict, encode_group, read_groups
from limiter.store import DIGEST_KEY_BYTES, DataFolder, LmdbJournal


@pytest.fixture
def folder_path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fill(journal: LmdbJournal, count: int, body_bytes: int = 10, first: int = 1) -> None:
    """Appends so many framed groups."""
    checksum = 0
    for sequence in range(first, first + count):
        record, checksum = encode_group(
            0, sequence, 1, b"%c" % (sequence % 256) * body_bytes, checksum
        )
        journal.append(0, sequence, record)


class TestDataFolder:
    def test_it_is_made_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "data"
        folder = DataFolder(path)
        folder.open()[0].close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "digest-key").stat().st_mode) == 0o600
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.journal_path.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder.journal_path / "data.mdb").stat().st_mode) == 0o600
        folder.close()

    def test_a_second_holder_is_told_who_has_it(self, folder_path: Path) -> None:
        first = DataFolder(folder_path)
        first.set_holder("serving on 127.0.0.1:50051")
        with pytest.raises(errors.FailedPrecondition) as caught:
            DataFolder(folder_path)
        assert caught.value.reason == "DATA_FOLDER_IN_USE"
        assert f"process {os.getpid()}, serving on 127.0.0.1:50051" in caught.value.message
        first.set_holder("x")
        with pytest.raises(errors.FailedPrecondition, match=rf"process {os.getpid()}, x\)"):
            DataFolder(folder_path)
        first.close()
        first.close()
        DataFolder(folder_path).close()

    def test_the_lock_falls_with_the_process(self, folder_path: Path) -> None:
        program = """
            import os, sys
            from pathlib import Path
            from limiter.store import DataFolder
            folder = DataFolder(Path(sys.argv[1]))
            print(os.getpid(), flush=True)
            sys.stdin.read()
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(folder_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            holder = int(process.stdout.readline())
            with pytest.raises(errors.FailedPrecondition, match=f"process {holder}, starting"):
                DataFolder(folder_path)
            process.kill()
        DataFolder(folder_path).close()

    def test_a_file_in_its_place_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("not a folder")
        with pytest.raises(errors.FailedPrecondition, match="cannot be used") as caught:
            DataFolder(path)
        assert caught.value.reason == "DATA_FOLDER_UNUSABLE"

    def test_a_second_file_of_the_name_is_not_locked_too(self, folder_path: Path) -> None:
        folder = DataFolder(folder_path)
        folder.close()
        assert (folder_path / "lock").read_bytes() == b""


def open_key(path: Path) -> bytes:
    """Opens the folder as a server does, and closes it again; returns its key."""
    folder = DataFolder(path)
    try:
        journal, key = folder.open()
        journal.close()
    finally:
        folder.close()
    return key


class TestDigestKey:
    def test_it_stays(self, folder_path: Path) -> None:
        key = open_key(folder_path)
        assert len(key) == DIGEST_KEY_BYTES
        assert open_key(folder_path) == key
        assert open_key(folder_path.with_name("other")) != key

    def test_a_draft_of_a_key_is_no_key(self, folder_path: Path) -> None:
        folder_path.mkdir()
        (folder_path / "digest-key.new").write_bytes(b"half")
        assert len(open_key(folder_path)) == DIGEST_KEY_BYTES
        assert not (folder_path / "digest-key.new").exists()

    def test_a_damaged_key_is_refused(self, folder_path: Path) -> None:
        folder_path.mkdir()
        (folder_path / "digest-key").write_bytes(b"short")
        with pytest.raises(errors.DataLoss, match="has 5 bytes instead of 32"):
            open_key(folder_path)

    def test_a_journal_without_its_key_gets_no_new_one(self, folder_path: Path) -> None:
        folder = DataFolder(folder_path)
        journal, _ = folder.open()
        journal.append(0, 1, b"record")
        journal.close()
        (folder_path / "digest-key").unlink()
        with pytest.raises(errors.DataLoss, match="digest-key is missing"):
            folder.open()
        assert not (folder_path / "digest-key").exists()
        folder.close()

    @pytest.mark.parametrize("has_key", [False, True])
    def test_an_end_in_the_middle_of_the_first_start_does_no_harm(
        self, folder_path: Path, has_key: bool
    ) -> None:
        folder = DataFolder(folder_path)
        LmdbJournal(folder.journal_path).close()
        folder.close()
        key = b"k" * DIGEST_KEY_BYTES
        if has_key:
            (folder_path / "digest-key").write_bytes(key)
            (folder_path / "digest-key").chmod(0o600)
        first = open_key(folder_path)
        assert len(first) == DIGEST_KEY_BYTES
        assert (first == key) == has_key
        assert open_key(folder_path) == first

    def test_another_folders_key_is_refused(self, folder_path: Path) -> None:
        open_key(folder_path)
        (folder_path / "digest-key").write_bytes(b"k" * DIGEST_KEY_BYTES)
        with pytest.raises(errors.DataLoss, match="is not the key") as caught:
            open_key(folder_path)
        assert caught.value.reason == "DIGEST_KEY_FOREIGN"

    @pytest.mark.parametrize("what_is_left", ["nothing", "an empty file", "an empty environment"])
    def test_a_key_without_its_journal_is_refused(
        self, folder_path: Path, what_is_left: str
    ) -> None:
        open_key(folder_path)
        data = folder_path / "journal" / "data.mdb"
        data.unlink()
        if what_is_left == "an empty file":
            data.touch()
        if what_is_left == "an empty environment":
            lmdb.open(str(data.parent)).close()
        with pytest.raises(errors.DataLoss, match="missing or empty") as caught:
            open_key(folder_path)
        assert caught.value.reason == "JOURNAL_MISSING"

    def test_one_that_others_can_read_is_pointed_out(
        self, folder_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        open_key(folder_path)
        open_key(folder_path)
        assert caplog.messages == []
        (folder_path / "digest-key").chmod(0o644)
        open_key(folder_path)
        assert "can be read by others" in caplog.text


class TestLmdbJournal:
    def test_it_is_a_journal(self, tmp_path: Path) -> None:
        journal: Journal = LmdbJournal(tmp_path / "journal")
        assert (journal.head(0), journal.tail(0)) == (1, 0)
        assert journal.read(0, 1, 100) == []
        assert list(journal.replay(0)) == []
        assert list(read_groups(journal, 0)) == []

    def test_groups_survive_reopening(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        fill(journal, 60)
        journal.close()
        journal = LmdbJournal(tmp_path / "journal")
        assert journal.tail(0) == 60
        assert [group.sequence for group in read_groups(journal, 0)] == list(range(1, 61))
        assert [sequence for sequence, _ in journal.read(0, 35, 38)] == [35, 36, 37, 38]
        assert [sequence for sequence, _ in journal.read(0, 59, 1000)] == [59, 60]
        assert [sequence for sequence, _ in journal.replay(0, 58)] == [58, 59, 60]
        journal.close()

    @pytest.mark.parametrize("sequence", [0, 1, 3, 5, 2**40])
    def test_only_the_next_group_can_be_appended(self, tmp_path: Path, sequence: int) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        fill(journal, 3)
        with pytest.raises(SequenceConflict, match="ends at group 3"):
            journal.append(0, sequence, b"record")
        assert journal.tail(0) == 3
        journal.append(0, 4, b"record")
        assert journal.read(0, 4, 4) == [(4, b"record")]
        journal.close()

    def test_the_first_group_is_number_one(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        for sequence in (0, 2):
            with pytest.raises(SequenceConflict, match="ends at group 0"):
                journal.append(0, sequence, b"record")
        journal.append(0, 1, b"record")
        journal.close()

    def test_large_groups_are_replayed_in_slices(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "STORE_READ_BYTES_MAX", 10_000)
        journal = LmdbJournal(tmp_path / "journal")
        generator = random.Random(7)
        written = []
        for sequence in range(1, 60):
            record = generator.randbytes(generator.choice([1, 100, 4_000, 30_000]))
            journal.append(0, sequence, record)
            written.append((sequence, record))
        slices = []
        read_slice = journal._read_slice

        def count(first: int, last: int, byte_limit: int | None) -> list[tuple[int, bytes]]:
            records = read_slice(first, last, byte_limit)
            slices.append(len(records))
            return records

        monkeypatch.setattr(journal, "_read_slice", count)
        assert list(journal.replay(0)) == written
        assert len(slices) > 10
        assert sum(slices) == 59
        journal.close()

    def test_trim_drops_the_oldest(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        fill(journal, 20)
        journal.trim(0, 15)
        journal.trim(0, 3)
        assert (journal.head(0), journal.tail(0)) == (15, 20)
        assert [sequence for sequence, _ in journal.replay(0)] == list(range(15, 21))
        journal.close()
        journal = LmdbJournal(tmp_path / "journal")
        assert [group.sequence for group in read_groups(journal, 0)] == list(range(15, 21))
        with pytest.raises(ValueError, match="never written"):
            journal.trim(0, 22)
        journal.trim(0, 21)
        assert (journal.head(0), journal.tail(0)) == (21, 20)
        assert list(read_groups(journal, 0)) == []
        journal.append(0, 21, b"next")
        assert (journal.head(0), journal.tail(0)) == (21, 21)
        journal.close()

    def test_a_quota_refuses_before_it_writes(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal", quota_bytes=2 * 1024 * 1024)
        assert journal.quota_bytes == 2 * 1024 * 1024
        sequence = 1
        while journal.used_bytes + 1_300_000 < journal.quota_bytes:
            journal.append(0, sequence, bytes(100_000))
            sequence += 1
        assert sequence >= 3
        with pytest.raises(errors.Unavailable, match="quota of 2097152 bytes"):
            journal.append(0, sequence, bytes(1_100_000))
        assert journal.tail(0) == sequence - 1
        assert journal.used_bytes <= journal.quota_bytes
        journal.close()

    def test_it_cannot_be_written_without_room_for_a_group(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal", quota_bytes=3 * 1024 * 1024)
        journal.check_writable()
        journal.append(0, 1, bytes(1_100_000))
        # A small group would fit still.
        with pytest.raises(errors.Unavailable, match="quota of 3145728 bytes"):
            journal.check_writable()
        journal.append(0, 2, b"small")
        journal.close()

    def test_after_a_write_that_failed_reading_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        journal.append(0, 1, b"record")
        environment = journal._env

        class Panicking:
            def begin(self, **_: bool) -> object:
                raise lmdb.PanicError("mdb_txn_begin", -30795)

        monkeypatch.setattr(journal, "_env", Panicking())
        with pytest.raises(errors.Unavailable, match="cannot be read at group 1") as caught:
            journal.peek(0, 1, bytes)
        assert caught.value.reason == "JOURNAL_UNAVAILABLE"
        environment.close()

    def test_a_write_that_fails_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = LmdbJournal(tmp_path / "journal")
        environment = journal._env

        class Broken:
            def begin(self, *, write: bool) -> object:
                raise lmdb.DiskError("mdb_txn_commit", 5)

            def info(self) -> object:
                return environment.info()

        monkeypatch.setattr(journal, "_env", Broken())
        with pytest.raises(errors.Unavailable, match="cannot be written") as caught:
            journal.append(0, 1, b"record")
        assert caught.value.reason == "JOURNAL_UNAVAILABLE"
        environment.close()

    def test_another_shard_is_refused(self, tmp_path: Path) -> None:
        journal = LmdbJournal(tmp_path / "journal", shard=3)
        journal.append(3, 1, b"record")
        with pytest.raises(ValueError, match="holds shard 3, not 0"):
            journal.append(0, 2, b"record")
        journal.close()
        with pytest.raises(errors.FailedPrecondition, match="belongs to shard 3, not to 0"):
            LmdbJournal(tmp_path / "journal")


class TestForeignAndDamagedFolders:
    def write_meta(self, path: Path, meta: bytes) -> None:
        path.mkdir(exist_ok=True)
        with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"\x00", meta)

    def read_meta(self, path: Path) -> bytes:
        LmdbJournal(path).close()
        with lmdb.open(str(path)) as environment, environment.begin() as transaction:
            meta = transaction.get(b"\x00")
        assert meta is not None
        return meta

    @pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
    def test_an_unknown_format_is_refused(self, tmp_path: Path, version: int) -> None:
        path = tmp_path / "journal"
        meta = self.read_meta(path)
        self.write_meta(path, meta[:8] + version.to_bytes(4, "little") + b"whatever comes then")
        with pytest.raises(
            errors.FailedPrecondition, match=f"format version {version}, this version of limiter"
        ) as caught:
            LmdbJournal(path)
        assert caught.value.reason == "JOURNAL_FORMAT"

    @pytest.mark.parametrize("meta", [b"", b"LIMITERJ", b"SOMEBODY\x01\x00\x00\x00", b"?" * 28])
    def test_somebody_elses_environment_is_refused(self, tmp_path: Path, meta: bytes) -> None:
        self.write_meta(tmp_path / "journal", meta)
        with pytest.raises(errors.FailedPrecondition, match="not limiter's journal"):
            LmdbJournal(tmp_path / "journal")

    def test_an_environment_without_a_meta_record_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        path.mkdir()
        with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"key", b"value")
        with pytest.raises(errors.FailedPrecondition, match="not limiter's journal"):
            LmdbJournal(path)

    @pytest.mark.parametrize("place", [12, 20, 27, 43])
    def test_a_damaged_meta_record_is_data_loss(self, tmp_path: Path, place: int) -> None:
        path = tmp_path / "journal"
        meta = bytearray(self.read_meta(path))
        meta[place] ^= 1
        self.write_meta(path, bytes(meta))
        with pytest.raises(errors.DataLoss, match="meta record"):
            LmdbJournal(path)

    def test_a_file_that_is_not_lmdb_is_data_loss(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        path.mkdir()
        (path / "data.mdb").write_bytes(b"garbage " * 4096)
        with pytest.raises(errors.DataLoss, match="cannot be opened"):
            LmdbJournal(path)

    def test_a_file_that_was_cut_off_is_never_a_shorter_history(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = LmdbJournal(path)
        fill(journal, 60, body_bytes=3_000)
        expected = list(journal.replay(0))
        journal.close()
        data = path / "data.mdb"
        whole = data.read_bytes()
        generator = random.Random(5)
        outcomes = {"damage": 0, "whole": 0}
        # The last page may end in unused bytes: losing some of those loses nothing.
        kept = [1, 100, 4096, 5000, 8192, 9000, len(whole) - 1]
        kept += [generator.randrange(8192, len(whole)) for _ in range(12)]
        for size in kept:
            data.write_bytes(whole[:size])
            try:
                journal = LmdbJournal(path, must_exist=True)
            except errors.DataLoss:
                outcomes["damage"] += 1
                continue
            try:
                assert [(group.sequence) for group in read_groups(journal, 0)] == [
                    sequence for sequence, _ in expected
                ]
                outcomes["whole"] += 1
            except errors.DataLoss:
                outcomes["damage"] += 1
            finally:
                journal.close()
        assert outcomes["damage"] >= len(kept) - 1

    def test_every_flipped_bit_in_a_body_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = LmdbJournal(path)
        fill(journal, 60, body_bytes=3_000)
        journal.close()
        data = path / "data.mdb"
        whole = data.read_bytes()
        generator = random.Random(11)
        for _ in range(20):
            sequence = generator.randrange(30, 60)
            place = whole.index(b"%c" % sequence * 3_000) + generator.randrange(3_000)
            flipped = bytes([whole[place] ^ 1 << generator.randrange(8)])
            data.write_bytes(whole[:place] + flipped + whole[place + 1 :])
            journal = LmdbJournal(path)
            with pytest.raises(errors.DataLoss, match=f"group {sequence}: its checksum"):
                list(read_groups(journal, 0))
            journal.close()
