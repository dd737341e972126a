"""The names of who has opted out: at every moment of a crash, on failing disks, from old journals.

A moment is a copy of the data folder's people and of the journal's groups as they are on disk then.
Opened again, whoever has opted out has a name, and nobody else has.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import pytest

from limiter import bounds, errors
from limiter.journal_v1 import revision_pb2
from limiter.people import People, settle_at_start
from limiter.people_store import Change, Kept, PeopleStore
from limiter.sealing import Sealer
from limiter.service.suppressions import SuppressionServicer
from limiter.v1 import account_pb2
from limiter.v1 import policy_service_pb2 as pb2
from tests.unit.test_suppressions import ACCOUNTS, CONTEXT, KEY, NOW_MS, Journalled, contacts

Groups = list[tuple[int, bytes]]


class Serving:
    """A servicer of suppressions whose journal may fail, and all moments of its disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journalled = Journalled()
        self.people = People(PeopleStore(folder, KEY))
        self.servicer = SuppressionServicer(
            self.journalled.suppressions, self.people, self._durable, lambda: NOW_MS
        )
        self.moments: list[tuple[Path, Groups]] = []
        self.fails = False

    def note_moment(self) -> None:
        copy = self.folder.with_name(f"moment-{len(self.moments)}")
        shutil.copytree(self.folder, copy)
        self.moments.append((copy, list(self.journalled.groups)))

    async def _durable(self) -> None:
        self.note_moment()
        await asyncio.sleep(0)
        if self.fails:
            raise errors.Unavailable("JOURNAL_UNAVAILABLE", "no")
        self.journalled.write()
        self.note_moment()

    async def add(self, account: str, *names: str) -> int:
        request = pb2.AddSuppressionsRequest(
            parent=f"accounts/{account}", suppressions=contacts(*names)
        )
        return (await self.servicer.AddSuppressions(request, CONTEXT)).added_count

    async def remove(self, account: str, *names: str) -> int:
        request = pb2.RemoveSuppressionsRequest(
            parent=f"accounts/{account}", suppressions=contacts(*names)
        )
        return (await self.servicer.RemoveSuppressions(request, CONTEXT)).removed_count

    async def listed(self, account: str) -> list[str]:
        request = pb2.ListSuppressionsRequest(parent=f"accounts/{account}", page_size=1_000)
        found = await self.servicer.ListSuppressions(request, CONTEXT)
        return [each.contact for each in found.suppressions]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serving]:
    made = Serving(folder)
    yield made
    await made.people.close()


def rows(store: PeopleStore, account: str, *names: str) -> list[str | None]:
    """What is known of these; an empty text where a name is forgotten, None without a row."""
    suppressions = Journalled().suppressions
    found = store.find(account, [suppressions.key_of(1, name) for name in names])
    return [None if kept is None else kept.name or "" for kept in found]


def reopened(folder: Path, groups: Groups) -> tuple[PeopleStore, Journalled]:
    """A moment as the next start finds it."""
    store, journalled = PeopleStore(folder, KEY), Journalled(groups)
    settle_at_start(store, journalled.suppressions, KEY)
    assert store.unsettled() == []
    return store, journalled


EVERYBODY = [f"p{number}" for number in range(12)]


@pytest.mark.parametrize("seed", range(3))
async def test_whenever_a_crash_comes_all_who_have_opted_out_have_a_name_and_nobody_else(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    opted_out: dict[str, set[str]] = {account: set() for account in ACCOUNTS}
    async with serving(tmp_path / "people") as server:
        write = PeopleStore.write

        def watched(store: PeopleStore, changes: Any) -> None:
            write(store, changes)
            server.note_moment()

        with monkeypatch.context() as patch:
            patch.setattr(PeopleStore, "write", watched)
            for _ in range(12):
                account = random.choice(ACCOUNTS)
                some = random.sample(EVERYBODY, random.randint(1, 4))
                if random.random() < 0.6:
                    assert await server.add(account, *some) == len(set(some) - opted_out[account])
                    opted_out[account] |= set(some)
                else:
                    await server.remove(account, *some)
                    opted_out[account] -= set(some)
                assert set(await server.listed(account)) == opted_out[account]
    assert len(server.moments) > 40
    for folder, groups in server.moments:
        store, journalled = reopened(folder, groups)
        count = 0
        for account in ACCOUNTS:
            names = rows(store, account, *EVERYBODY)
            for name, found in zip(EVERYBODY, names, strict=True):
                key = journalled.suppressions.key_of(1, name)
                assert found == (name if journalled.suppressions.holds(account, key) else None)
                count += found is not None
        assert store.check() == count
        store.close()


async def test_what_a_failed_journal_leaves_the_next_start_settles(tmp_path: Path) -> None:
    async with serving(tmp_path / "people") as server:
        assert await server.add("a", "ada", "bob") == 2
        server.fails = True
        with pytest.raises(errors.Unavailable):
            await server.add("a", "cleo")
        with pytest.raises(errors.Unavailable):
            await server.remove("a", "bob")
    # In the one outcome neither was written, in the other both were.
    groups = list(server.journalled.groups)
    shutil.copytree(tmp_path / "people", tmp_path / "other")
    store, _ = reopened(tmp_path / "people", groups)
    assert rows(store, "a", "ada", "bob", "cleo") == ["ada", "bob", None]
    store.close()
    server.journalled.write()
    store, _ = reopened(tmp_path / "other", server.journalled.groups)
    assert rows(store, "a", "ada", "bob", "cleo") == ["ada", None, "cleo"]
    store.close()


class Disk:
    """Makes transactions that write fail, before or after they are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        change = PeopleStore._change

        def failing(store: PeopleStore, transaction: Any, wanted: Change) -> None:
            change(store, transaction, wanted)
            if self.is_full:
                raise lmdb.DiskError("no space left on device")

        monkeypatch.setattr(PeopleStore, "_change", failing)


async def test_nobody_opts_out_without_a_name_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    async with serving(tmp_path / "people") as server:
        await server.add("a", "ada")
        disk.is_full = True
        with pytest.raises(errors.Unavailable) as caught:
            await server.add("a", "bob")
        assert caught.value.reason == "PEOPLE_UNAVAILABLE"
        assert not server.journalled.suppressions.select("a", [(1, "bob")], opted_out=True)
        # Nor is anybody let in again whose name could not be marked.
        with pytest.raises(errors.Unavailable):
            await server.remove("a", "ada")
        assert await server.listed("a") == ["ada"]
        disk.is_full = False
        assert await server.add("a", "bob") == 1
        assert await server.listed("a") == ["ada", "bob"]


async def test_a_name_that_could_not_go_goes_with_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    async with serving(tmp_path / "people") as server:
        await server.add("a", "ada")
        remove = server.journalled.suppressions.remove

        class Failing:
            def __getattr__(self, name: str) -> Any:
                return getattr(server.journalled.suppressions, name)

            def remove(self, *arguments: Any) -> None:
                remove(*arguments)
                disk.is_full = True

        suppressions: Any = Failing()
        server.servicer._suppressions = suppressions
        with pytest.raises(errors.Unavailable):
            await server.remove("a", "ada")
        disk.is_full = False
        assert await server.listed("a") == []
        assert await server.remove("a", "ada") == 0
    store = PeopleStore(tmp_path / "people", KEY)
    assert store.check() == 0
    store.close()


async def test_who_goes_away_leaves_nothing_half_done(tmp_path: Path) -> None:
    async with serving(tmp_path / "people") as server:
        for turns in range(8):
            call = asyncio.create_task(server.add("a", f"p{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        kept = set(await server.listed("a"))
    assert {each for each in rows_of(tmp_path / "people", "a") if each} == kept


def rows_of(folder: Path, account: str) -> list[str | None]:
    store = PeopleStore(folder, KEY)
    found = rows(store, account, *EVERYBODY)
    store.close()
    return found


async def test_two_at_once_note_the_same_person_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "people") as server:
        counts = await asyncio.gather(*(server.add("a", "ada", f"p{n}") for n in range(5)))
        assert sum(counts) == 6
        first, second = await asyncio.gather(server.remove("a", "ada"), server.add("a", "ada"))
        assert (first, second) == (1, 1)
        assert "ada" in await server.listed("a")


# --- Journals of older versions -------------------------------------------------------------------


def older(people: list[str], sealed: bool = True) -> Groups:
    """The groups of a journal that notes these people of account `a`, as they used to be noted."""
    journalled = Journalled()
    journalled.suppressions.add("a", [(1, name) for name in people], NOW_MS)
    journalled.write()
    ((number, events),) = journalled.groups
    position = journalled.suppressions.page("a", 0, 0, 1)[0].position
    event = journalled.event(position)
    at = position & 0xFFFFFF
    clear = revision_pb2.SealedSuppressions(
        suppressions=[account_pb2.Suppression(contact=name) for name in people]
    ).SerializeToString()
    tail = Sealer(KEY, "suppressions").seal(clear, b"a") if sealed else b""
    size = int.from_bytes(event[1:4], "little") + len(tail)
    longer = event[:1] + size.to_bytes(3, "little") + event[4:] + tail
    return [(number, events[:at] + longer + events[at + len(event) :])]


def test_names_in_older_journals_are_taken_over(tmp_path: Path) -> None:
    groups = older(["ada", "bob"])
    store, journalled = reopened(tmp_path / "people", groups)
    assert rows(store, "a", "ada", "bob", "cleo") == ["ada", "bob", None]
    (kept,) = store.find("a", [journalled.suppressions.key_of(1, "ada")])
    assert kept == Kept(NOW_MS, "ada")
    store.close()
    # Once only: whoever is forgotten meanwhile stays so.
    store = PeopleStore(tmp_path / "people", KEY)
    key = journalled.suppressions.key_of(1, "ada")
    store.write([Change("a", put={key: Kept(NOW_MS, None)})])
    store.close()
    store, _ = reopened(tmp_path / "people", groups)
    assert rows(store, "a", "ada", "bob") == ["", "bob"]
    store.close()


def test_names_that_are_lost_are_told_and_not_made_up(tmp_path: Path) -> None:
    groups = older(["ada"], sealed=False)
    store = PeopleStore(tmp_path / "people", KEY)
    with pytest.raises(errors.DataLoss) as caught:
        settle_at_start(store, Journalled(groups).suppressions, KEY)
    assert caught.value.reason == "PEOPLE_MISSING"
    store.close()
    # The refusal is repeated, unless somebody makes an empty folder.
    store = PeopleStore(tmp_path / "people", KEY)
    with pytest.raises(errors.DataLoss):
        settle_at_start(store, Journalled(groups).suppressions, KEY)
    store.close()
    shutil.rmtree(tmp_path / "people")
    (tmp_path / "people").mkdir()
    store, _ = reopened(tmp_path / "people", groups)
    assert rows(store, "a", "ada") == [""]
    store.close()


# --- The store ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store with one row."""
    store = PeopleStore(tmp_path / "people", KEY)
    store.write([Change("a", put={b"k" * 17: Kept(NOW_MS, "ada")})])
    store.close()
    return tmp_path / "people"


def overwrite(folder: Path, key: bytes, change: Callable[[bytes], bytes]) -> None:
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        value = transaction.get(key)
        assert value is not None
        transaction.put(key, change(value))


def test_names_are_in_sight_nowhere(folder: Path) -> None:
    assert b"ada" not in (folder / "data.mdb").read_bytes()
    assert (folder / "data.mdb").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda meta: b"LIMITERR" + meta[8:], "PEOPLE_FORMAT"),
        (lambda meta: meta[:8] + bytes((9,)) + meta[9:], "PEOPLE_FORMAT"),
        (lambda meta: meta[:-1] + bytes((meta[-1] ^ 1,)), "PEOPLE_CORRUPT"),
    ],
)
def test_what_is_not_ours_is_refused(
    folder: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    overwrite(folder, b"\x00", change)
    with pytest.raises(errors.LimiterError) as caught:
        PeopleStore(folder, KEY)
    assert caught.value.reason == reason


def test_another_key_opens_nothing(folder: Path) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        PeopleStore(folder, bytes(32))
    assert caught.value.reason == "PEOPLE_KEY_FOREIGN"


def test_a_row_opens_in_its_place_alone(folder: Path) -> None:
    store = PeopleStore(folder, KEY)
    place = b"p" + store._tag("a") + b"k" * 17
    store.close()
    overwrite(folder, place, lambda value: value[:-1] + bytes((value[-1] ^ 1,)))
    store = PeopleStore(folder, KEY)
    with pytest.raises(errors.DataLoss):
        store.find("a", [b"k" * 17])
    with pytest.raises(errors.DataLoss):
        store.check()
    store.close()


def test_a_file_that_was_cut_off_is_refused(folder: Path) -> None:
    file = folder / "data.mdb"
    file.write_bytes(file.read_bytes()[:-4_096])
    with pytest.raises(errors.DataLoss, match="cut off"):
        PeopleStore(folder, KEY)


def test_what_is_closed_says_so(folder: Path) -> None:
    store = PeopleStore(folder, KEY)
    store.close()
    store.close()
    with pytest.raises(errors.Unavailable, match="closed"):
        store.find("a", [b"k" * 17])
    with pytest.raises(errors.Unavailable, match="closed"):
        store.write([Change("a")])


async def test_after_the_end_nothing_is_noted(folder: Path) -> None:
    people = People(PeopleStore(folder, KEY))
    await people.close()
    await people.close()
    with pytest.raises(errors.Unavailable, match="stopping"):
        await people.put("a", {b"k" * 17: "bob"}, NOW_MS)


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PEOPLE_BYTES_MAX", 64 * 1024)
    store = PeopleStore(tmp_path / "people", KEY)
    key = b"k" * 17
    store.write([Change("a", put={key: Kept(NOW_MS, "ada")})])
    many = {number.to_bytes(17, "big"): Kept(NOW_MS, "x" * 256) for number in range(500)}
    with pytest.raises(errors.Unavailable):
        store.write([Change("a", put=many)])
    # What was there is there, and something small fits.
    assert rows_found(store, key) == ["ada"]
    store.write([Change("a", put={key: Kept(NOW_MS, None)})])
    assert rows_found(store, key) == [None]
    store.close()


def rows_found(store: PeopleStore, *keys: bytes) -> list[str | None]:
    return [kept.name if kept else "-" for kept in store.find("a", keys)]
