"""What is noted of decisions: exact counts, the busiest accounts, limits that are nearly full."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from limiter import zones
from limiter._activity import Activity
from limiter._calendar import Window
from limiter._core import Core
from limiter._hot import Decider
from limiter._kinds import Binding, Kind, Plan, Rule
from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2
from tests.unit.test_counters import ENFORCED, MESSAGES, START_MS

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED
FITS, FULL = decision_pb2.REASON_WITHIN_LIMITS, decision_pb2.REASON_MESSAGE_CAP
DAY = Window.rolling(86_400_000)
CONTACT, CAMPAIGN = 1, 5


def cap(max_count: int, *per: int, enforcement: int = ENFORCED) -> Rule:
    """So many messages a day for each of these."""
    kind = Kind(f"kind {per}".encode(), MESSAGES, per, DAY, ())
    return Rule("policies/p", f"limit-{max_count}", kind, max_count, enforcement, ())


def noted(*rules: Rule) -> tuple[Activity, Core, Decider]:
    """A decider under these rules for every account, and what it notes."""
    activity = Activity()
    plan = Plan(rules, True)
    kept = [(rule.kind, 0) for rule in rules if rule.kind is not None]
    binding = Binding(kept, [], [], lambda _resource, _campaign: plan)
    core = Core(bytes(32), lambda _account: binding, lambda _definition: pytest.fail("no kinds"))
    decider = Decider(core, lambda *_: pytest.fail("no limits"), zones.zone, False, activity)
    return activity, core, decider


def commit(
    decider: Decider,
    now_ms: int,
    account: str,
    contact: str = "c",
    *,
    request_id: str = "",
    campaign: str = "",
) -> int:
    """Commits one message; the outcome."""
    attempt = attempt_pb2.Attempt(account=account, contact=contact, campaign=campaign)
    request = decision_service_pb2.CommitRequest(attempt=attempt, request_id=request_id)
    reply, _ = decider.commit(request.SerializeToString(), now_ms)
    return decision_service_pb2.CommitResponse.FromString(reply).decision.outcome


def check(decider: Decider, now_ms: int, account: str) -> int:
    """Checks one message; the outcome."""
    attempt = attempt_pb2.Attempt(account=account, contact="c")
    request = decision_service_pb2.CheckRequest(attempt=attempt)
    reply = decider.check(request.SerializeToString(), now_ms)
    return decision_service_pb2.CheckResponse.FromString(reply).decision.outcome


def commit_batch(
    decider: Decider,
    now_ms: int,
    atomicity: decision_service_pb2.Atomicity.ValueType,
    *contacts: str,
) -> None:
    recipients = [decision_service_pb2.Recipient(contact=contact) for contact in contacts]
    request = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="a"),
        recipients=recipients,
        atomicity=atomicity,
    )
    decider.commit_batch(request.SerializeToString(), now_ms)


def test_every_decision_is_counted_once_by_operation_outcome_and_reason() -> None:
    chance = random.Random(7)
    activity, _core, decider = noted(cap(3))
    expected: Counter[tuple[str, int, int]] = Counter()
    for number in range(500):
        account = f"a{chance.randrange(60)}"
        operation, call = chance.choice([("check", check), ("commit", commit)])
        outcome = call(decider, START_MS + number, account)
        expected[operation, outcome, FITS if outcome == ALLOWED else FULL] += 1
    assert {(o, out, r): n for o, out, r, n in activity.decisions()} == expected
    # Over the seconds it is as many, the one that is under way apart.
    seconds = activity.history(START_MS + 60_000, 60)
    assert sum(count for *_, count in seconds) == 500
    assert activity.history(START_MS + 499, 60) == []


def test_a_repeat_is_no_decision() -> None:
    activity, _core, decider = noted(cap(3))
    for _ in range(3):
        assert commit(decider, START_MS, "a", request_id="once") == ALLOWED
    assert activity.decisions() == [("commit", ALLOWED, FITS, 1)]
    assert dict(activity.replayed())["commit"] == 2


def test_each_recipient_of_a_batch_is_a_decision() -> None:
    activity, _core, decider = noted(cap(3))
    commit_batch(decider, START_MS, decision_service_pb2.ATOMICITY_PARTIAL, *"abcde")
    assert sorted(activity.decisions()) == [
        ("commit_batch", ALLOWED, FITS, 3),
        ("commit_batch", DENIED, FULL, 2),
    ]
    commit_batch(decider, START_MS, decision_service_pb2.ATOMICITY_ALL_OR_NOTHING, *"ab")
    assert sorted(activity.decisions())[1] == ("commit_batch", DENIED, FULL, 4)


def test_a_second_is_forgotten_after_a_minute() -> None:
    activity, _core, decider = noted(cap(9))
    commit(decider, START_MS, "a")
    second = START_MS // 1000
    assert activity.history(START_MS + 60_000, 60) == [(second, "commit", ALLOWED, 1)]
    assert activity.history(START_MS + 61_000, 60) == []
    # Its place is somebody else's by then.
    commit(decider, START_MS + 64_000, "a")
    assert activity.history(START_MS + 65_000, 60) == [(second + 64, "commit", ALLOWED, 1)]


@pytest.mark.parametrize("seed", range(3))
def test_the_busiest_accounts_are_found_among_many(seed: int) -> None:
    chance = random.Random(seed)
    activity, core, decider = noted(cap(1_000_000))
    counts: Counter[str] = Counter()
    for number in range(20_000):
        # Three in ten are of five accounts, the rest of five thousand.
        account = f"busy{chance.randrange(5)}" if chance.random() < 0.3 else ""
        account = account or f"quiet{chance.randrange(5_000)}"
        counts[account] += 1
        commit(decider, START_MS + number, account)
    busiest = activity.busiest(core, START_MS + 19_999)
    found = {account: (sure, more) for account, sure, _denied, more in busiest}
    for account, (sure, more) in found.items():
        assert sure <= counts[account] <= sure + more
    ranked = sorted(found, key=lambda account: -found[account][0])
    assert set(ranked[:5]) == {f"busy{number}" for number in range(5)}
    # A minute later nobody is busy.
    assert activity.busiest(core, START_MS + 90_000) == []


def test_a_limit_that_is_nearly_full_leaves_the_names_that_met_it() -> None:
    activity, core, decider = noted(cap(10), cap(1, CONTACT), cap(2, CAMPAIGN))
    for number in range(8):
        commit(decider, START_MS, "a", f"c{number}", campaign=f"x{number}")
    # The caps on one person are full and those on a campaign are half full.
    assert activity.nearly_full(core) == []
    commit(decider, START_MS + 1, "a", "other", campaign="y")
    assert activity.nearly_full(core) == [{"account": "a", "campaign": "y"}]
    for _ in range(3):
        commit(decider, START_MS + 2, "b", "one", campaign="z")
    assert activity.nearly_full(core) == [{"account": "a", "campaign": "y"}]


def test_only_so_many_names_are_kept() -> None:
    activity, core, decider = noted(cap(1))
    for number in range(1_000):
        for _ in range(2):
            commit(decider, START_MS + number, f"a{number}")
    found = activity.nearly_full(core)
    assert len(found) <= 256
    assert found[0] == {"account": "a999"}


def test_another_core_is_told_nothing_about_the_names_of_the_one_before() -> None:
    activity, _core, decider = noted(cap(1))
    for _ in range(2):
        commit(decider, START_MS, "a")
    core = Core(bytes(32), lambda _account: pytest.fail("nobody"), lambda _: pytest.fail("none"))
    Decider(core, lambda _raw, _zone: pytest.fail("no limits"), zones.zone, False, activity)
    assert activity.busiest(core, START_MS) == []
    assert activity.nearly_full(core) == []
    assert len(activity.decisions()) == 2
