"""Random denials, floods, crashes and days, against a plain list of what the log should hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from limiter import bounds
from limiter.restriction_records import Forgotten
from limiter.restriction_store import Wanted
from limiter.v1 import attempt_pb2, decision_service_pb2, policy_pb2
from tests.integration.requests import HOUR_S, cap
from tests.unit.restriction_pair import Pair

ACCOUNTS = ("ann", "bob")
CONTACTS = tuple(f"contact-{number}" for number in range(12))
ADDRESSES = ("+4930 1", "ada@example.org", CONTACTS[0])
CAMPAIGNS = ("", "spring", "autumn")
MESSAGES = policy_pb2.MEASURE_MESSAGES
BY_CONTACT = (attempt_pb2.DIMENSION_CONTACT,)
WHOLE = decision_service_pb2.ATOMICITY_ALL_OR_NOTHING


def limits(chance: random.Random) -> tuple[policy_pb2.Limit, ...]:
    """Two limits that deny, and one that would."""
    return (
        cap(chance.choice((0, 1, 2)), HOUR_S, measure=MESSAGES, per=BY_CONTACT, limit_id="gap"),
        cap(chance.choice((3, 8)), 30 * HOUR_S, limit_id="people"),
        cap(
            chance.choice((1, 4)),
            5 * HOUR_S,
            measure=MESSAGES,
            limit_id="shadow",
            enforcement=policy_pb2.ENFORCEMENT_SHADOW,
        ),
    )


class Story:
    """What happens, at random."""

    def __init__(self, chance: random.Random, pair: Pair) -> None:
        self.chance = chance
        self.pair = pair

    def attempt(self) -> attempt_pb2.Attempt:
        chance = self.chance
        return attempt_pb2.Attempt(
            account=chance.choice(ACCOUNTS),
            contact=chance.choice(CONTACTS),
            address=chance.choice(("", *ADDRESSES)),
            campaign=chance.choice(CAMPAIGNS),
            resource=chance.choice(("", "site")),
            category=chance.choice(("", "Käse & more")),
            message_count=chance.choice((0, 1, 2, 3)),
            contact_time_zone=chance.choice(("", "Europe/Berlin")),
        )

    def batch(self) -> None:
        shared = self.attempt()
        for name in ("contact", "address", "contact_time_zone"):
            shared.ClearField(name)
        request = decision_service_pb2.CommitBatchRequest(attempt=shared)
        for number in range(self.chance.randrange(1, 8)):
            request.recipients.add(
                contact=self.chance.choice(CONTACTS),
                address=self.chance.choice(("", "+4930 2", CONTACTS[0])),
                reference=f"row {number}",
            )
        request.exclude_duplicates = self.chance.random() < 0.5
        if self.chance.random() < 0.4:
            request.atomicity = WHOLE
        self.pair.batch(request)

    def somebody(self) -> Forgotten:
        chance = self.chance
        account = chance.choice(ACCOUNTS)
        if chance.random() < 0.6:
            return Forgotten(account=account, contact=chance.choice(CONTACTS))
        return Forgotten(account=account, address=chance.choice(ADDRESSES))

    def look(self) -> int:
        chance, pair = self.chance, self.pair
        around_ms = pair.now_ms - chance.randrange(3 * bounds.DAY_MS)
        wanted = Wanted(
            account=chance.choice(ACCOUNTS),
            campaign=chance.choice(CAMPAIGNS),
            contact=chance.choice(("", "", CONTACTS[0], CONTACTS[1])),
            limit_id=chance.choice(("", "", "gap", "people", "shadow", "none")),
            start_ms=chance.choice((None, around_ms)),
            end_ms=chance.choice((None, around_ms + 30_000_000)),
        )
        return pair.check(wanted, chance.choice((1, 3, 1_000)))

    def step(self) -> int:
        chance, pair = self.chance, self.pair
        pair.now_ms += chance.choice((0, 1, 1_000, 600_000, 3 * 3_600_000))
        what = chance.random()
        if what < 0.6:
            pair.commit(self.attempt())
        elif what < 0.75:
            self.batch()
        elif what < 0.8:
            pair.apply(*limits(chance))
        elif what < 0.82:
            pair.crash()
        elif what < 0.84:
            return pair.forget(self.somebody())
        elif what < 0.92:
            pair.work()
        else:
            pair.work()
            return self.look()
        return 0


@pytest.mark.parametrize("row_count_max", [4, 1_000])
@pytest.mark.parametrize("seed", range(3))
def test_the_log_holds_what_was_denied(seed: int, row_count_max: int, tmp_path: Path) -> None:
    chance = random.Random(f"{seed} {row_count_max}")
    pair = Pair(tmp_path / "restrictions", row_count_max, *limits(chance))
    story = Story(chance, pair)
    seen = sum(story.step() for _ in range(600))
    pair.work()
    for account in ACCOUNTS:
        seen += pair.check(Wanted(account=account), 7)
    assert seen > 50
    if row_count_max == 4:
        assert pair.dropped
    pair.log.close()
