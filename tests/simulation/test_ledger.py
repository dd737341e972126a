"""The ledger by itself: what clients were told is held against what there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limiter.v1 import attempt_pb2, decision_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.verdicts import ALLOWED, DENIED
from tests.model.windows import MINUTE_MS
from tests.simulation.ledger import Call, Ledger
from tests.simulation.witness import Witness

NOW_MS = 1_700_000_000_000


def request(message_count: int = 1) -> service_pb2.CommitRequest:
    attempt = attempt_pb2.Attempt(account="acme", contact="ana", message_count=message_count)
    return service_pb2.CommitRequest(attempt=attempt, request_id="once")


def reply(
    sequence: int,
    at_ms: int = NOW_MS,
    outcome: decision_pb2.Outcome.ValueType = ALLOWED,
    commit_id: str = "",
) -> service_pb2.CommitResponse:
    response = service_pb2.CommitResponse(
        commit_id=commit_id or f"{sequence:020x}", account_sequence=sequence
    )
    response.decision.outcome = outcome
    response.decision.decide_time.FromMilliseconds(at_ms)
    return response


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def call(message_count: int = 1) -> Call:
    return Call(0, request(message_count), is_safe=True)


def test_a_repeat_says_the_same(ledger: Ledger) -> None:
    asked = call()
    ledger.note(asked, reply(1))
    ledger.note(asked, reply(1))
    with pytest.raises(AssertionError, match="was acknowledged"):
        ledger.note(asked, reply(2))


def test_what_was_acknowledged_is_not_denied(ledger: Ledger) -> None:
    asked = call()
    ledger.note(asked, reply(1))
    with pytest.raises(AssertionError, match="is denied"):
        ledger.note(asked, reply(0, NOW_MS + 1, outcome=DENIED))


def test_a_denial_from_before_the_acknowledgement_may_come_late(ledger: Ledger) -> None:
    asked = call()
    ledger.note(asked, reply(1))
    ledger.note(asked, reply(0, NOW_MS - 1, outcome=DENIED))


def test_an_id_is_forgotten_after_a_day(ledger: Ledger) -> None:
    asked = call()
    ledger.note(asked, reply(1))
    ledger.note(asked, reply(2, NOW_MS + 24 * 60 * MINUTE_MS))


def test_two_commits_have_two_places(ledger: Ledger) -> None:
    ledger.note(call(), reply(1))
    with pytest.raises(AssertionError, match="share a receipt"):
        ledger.note(call(), reply(1, NOW_MS + 1))
    with pytest.raises(AssertionError, match="share a receipt"):
        ledger.note(call(), reply(2, commit_id=f"{1:020x}"))


def test_a_limit_is_not_exceeded(ledger: Ledger) -> None:
    for sequence in (1, 2, 3):
        ledger.note(call(2), reply(sequence, NOW_MS + sequence * MINUTE_MS))
    ledger.check_floor(4, 2 * MINUTE_MS)
    with pytest.raises(AssertionError, match="4 messages where 3 may go"):
        ledger.check_floor(3, 2 * MINUTE_MS)
    ledger.undo([f"{2:020x}"])
    ledger.check_floor(3, 2 * MINUTE_MS)


class TestAudit:
    """What was acknowledged is in what was recovered."""

    @pytest.fixture
    def witness(self, ledger: Ledger) -> Witness:
        """One that knows of one commit, as the ledger does."""
        witness = Witness(NOW_MS)
        witness.oracle.commit(request(), NOW_MS)
        witness.commit_ids["acme", 1] = f"{1:020x}"
        ledger.note(call(), reply(1))
        ledger.audit(witness)
        return witness

    def test_a_lost_commit(self, ledger: Ledger, witness: Witness) -> None:
        witness.put_back(0, NOW_MS)
        with pytest.raises(AssertionError, match="lost"):
            ledger.audit(witness)

    def test_another_commit_in_its_place(self, ledger: Ledger, witness: Witness) -> None:
        witness.commit_ids["acme", 1] = f"{7:020x}"
        with pytest.raises(AssertionError, match="another stands"):
            ledger.audit(witness)

    def test_a_cancelled_one_that_counts_again(self, ledger: Ledger, witness: Witness) -> None:
        ledger.sent["acme", 1].is_cancelled = True
        with pytest.raises(AssertionError, match="counts again"):
            ledger.audit(witness)

    def test_a_confirmed_one_that_is_held(self, ledger: Ledger, witness: Witness) -> None:
        ledger.sent["acme", 1].is_confirmed = True
        account = witness.oracle.accounts["acme"]
        account.change(1, replace(account.messages[0], lapse_ms=NOW_MS + 1))
        with pytest.raises(AssertionError, match="held again"):
            ledger.audit(witness)

    def test_a_lost_edit(self, ledger: Ledger, witness: Witness) -> None:
        ledger.note(call(), 1)
        with pytest.raises(AssertionError, match="edit 1 was acknowledged"):
            ledger.audit(witness)
