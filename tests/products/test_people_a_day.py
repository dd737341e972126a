"""1. An account may write to so many people in any 24 hours."""

from __future__ import annotations

import pytest

from limiter.v1 import commitment_pb2, decision_pb2, restriction_pb2
from tests.products.account import DAY_S, Account, allowed
from tests.products.table import ROWS, Row

PEOPLE = ROWS["200 people in any 24 hours, to the millisecond"]


def fill(account: Account) -> None:
    """Writes to 200 people, one a second from noon on."""
    account.assign(PEOPLE.limit())
    for number in range(200):
        account.at(number)
        assert account.goes(f"person-{number}")


@pytest.mark.shows("200 people in any 24 hours, to the millisecond")
def test_people_in_any_24_hours(account: Account) -> None:
    fill(account)
    assert not account.goes("new")
    account.at(DAY_S - 0.001)
    assert not account.goes("new")
    account.at(DAY_S)
    assert account.goes("new")
    assert not account.goes("newer")


@pytest.mark.shows("more messages to the same people are free")
def test_the_same_people_are_free(account: Account) -> None:
    fill(account)
    for _ in range(3):
        assert account.goes("person-7", message_count=50)
    (status,) = account.usage()
    assert status.used_count == 200


@pytest.mark.shows("the 201st person's message fails, and the reply says when it would pass")
def test_the_next_person_fails(account: Account) -> None:
    fill(account)
    decision = account.commit("person-200").decision
    assert decision.outcome == decision_pb2.OUTCOME_DENIED
    assert decision.reason == decision_pb2.REASON_CONTACT_CAP
    assert account.after_noon(decision.retry_time) == DAY_S


@pytest.mark.shows("what failed is not queued, not retried and not counted")
def test_what_failed_is_gone(account: Account) -> None:
    fill(account)
    denied = account.commit("person-200")
    assert not allowed(denied)
    assert not denied.commit_id
    account.at(DAY_S)
    # Nothing of it went when there was room: the next number in the account's order is the next.
    assert [status.used_count for status in account.usage()] == [199]
    assert account.commit("person-201").account_sequence == 201


@pytest.mark.shows("a hard limit: nobody below lifts it")
def test_a_hard_limit(account: Account, row: Row) -> None:
    account.assign(PEOPLE.limit(cap={**PEOPLE.fields["cap"], "maxCount": 1}), **row.fields)
    account.assign(policy_id="unlimited", campaign="greedy")
    assert account.goes("ada", campaign="greedy")
    denied = account.commit("bob", campaign="greedy").decision
    assert denied.binding_limit.policy == f"{account.parent}/policies/own"


@pytest.mark.shows("whom did the account miss?")
def test_whom_did_the_account_miss(account: Account) -> None:
    fill(account)
    for contact in ("carl", "dora", "carl"):
        assert not account.goes(contact)
    request = restriction_pb2.ListRestrictionsRequest(account=account.name)
    missed = account.server.decisions.ListRestrictions(request).restrictions
    assert [(each.attempt.contact, each.denial_count) for each in missed] == [
        ("carl", 2),
        ("dora", 1),
    ]
    assert {each.binding_limit.limit_id for each in missed} == {"told"}


@pytest.mark.shows("how many people are left")
def test_how_many_are_left(account: Account) -> None:
    account.assign(PEOPLE.limit())
    for contact in ("ada", "bob", "ada"):
        assert account.goes(contact)
    (status,) = account.usage()
    assert (status.used_count, status.remaining_count, status.max_count) == (2, 198, 200)


@pytest.mark.shows("a send that failed after all gives its place back")
def test_a_failed_send_gives_its_place_back(account: Account) -> None:
    fill(account)
    failed = account.commit("person-7")
    (before,) = account.usage()
    cancel = commitment_pb2.CancelRequest(account=account.name, commit_id=failed.commit_id)
    account.server.decisions.Cancel(cancel)
    # Person 7 was written to before too, and stands where he stood.
    assert account.usage() == [before]
    account.at(DAY_S)
    assert account.goes("new", request_id="hello")
    assert not account.goes("newer")
    cancel = commitment_pb2.CancelRequest(account=account.name, request_id="hello")
    account.server.decisions.Cancel(cancel)
    assert account.goes("newer")
