"""The ledger finds what a server could do wrong."""

from __future__ import annotations

import pytest

from limiter.v1 import decision_service_pb2
from tests.crash.ledger import (
    ALL_OR_NOTHING,
    ALLOWED,
    CANCELLED,
    CONTACTS_MAX,
    COUNTED,
    DENIED,
    MESSAGES_MAX,
    Batch,
    Ledger,
    Send,
)


def allowed(
    sequence: int, commit_id: str = "", *, replayed: bool = False
) -> decision_service_pb2.CommitResponse:
    reply = decision_service_pb2.CommitResponse(
        commit_id=commit_id or f"commit-{sequence}", account_sequence=sequence, replayed=replayed
    )
    reply.decision.outcome = ALLOWED
    reply.decision.decide_time.FromMilliseconds(1_000)
    return reply


def denied() -> decision_service_pb2.CommitResponse:
    reply = decision_service_pb2.CommitResponse()
    reply.decision.outcome = DENIED
    return reply


def added(ledger: Ledger, contact: str = "c", message_count: int = 1) -> Send:
    send = Send("a", contact, message_count, f"r{len(ledger.singles)}", 0)
    ledger.add(send)
    return send


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_what_has_no_answer_is_asked_again(ledger: Ledger) -> None:
    first, second, third = (added(ledger) for _ in range(3))
    ledger.settle(first, allowed(1))
    ledger.settle(second, denied())
    assert ledger.unknown() == [third]
    ledger.settle(third, allowed(2, replayed=True))
    assert ledger.unknown() == []
    assert (ledger.found_count, ledger.fresh_count) == (1, 0)
    assert ledger.acknowledged() == [first, third]
    assert ledger.faults == []


def test_a_right_repeat_is_no_fault(ledger: Ledger) -> None:
    send = added(ledger)
    ledger.settle(send, allowed(1))
    ledger.settle(send, allowed(1, replayed=True), is_repeat=True)
    assert ledger.faults == []
    assert ledger.tally("a").messages == {"c": 1}


@pytest.mark.parametrize(
    ("repeat", "fault"),
    [
        (denied(), "lost: denied"),
        (allowed(1), "counted again"),
        (allowed(2, replayed=True), "acknowledged, then answered by"),
        (allowed(1, "other", replayed=True), "acknowledged, then answered by"),
        (decision_service_pb2.CommitResponse(), "outcome 0"),
    ],
)
def test_a_wrong_repeat_is_a_fault(
    ledger: Ledger, repeat: decision_service_pb2.CommitResponse, fault: str
) -> None:
    send = added(ledger)
    ledger.settle(send, allowed(1))
    ledger.settle(send, repeat, is_repeat=True)
    assert [line[: len(fault)] for line in ledger.faults] == [fault]
    assert "r0" in ledger.faults[0]


def test_two_commits_do_not_share_a_place(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.settle(added(ledger), allowed(1))
    assert len(ledger.faults) == 1


@pytest.mark.parametrize(
    ("replies", "is_fault"),
    [
        ([allowed(1), allowed(1, replayed=True)], False),
        ([allowed(1, replayed=True), allowed(1)], False),
        ([denied(), denied()], False),
        ([allowed(1), allowed(1)], True),
        ([allowed(1), allowed(2, replayed=True)], True),
        ([denied(), allowed(1)], True),
    ],
)
def test_twins_count_once(
    ledger: Ledger, replies: list[decision_service_pb2.CommitResponse], is_fault: bool
) -> None:
    ledger.settle_twins(added(ledger), replies)
    assert bool(ledger.faults) == is_fault, ledger.faults


@pytest.mark.parametrize(
    ("account", "denied_ms", "is_fault"),
    [("a", 900, False), ("a", 1_100, True), ("b", 900, True)],
)
def test_a_cancellation_makes_room_for_the_second_twin_alone(
    ledger: Ledger, account: str, denied_ms: int, is_fault: bool
) -> None:
    other = Send(account, "c", 1, "other", 0)
    ledger.add(other)
    ledger.settle(other, allowed(7))
    ledger.settle_undoing(ledger.undo(other, cancels=True), CANCELLED)
    late = denied()
    late.decision.decide_time.FromMilliseconds(denied_ms)
    ledger.settle_twins(added(ledger), [allowed(1), late])
    assert bool(ledger.faults) == is_fault, ledger.faults


def test_a_hole_in_the_sequence_is_found(ledger: Ledger) -> None:
    for sequence in (1, 2, 4):
        ledger.settle(added(ledger), allowed(sequence))
    assert ledger.faults == []
    (gap,) = ledger.gaps("a")
    assert "missing: [3]" in gap
    ledger.settle(added(ledger), allowed(3))
    assert ledger.gaps("a") == []


def test_a_whole_batch_that_comes_apart_is_found(ledger: Ledger) -> None:
    sends = [Send("a", contact, 1, "", 0) for contact in ("c0", "c1")]
    batch = Batch(sends, "b0", ALL_OR_NOTHING)
    ledger.add(batch)
    assert ledger.unknown() == [batch]
    reply = decision_service_pb2.CommitBatchResponse(accepted_count=2)
    for sequence in (1, 2):
        # The second one had been counted before, the first one had not.
        result = reply.results.add(
            commit_id=f"commit-{sequence}", account_sequence=sequence, replayed=sequence == 2
        )
        result.decision.outcome = ALLOWED
    ledger.settle_batch(batch, reply)
    assert len(ledger.faults) == 1
    assert "came apart" in ledger.faults[0]


def test_the_tally_knows_both_caps(ledger: Ledger) -> None:
    for number in range(CONTACTS_MAX):
        ledger.settle(added(ledger, f"c{number}", MESSAGES_MAX - 1), allowed(number + 1))
    tally = ledger.tally("a")
    assert tally.fits(Send("a", "c0", 1, "", 0))
    assert not tally.fits(Send("a", "c0", 2, "", 0))
    assert not tally.fits(Send("a", "somebody else", 1, "", 0))


def test_what_is_cancelled_counts_no_longer(ledger: Ledger) -> None:
    first, second = added(ledger), added(ledger, message_count=2)
    ledger.settle(first, allowed(1))
    ledger.settle(second, allowed(2))
    undoing = ledger.undo(second, cancels=True)
    assert ledger.unknown() == [undoing]
    for _ in range(2):
        ledger.settle_undoing(undoing, CANCELLED)
        assert ledger.tally("a").messages == {"c": 1}
    assert ledger.unknown() == []
    assert ledger.acknowledged() == [first]
    ledger.settle_undoing(ledger.undo(first, cancels=True), CANCELLED)
    assert ledger.tally("a").messages == {}
    assert ledger.gaps("a") == []
    assert ledger.faults == []


def test_what_becomes_of_a_commit_against_what_was_asked_is_a_fault(ledger: Ledger) -> None:
    first, second = added(ledger), added(ledger)
    ledger.settle(first, allowed(1))
    ledger.settle(second, allowed(2))
    ledger.settle_undoing(ledger.undo(first, cancels=False), COUNTED)
    assert ledger.faults == []
    ledger.settle_undoing(ledger.undo(second, cancels=True), COUNTED)
    assert len(ledger.faults) == 1
