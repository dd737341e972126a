"""Accounts in the policy store: their zones decide what kinds of counter they keep."""

from __future__ import annotations

import pytest

from limiter import bounds, errors, model
from limiter._kinds import Binding
from limiter.model import Account, CalendarUnit, CalendarWindow, Limit, Policy, Scope
from limiter.policy import PolicyStore, Prepared
from tests.unit.policy_examples import assignment, kind_of, limit, policy
from tests.unit.test_policy import NOW_MS, Log, put

BERLIN, TOKYO = "Europe/Berlin", "Asia/Tokyo"
DAY_MS = bounds.DAY_MS


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(log: Log) -> PolicyStore:
    store = PolicyStore()
    store.connect(log)
    return store


def day(zone: str, limit_id: str = "day") -> Limit:
    return limit(limit_id, window=CalendarWindow(CalendarUnit.DAY, zone))


def change(store: PolicyStore, account: Account, now_ms: int = NOW_MS) -> Prepared:
    account.check("account")
    draft = store.draft()
    draft.put_account(account)
    prepared = store.prepare(draft, now_ms)
    store.commit(prepared)
    return prepared


def lives_in(store: PolicyStore, account: str, zone: str, now_ms: int = NOW_MS) -> None:
    change(store, Account(model.account_name(account), zone), now_ms)


def kept(binding: Binding) -> dict[str, int]:
    """The zones of the kinds that are kept, and since when."""
    zones = {kind_of(day(zone)).definition: zone for zone in ("UTC", BERLIN, TOKYO)}
    return {zones[kind.definition]: since_ms for kind, since_ms in binding.kinds}


def applied(binding: Binding) -> list[bytes]:
    """The kinds that the rules of the account as a whole read."""
    rules = binding.resolve(None, None).rules
    return [rule.kind.definition for rule in rules if rule.kind is not None]


def follower(*more: Limit) -> Policy:
    return policy("follower", day("ACCOUNT"), *more)


def test_every_account_exists_with_defaults(store: PolicyStore) -> None:
    account = store.account("accounts/a")
    assert (account.time_zone, account.allowed_categories) == ("", ())
    assert account.etag
    assert store.list_accounts("", 10) == []
    # What it is already changes nothing.
    assert change(store, Account("accounts/a")).revision is None


def test_what_is_changed_can_be_read_and_restored(store: PolicyStore, log: Log) -> None:
    seen = store.account("accounts/a")
    change(store, Account("accounts/a", BERLIN, ("legal", "alarm"), seen.etag))
    account = store.account("accounts/a")
    assert (account.time_zone, account.allowed_categories) == (BERLIN, ("legal", "alarm"))
    assert (account.update_ms, store.list_accounts("", 10)) == (NOW_MS, [account])
    restored = PolicyStore()
    for payload, time_ms in log.payloads:
        restored.restore(payload, time_ms)
    assert restored.account("accounts/a") == account
    assert restored.bind("a").time_zone == BERLIN


def test_an_etag_is_compared_even_before_the_first_change(store: PolicyStore) -> None:
    unchanged = store.account("accounts/a").etag
    lives_in(store, "a", BERLIN)
    with pytest.raises(errors.Aborted):
        change(store, Account("accounts/a", TOKYO, etag=unchanged))
    change(store, Account("accounts/a", TOKYO, etag=store.account("accounts/a").etag))
    assert store.account("accounts/a").time_zone == TOKYO


def test_an_account_has_its_own_zone_of_a_policy_that_everybody_has(store: PolicyStore) -> None:
    put(store, follower(), assignment("all", follower()))
    lives_in(store, "a", BERLIN, NOW_MS + 5)
    assert kept(store.bind("b")) == {"UTC": NOW_MS}
    assert kept(store.bind("a")) == {"UTC": NOW_MS, BERLIN: NOW_MS + 5}
    assert applied(store.bind("a")) == [kind_of(day(BERLIN)).definition]
    assert applied(store.bind("b")) == [kind_of(day("UTC")).definition]


def test_an_account_that_has_moved_already_starts_with_the_policy(store: PolicyStore) -> None:
    lives_in(store, "a", BERLIN)
    put(store, follower(), assignment("own", follower(), Scope("a")), now_ms=NOW_MS + 5)
    assert kept(store.bind("a")) == {BERLIN: NOW_MS + 5}
    put(store, assignment("all", follower()), now_ms=NOW_MS + 6)
    assert kept(store.bind("a")) == {BERLIN: NOW_MS + 5, "UTC": NOW_MS + 6}


def test_going_back_within_the_window_loses_nothing(store: PolicyStore) -> None:
    put(store, follower(), assignment("own", follower(), Scope("a")))
    lives_in(store, "a", BERLIN, NOW_MS + 5)
    lives_in(store, "a", TOKYO, NOW_MS + 6)
    lives_in(store, "a", BERLIN, NOW_MS + 7)
    assert kept(store.bind("a")) == {"UTC": NOW_MS, BERLIN: NOW_MS + 5, TOKYO: NOW_MS + 6}
    # The windows of what it has left have passed, and any revision lets them go.
    put(store, policy("other"), now_ms=NOW_MS + 7 + 50 * bounds.HOUR_MS)
    assert kept(store.bind("a")) == {BERLIN: NOW_MS + 5}


def test_a_zone_that_is_named_as_well_is_one_kind(store: PolicyStore) -> None:
    both = follower(day(BERLIN, "berlin"))
    put(store, both, assignment("all", both))
    lives_in(store, "a", BERLIN, NOW_MS + 5)
    assert kept(store.bind("a")) == {"UTC": NOW_MS, BERLIN: NOW_MS}
    berlin = kind_of(day(BERLIN)).definition
    assert applied(store.bind("a")) == [berlin, berlin]


def test_a_policy_that_begins_and_ceases_to_follow(store: PolicyStore) -> None:
    lives_in(store, "a", BERLIN)
    fixed = policy("follower", day("UTC"))
    put(store, fixed, assignment("all", fixed))
    assert kept(store.bind("a")) == {"UTC": NOW_MS}
    put(store, follower(), now_ms=NOW_MS + 5)
    assert kept(store.bind("a")) == {"UTC": NOW_MS, BERLIN: NOW_MS + 5}
    put(store, fixed, now_ms=NOW_MS + 6)
    put(store, policy("other"), now_ms=NOW_MS + 6 + 50 * bounds.HOUR_MS)
    assert kept(store.bind("a")) == {"UTC": NOW_MS}
    # And it is nobody's any more: deleting it takes nothing that is not there.
    put(store, delete=["assignments/all", "policies/follower"], now_ms=NOW_MS + 7 + 50 * DAY_MS)
    assert applied(store.bind("a")) == []


def test_so_many_accounts_may_be_changed(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "CHANGED_ACCOUNTS_MAX", 1)
    lives_in(store, "a", BERLIN)
    lives_in(store, "a", TOKYO)
    with pytest.raises(errors.ResourceExhausted) as caught:
        lives_in(store, "b", BERLIN)
    assert caught.value.reason == "TOO_MANY_CHANGED_ACCOUNTS"
    assert store.bind("b").time_zone == "UTC"


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (Account(""), "account.name"),
        (Account("accounts/-"), "account.name"),
        (Account("accounts/a/b"), "account.name"),
        (Account("a"), "account.name"),
        (Account("accounts/a", "Europe/Bonn"), "account.time_zone"),
        (Account("accounts/a", "ACCOUNT"), "account.time_zone"),
        (Account("accounts/a", "", ("",)), "account.allowed_categories[0]"),
        (Account("accounts/a", "", ("a", "a")), "account.allowed_categories[1]"),
        (Account("accounts/a", "", ("a" * 257,)), "account.allowed_categories[0]"),
        (
            Account("accounts/a", "", tuple(map(str, range(65)))),
            "account.allowed_categories",
        ),
        (Account("accounts/a", etag="x" * 65), "account.etag"),
    ],
)
def test_a_broken_account_is_named_by_field(broken: Account, field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        broken.check("account")
    assert [violation.field for violation in caught.value.violations] == [field]
