"""The restrictions log at its edges: full, not writable, damaged, read with little that fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from limiter import bounds, errors, restriction_store
from limiter._denials import DenialBuffer
from limiter.restriction_records import day_of, merge, parts_of, restriction_of
from limiter.restriction_store import Position, RestrictionStore, Wanted
from limiter.restrictions import RestrictionLog
from limiter.v1 import attempt_pb2
from tests.integration.requests import cap
from tests.unit.restriction_pair import FOLDER_KEY, START_MS, Pair

FOREVER_MS = 400 * bounds.DAY_MS


def denied(contact: str, account: str = "ann", **fields: Any) -> attempt_pb2.Attempt:
    return attempt_pb2.Attempt(account=account, contact=contact, **fields)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A service that denies everything, and its log."""
    made = Pair(tmp_path / "restrictions", 100_000, cap(0))
    yield made
    made.log.close()


def rows_of(pair: Pair, *attempts: attempt_pb2.Attempt) -> list[bytes]:
    """What the core packs for these attempts, each on its own."""
    rows = []
    for attempt in attempts:
        pair.commit(attempt)
        taken = pair.log.buffer.take()
        assert taken is not None
        rows.append(taken[0].packed(0))
    return rows


def days_of(log: RestrictionLog, now_ms: int) -> tuple[list[int], int]:
    """The day of each row of the account, and how many denials were dropped."""
    days: list[int] = []
    after: Position | None = None
    while True:
        found, dropped = log.find(Wanted(account="ann"), after, 10_000, now_ms)
        days += [day_of(row.first_ms) for row in found.rows]
        after = found.next
        if after is None:
            return days, dropped


class TestRows:
    def test_rows_merge_as_if_they_had_been_one(self, pair: Pair) -> None:
        older, newer = rows_of(pair, denied("ada", agent="kim"), denied("ada", agent="lee"))
        pair.commit(denied("ada", agent="kim"))
        pair.commit(denied("ada", agent="lee"))
        taken = pair.log.buffer.take()
        assert taken is not None
        assert merge(older, newer) == taken[0].packed(0)
        assert restriction_of(older).agent == "kim"
        assert parts_of(older).contact == b"ada"

    def test_the_longest_row_fits(self, pair: Pair) -> None:
        names = ("contact", "address", "channel", "resource", "campaign", "agent")
        long: dict[str, Any] = dict.fromkeys(names, "ö" * (bounds.LABEL_BYTES_MAX // 2))
        attempt = attempt_pb2.Attempt(account="a" * bounds.ACCOUNT_BYTES_MAX, **long)
        (row,) = rows_of(pair, attempt)
        found = restriction_of(row)
        assert {name: getattr(found, name) for name in long} == long

    def test_rows_of_another_version_are_refused(self, pair: Pair) -> None:
        (row,) = rows_of(pair, denied("ada"))
        with pytest.raises(errors.DataLoss, match="version 9"):
            restriction_of(b"\x09" + row[1:])

    def test_a_batch_has_only_its_rows(self, pair: Pair) -> None:
        pair.commit(denied("ada"))
        taken = pair.log.buffer.take()
        assert taken is not None
        batch, position = taken
        assert (len(batch), len(pair.log.buffer), position) == (1, 0, pair.log.buffer.position)
        with pytest.raises(IndexError):
            batch.packed(1)
        assert pair.log.buffer.take() is None
        pair.log.buffer.give_back(batch)
        assert len(batch) == 0
        # The next batch but one is in the same memory, and knows nothing of what was there.
        for contact in ("bob", "ada"):
            pair.commit(denied(contact))
            taken = pair.log.buffer.take()
            assert taken is not None
            assert [restriction_of(taken[0].packed(0)).contact, len(taken[0])] == [contact, 1]

    def test_texts_have_a_ceiling_too(self, pair: Pair) -> None:
        buffer = DenialBuffer(bytes(16), text_bytes_max=1_000)
        pair.core.tell_denials(buffer)
        for number in range(100):
            pair.commit(denied(f"{number:0100}"))
        taken = buffer.take()
        assert taken is not None
        assert 5 < len(taken[0]) < 10
        assert taken[0].dropped == [("ann", 100 - len(taken[0]))]
        assert taken[0].unattributed_count == 0

    def test_a_buffer_has_a_key(self) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            DenialBuffer(bytes(15))


class TestStore:
    def test_a_call_looks_at_so_many_rows(self, pair: Pair, tmp_path: Path) -> None:
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        attempts = [denied(f"c{number % 50}-{number}") for number in range(50)]
        store.write(rows_of(pair, *attempts), {}, 0)
        wanted = Wanted(account="ann", contact="c49-49")
        after: Position | None = None
        looked = []
        while True:
            found = store.find(wanted, after, 10, scan_count_max=20)
            looked.append(len(found.rows))
            after = found.next
            if after is None:
                break
        assert looked == [0, 0, 1]
        store.close()

    def test_accounts_and_days_lie_apart(self, pair: Pair, tmp_path: Path) -> None:
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        for _ in range(4):
            rows = rows_of(pair, *(denied("ada", account) for account in "abc"))
            store.write(rows, {"b": 1}, day_of(pair.now_ms))
            pair.now_ms += 2 * bounds.DAY_MS
        day = day_of(START_MS)
        assert len(store.find(Wanted(account="b"), None, 9).rows) == 4
        assert len(store.find(Wanted(account="b", from_day=day + 3), None, 9).rows) == 2
        assert store.find(Wanted(account="d"), None, 9).rows == []
        assert store.dropped_count("b", day, day + 6) == 4
        assert store.dropped_count("b", day + 1, day + 5) == 2
        assert store.dropped_count("a", day, day + 6) == 0
        # In slices of two keys.
        while store.trim(day + 4, 2):
            pass
        assert store.oldest_day() == day + 4
        assert len(store.find(Wanted(account="b"), None, 9).rows) == 2
        assert store.dropped_count("b", day, day + 6) == 2
        # What is gone begins anew.
        pair.now_ms = START_MS + 20 * bounds.DAY_MS
        store.write(rows_of(pair, denied("ada", "b")), {}, 0)
        assert len(store.find(Wanted(account="b"), None, 9).rows) == 3
        store.close()

    def test_what_is_sealed_opens_in_its_place_alone(self, pair: Pair, tmp_path: Path) -> None:
        path = tmp_path / "store"
        store = RestrictionStore(path, FOLDER_KEY)
        store.write(rows_of(pair, denied("ada"), denied("bob")), {}, 0)
        store.close()
        with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
            rows = [(k, v) for k, v in transaction.cursor().iternext() if k[:1] == b"r"]
            (first, value), (second, other) = rows
            transaction.put(first, other)
            transaction.put(second, value)
        store = RestrictionStore(path, FOLDER_KEY)
        with pytest.raises(errors.DataLoss, match="another place"):
            store.find(Wanted(account="ann"), None, 9)
        store.close()

    @pytest.mark.parametrize(
        ("meta", "reason"),
        [
            (b"SOMEBODY ELSE'S", "RESTRICTIONS_FORMAT"),
            (b"LIMITERR\x09\0\0\0", "RESTRICTIONS_FORMAT"),
            (b"LIMITERR\x01\0\0\0", "RESTRICTIONS_CORRUPT"),
        ],
    )
    def test_what_is_no_log_is_refused(self, meta: bytes, reason: str, tmp_path: Path) -> None:
        path = tmp_path / "store"
        RestrictionStore(path, FOLDER_KEY).close()
        with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
            transaction.put(b"\0", meta)
        with pytest.raises(errors.LimiterError) as caught:
            RestrictionStore(path, FOLDER_KEY)
        assert caught.value.reason == reason

    def test_another_key_is_refused(self, tmp_path: Path) -> None:
        RestrictionStore(tmp_path / "store", FOLDER_KEY).close()
        with pytest.raises(errors.DataLoss) as caught:
            RestrictionStore(tmp_path / "store", bytes(32))
        assert caught.value.reason == "RESTRICTIONS_KEY_FOREIGN"

    @pytest.mark.parametrize(
        ("fault", "code", "reason"),
        [
            (lmdb.Error("mdb_txn_commit", 5), errors.FailedPrecondition, "DATA_FOLDER_UNUSABLE"),
            (lmdb.PanicError("", -30795), errors.Unavailable, "RESTRICTIONS_UNAVAILABLE"),
            (lmdb.CorruptedError("", -30796), errors.DataLoss, "RESTRICTIONS_CORRUPT"),
        ],
    )
    def test_a_disk_that_fails_is_no_damage(
        self,
        fault: lmdb.Error,
        code: type[errors.LimiterError],
        reason: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        environment = store._env

        class Failing:
            def begin(self, **_: bool) -> object:
                raise fault

        monkeypatch.setattr(store, "_env", Failing())
        with pytest.raises(code) as caught:
            store.find(Wanted(account="ann"), None, 1)
        assert caught.value.reason == reason
        environment.close()

    def test_one_that_was_not_made_to_the_end_is_made_anew(self, tmp_path: Path) -> None:
        draft = tmp_path / "store.new"
        draft.mkdir()
        (draft / "data.mdb").write_bytes(b"half")
        RestrictionStore(tmp_path / "store", FOLDER_KEY).close()
        assert not draft.exists()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "store").write_text("no folder")
        with pytest.raises(errors.FailedPrecondition, match="cannot be opened"):
            RestrictionStore(tmp_path / "store", FOLDER_KEY)


class TestLog:
    def test_a_full_log_lets_go_of_its_oldest_day(self, pair: Pair, tmp_path: Path) -> None:
        quota_bytes = 8 * 1024 * 1024
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY, quota_bytes)
        log = RestrictionLog(store, FOREVER_MS)
        pair.core.tell_denials(log.buffer)
        day_count = 20
        for day in range(day_count):
            pair.now_ms = START_MS + day * bounds.DAY_MS
            for number in range(1_000):
                pair.commit(denied(f"c{number}"))
            log.work()
        days, dropped = days_of(log, pair.now_ms)
        assert days[0] > day_of(START_MS)
        assert days[-1] == day_of(pair.now_ms)
        # Nothing has gone without being counted.
        assert len(days) + dropped == 1_000 * day_count
        assert (tmp_path / "store" / "data.mdb").stat().st_size <= quota_bytes
        # One day that is larger than all there is room for.
        for number in range(10_000):
            pair.commit(denied(f"d{number}"))
        log.work()
        log.work()
        days, dropped = days_of(log, pair.now_ms)
        assert len(days) + dropped == 1_000 * day_count + 10_000
        log.close()

    def test_what_cannot_be_written_is_counted(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        put_row = RestrictionStore._put_row

        def failing(store: RestrictionStore, *arguments: Any) -> None:
            raise lmdb.DiskError("no space left")

        monkeypatch.setattr(RestrictionStore, "_put_row", failing)
        for number in range(3):
            decision = pair.commit(denied(f"c{number}"))
            assert decision.binding_limit.limit_id == "cap"
            pair.log.work()
        assert caplog.text.count("counted only") == 1
        found, dropped = pair.log.find(Wanted(account="ann"), None, 9, pair.now_ms)
        assert (found.rows, dropped) == ([], 3)
        monkeypatch.setattr(RestrictionStore, "_put_row", put_row)
        pair.commit(denied("c9"))
        pair.log.work()
        assert "can be written again" in caplog.text
        found, dropped = pair.log.find(Wanted(account="ann"), None, 9, pair.now_ms)
        assert ([row.contact for row in found.rows], dropped) == (["c9"], 3)

    def test_what_has_passed_leaves_the_disk(self, pair: Pair) -> None:
        pair.commit(denied("ada"))
        pair.work()
        pair.now_ms += 5 * bounds.DAY_MS
        pair.commit(denied("bob"))
        pair.work()
        assert pair.log._store.oldest_day() == day_of(pair.now_ms)

    def test_a_thread_writes_in_its_own_time(self, pair: Pair, tmp_path: Path) -> None:
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        log = RestrictionLog(store, FOREVER_MS)
        log.start(pair.log.buffer.position, START_MS)
        pair.core.tell_denials(log.buffer)
        for number in range(18_000):
            pair.commit(denied(f"c{number}"))
        # More than is written in haste: what is left is written at the end.
        log.find(Wanted(account="ann"), None, 9, START_MS)
        log.close()
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        assert len(store.find(Wanted(account="ann"), None, 20_000, 20_000).rows) == 18_000
        assert store.known_up_to == log.buffer.position
        store.close()

    def test_a_new_log_knows_nothing_of_the_journal_before_it(self, tmp_path: Path) -> None:
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        log = RestrictionLog(store, FOREVER_MS)
        assert log.buffer.position == 2**64 - 1
        log.start(77, START_MS)
        assert log.buffer.position == 77
        log.close()
        store = RestrictionStore(tmp_path / "store", FOLDER_KEY)
        assert store.known_up_to == 77
        store.close()


def test_keys_tell_nothing(pair: Pair, tmp_path: Path) -> None:
    """The same people under another folder's key have nothing in common on disk."""
    kept = []
    for key in (FOLDER_KEY, bytes(32)):
        store = RestrictionStore(tmp_path / key.hex(), key)
        store.write(rows_of(pair, denied("ada", campaign="spring")), {"ann": 1}, 1)
        store.close()
        with lmdb.open(str(tmp_path / key.hex())) as env, env.begin() as transaction:
            kept.append([key + value for key, value in transaction.cursor().iternext()])
    for mine, other in zip(*kept, strict=True):
        assert mine[:1] == other[:1]
        if len(mine) > 100:
            assert restriction_store._HEAD.size < len(mine)
    heads = [{row[5:21] for row in rows if row[:1] in b"rxd"} for rows in kept]
    assert not heads[0] & heads[1]
