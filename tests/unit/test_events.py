"""What the journal keeps of an attempt, and how the events of one account are found again."""

from __future__ import annotations

from typing import Any

from limiter._calendar import Window
from limiter._core import Core
from limiter._event import describe
from limiter._hot import Decider
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.unit.memory_journal import MemoryHistory
from tests.unit.test_counters import MESSAGES, START_MS, make_decider

COMMIT, DENIAL = 2, 3


def send(decider: Decider, attempt: attempt_pb2.Attempt, now_ms: int = START_MS) -> str:
    """Commits, and says under which id if it was allowed."""
    request = decision_service_pb2.CommitRequest(attempt=attempt)
    reply, _ = decider.commit(request.SerializeToString(), now_ms)
    return decision_service_pb2.CommitResponse.FromString(reply).commit_id


def at(core: Core, position: int) -> dict[str, Any]:
    packed = core.event_at(position)
    assert packed is not None
    event = describe(packed, position)
    assert event is not None
    return event


def names_in(events: bytes) -> dict[int, str]:
    """The names that a group defines, by their ids."""
    names = {}
    offset = 0
    while offset < len(events):
        size = 4 + int.from_bytes(events[offset + 1 : offset + 4], "little")
        event = describe(events[offset : offset + size], 1 << 24 | offset)
        assert event is not None
        if event["name_id"]:
            names[event["name_id"]] = event["body"].decode()
        offset += size
    return names


def test_the_contacts_time_zone_is_kept_of_what_goes_and_of_what_does_not() -> None:
    core, decider = make_decider(MESSAGES, 1, Window.rolling(1000))
    recipients = [
        decision_service_pb2.Recipient(contact=f"c{i}", contact_time_zone=zone)
        for i, zone in enumerate(["Asia/Tokyo", "Europe/Rome", "", "Asia/Tokyo"])
    ]
    request = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="a"), recipients=recipients
    )
    decider.commit_batch(request.SerializeToString(), START_MS)
    commit, denial = core.last_events("a")
    zones_kept = [at(core, commit)["zone"]]
    denials = []
    while denial:
        denials.append(at(core, denial))
        denial = denials[-1]["previous_denial"]
    zones_kept += [each["zone"] for each in reversed(denials)]
    taken = core.take_group()
    assert taken is not None
    names = names_in(taken[1]) | {0: ""}
    assert [names[zone] for zone in zones_kept] == [
        "Asia/Tokyo",
        "Europe/Rome",
        "",
        "Asia/Tokyo",
    ]


def test_an_attempt_without_a_zone_takes_not_a_byte_for_it() -> None:
    core, decider = make_decider(MESSAGES, 10, Window.rolling(1000))
    sizes = []
    for zone in ("", "", "Asia/Tokyo", "Asia/Tokyo", "", ""):
        send(decider, attempt_pb2.Attempt(account="a", contact="c", contact_time_zone=zone))
        packed = core.event_at(core.last_events("a")[0])
        assert packed is not None
        sizes.append(len(packed))
    # The first names nobody before it; a zone takes its id and a second byte of flags.
    assert (sizes[1], sizes[3] - sizes[1], sizes[5]) == (sizes[4], 2, sizes[1])


def test_an_accounts_commits_and_denials_are_two_chains_across_a_restart() -> None:
    core, decider = make_decider(MESSAGES, 2, Window.rolling(1000))
    history = MemoryHistory(core)
    core.recall_from(history)
    sent: dict[str, list[bool]] = {"a": [], "b": []}
    for step in range(40):
        account = "ab"[step % 3 == 0]
        attempt = attempt_pb2.Attempt(account=account, contact=f"c{step}")
        sent[account].append(bool(send(decider, attempt, START_MS + step * 150)))
        if step % 5 == 0:
            history.take()
    history.take()
    again, _ = make_decider(MESSAGES, 2, Window.rolling(1000))
    again.recall_from(history)
    for number in range(1, 10):
        events = history.group(number)
        assert events is not None
        again.replay(number, events, lambda payload, now_ms: None)
    for each in (core, again):
        for account, allowed in sent.items():
            commit, denial = each.last_events(account)
            found = []
            # Side by side, the newest first.
            while commit or denial:
                event = at(each, max(commit, denial))
                found.append(event["type"] == COMMIT)
                if event["type"] == COMMIT:
                    commit = event["previous_account"]
                else:
                    assert event["previous_account"] == commit
                    denial = event["previous_denial"]
            assert found[::-1] == allowed
    assert not all(sent["a"])
    assert core.last_events("c") == (0, 0)


def test_an_account_that_was_only_ever_denied_is_found() -> None:
    core, decider = make_decider(MESSAGES, 0, Window.rolling(1000))
    assert not send(decider, attempt_pb2.Attempt(account="a", contact="c"))
    commit, denial = core.last_events("a")
    assert commit == 0
    assert at(core, denial)["type"] == DENIAL


def test_a_denial_of_an_older_journal_names_no_denial_before_it() -> None:
    core, decider = make_decider(MESSAGES, 0, Window.rolling(1000))
    for _ in range(2):
        send(decider, attempt_pb2.Attempt(account="a", contact="c"))
    _, position = core.last_events("a")
    packed = core.event_at(position)
    assert packed is not None
    whole = describe(packed, position)
    assert whole is not None
    assert whole["previous_denial"]
    # Without the way back, which the last byte is.
    older = bytes([packed[0]]) + (len(packed) - 5).to_bytes(3, "little") + packed[4:-1]
    assert describe(older, position) == whole | {"previous_denial": 0}
    assert describe(older[:-1], position) is None
