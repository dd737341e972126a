"""The core's sets of who has opted out, against plain sets; and the servicer before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import bounds, errors, kinds
from limiter._core import Core
from limiter._suppressions import Person, Suppressions
from limiter.people import People
from limiter.people_store import PeopleStore
from limiter.policy import PolicyStore
from limiter.service.suppressions import SuppressionServicer
from limiter.v1 import account_pb2
from limiter.v1 import policy_service_pb2 as pb2

NOW_MS = 1_800_000_000_000
KEY = bytes(range(32))
ACCOUNTS = ("a", "b")


class Journalled:
    """A core, its suppressions, and a journal that can be replayed."""

    def __init__(self, groups: list[tuple[int, bytes]] | None = None) -> None:
        self.groups = groups or []
        store = PolicyStore()
        self.core = Core(KEY, store.bind, kinds.define_kind)
        store.connect(self.core)
        self.core.recall_from(self)
        for number, events in self.groups:
            self.core.replay(number, events, store.restore)
        self.suppressions = Suppressions(self.core)

    def write(self) -> None:
        taken = self.core.take_group()
        if taken is not None:
            self.groups.append((taken[0], taken[1]))

    def event(self, position: int) -> bytes:
        events, offset = self.group(position >> 24), position & 0xFFFFFF
        size = 4 + int.from_bytes(events[offset + 1 : offset + 4], "little")
        return events[offset : offset + size]

    def group(self, number: int) -> bytes:
        return self.groups[number - 1][1]

    def listed(self, account: str, page_size: int) -> list[bytes]:
        """The keys of everybody, found page by page."""
        found: list[bytes] = []
        position = place = 0
        while noted := self.suppressions.page(account, position, place, page_size):
            position, place = noted[-1].position, noted[-1].place
            found += [each.key for each in noted]
        return found


@given(st.randoms(use_true_random=False))
def test_sets_are_exact_listed_in_order_and_replayed(random: Random) -> None:
    journalled = Journalled()
    expected: dict[str, list[Person]] = {account: [] for account in ACCOUNTS}
    everybody = [(who, f"p{number}") for who in (1, 2) for number in range(40)]
    for step in range(30):
        account = random.choice(ACCOUNTS)
        some = random.choices(everybody, k=random.randint(1, 30))
        known = expected[account]
        suppressions = journalled.suppressions
        if random.random() < 0.6:
            fresh = suppressions.select(account, some, opted_out=False)
            assert fresh == [each for each in dict.fromkeys(some) if each not in known]
            if fresh:
                suppressions.add(account, fresh, NOW_MS + step)
            known += fresh
        else:
            gone = suppressions.select(account, some, opted_out=True)
            assert gone == [each for each in dict.fromkeys(some) if each in known]
            if gone:
                suppressions.remove(account, gone, NOW_MS + step)
            expected[account] = [each for each in known if each not in gone]
        journalled.write()
        if random.random() < 0.1:
            journalled = Journalled(journalled.groups)
    for account in ACCOUNTS:
        assert journalled.suppressions.count(account) == len(expected[account])
        keys = [journalled.suppressions.key_of(*person) for person in expected[account]]
        assert journalled.listed(account, random.randint(1, 9)) == keys
        assert all(journalled.suppressions.holds(account, key) for key in keys)
    assert sorted(journalled.suppressions.accounts()) == [a for a in ACCOUNTS if expected[a]]


def test_a_list_can_be_paged_through_while_it_changes() -> None:
    journalled = Journalled()
    people: list[Person] = [(1, f"p{number}") for number in range(10)]
    journalled.suppressions.add("a", people, NOW_MS)
    journalled.write()
    first = journalled.suppressions.page("a", 0, 0, 4)
    # The last one shown goes, and so does the next; somebody new comes last.
    journalled.suppressions.remove("a", people[3:5], NOW_MS)
    journalled.suppressions.add("a", [(2, "+1")], NOW_MS)
    rest = journalled.suppressions.page("a", *first[-1][:2], 100)
    assert [each.place for each in rest] == [5, 6, 7, 8, 9, 0]


def test_nobody_has_opted_out_where_nobody_was_noted() -> None:
    suppressions = Journalled().suppressions
    assert (suppressions.count("x"), suppressions.page("x", 0, 0, 10)) == (0, [])
    assert suppressions.select("x", [(1, "p")], opted_out=True) == []
    with pytest.raises(ValueError, match="neither"):
        suppressions.select("x", [(3, "p")], opted_out=True)
    assert not suppressions.holds("x", suppressions.key_of(1, "p"))
    assert suppressions.accounts() == []
    with pytest.raises(ValueError, match="not a key"):
        suppressions.holds("x", b"p")


# --- The servicer ---------------------------------------------------------------------------------


@pytest.fixture
def journalled() -> Journalled:
    return Journalled()


@pytest.fixture
async def servicer(journalled: Journalled, tmp_path: Path) -> AsyncIterator[SuppressionServicer]:
    async def durable() -> None:
        journalled.write()

    people = People(PeopleStore(tmp_path / "people", KEY))
    yield SuppressionServicer(journalled.suppressions, people, durable, lambda: NOW_MS)
    await people.close()


CONTEXT: Any = None


def contacts(*values: str) -> list[account_pb2.Suppression]:
    return [account_pb2.Suppression(contact=value) for value in values]


async def add(servicer: SuppressionServicer, *people: account_pb2.Suppression) -> int:
    request = pb2.AddSuppressionsRequest(parent="accounts/a", suppressions=people)
    return (await servicer.AddSuppressions(request, CONTEXT)).added_count


async def listed(servicer: SuppressionServicer, page_size: int) -> list[account_pb2.Suppression]:
    found: list[account_pb2.Suppression] = []
    request = pb2.ListSuppressionsRequest(parent="accounts/a", page_size=page_size)
    while True:
        response = await servicer.ListSuppressions(request, CONTEXT)
        assert len(response.suppressions) <= page_size
        found += response.suppressions
        request.page_token = response.next_page_token
        if not request.page_token:
            return found


async def test_people_are_noted_once_and_listed_in_the_clear(
    servicer: SuppressionServicer, journalled: Journalled
) -> None:
    ada, phone = contacts("ada@example.org")[0], account_pb2.Suppression(address="+49301")
    assert await add(servicer, ada, phone, ada) == 2
    assert await add(servicer, ada, *contacts("bob")) == 1
    found = await listed(servicer, 2)
    assert [each.contact or each.address for each in found] == ["ada@example.org", "+49301", "bob"]
    assert {each.create_time.ToMilliseconds() for each in found} == {NOW_MS}
    assert all(b"ada" not in events for _, events in journalled.groups)
    request = pb2.RemoveSuppressionsRequest(parent="accounts/a", suppressions=[ada, *contacts("x")])
    assert (await servicer.RemoveSuppressions(request, CONTEXT)).removed_count == 1
    assert [each.contact or each.address for each in await listed(servicer, 1)] == ["+49301", "bob"]


async def test_many_people_go_into_several_events(
    servicer: SuppressionServicer, journalled: Journalled
) -> None:
    count = 2 * bounds.SUPPRESSIONS_NOTED_MAX + 1
    assert await add(servicer, *contacts(*map(str, range(count)))) == count
    assert [each.contact for each in await listed(servicer, 1000)] == list(map(str, range(count)))
    positions = {noted.position for noted in journalled.suppressions.page("a", 0, 0, count)}
    assert len(positions) == 3


async def test_so_many_may_opt_out_and_no_more(
    servicer: SuppressionServicer, journalled: Journalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SUPPRESSIONS_MAX", 3)
    assert await add(servicer, *contacts("1", "2")) == 2
    with pytest.raises(errors.ResourceExhausted) as caught:
        await add(servicer, *contacts("2", "3", "4"))
    assert caught.value.reason == "TOO_MANY_SUPPRESSIONS"
    assert journalled.suppressions.count("a") == 2
    assert await add(servicer, *contacts("1", "2", "3")) == 1


@pytest.mark.parametrize(
    ("people", "field"),
    [
        ([], "suppressions"),
        ([account_pb2.Suppression()], "suppressions[0].contact"),
        ([*contacts("a"), account_pb2.Suppression(address="")], "suppressions[1].address"),
        (contacts("x" * 257), "suppressions[0].contact"),
        (contacts(*["x"] * 10_001), "suppressions"),
    ],
)
async def test_broken_requests_are_named_by_field(
    servicer: SuppressionServicer, people: list[account_pb2.Suppression], field: str
) -> None:
    calls: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (servicer.AddSuppressions, pb2.AddSuppressionsRequest),
        (servicer.RemoveSuppressions, pb2.RemoveSuppressionsRequest),
    ]
    for method, request in calls:
        with pytest.raises(errors.InvalidArgument) as caught:
            await method(request(parent="accounts/a", suppressions=people), CONTEXT)
        assert [violation.field for violation in caught.value.violations] == [field]
        with pytest.raises(errors.InvalidArgument) as caught:
            await method(request(parent="accounts/-", suppressions=contacts("a")), CONTEXT)
        assert [violation.field for violation in caught.value.violations] == ["parent"]
