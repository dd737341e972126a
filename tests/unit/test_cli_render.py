"""Decisions, usage, policies and differences as people read them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from google.protobuf import json_format
from rich.console import Console, RenderableType

from limiter.cli import render
from limiter.cli.describe import limit_in_words, reason_in_words
from limiter.cli.difference import difference, summary
from limiter.cli.inline import parse_limit
from limiter.v1 import decision_pb2, decision_service_pb2, policy_pb2, policy_service_pb2

HOUR = 3_600
NOON = "2025-03-03T12:00:00Z"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC, so that what is printed is the same everywhere."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def shown(renderable: RenderableType) -> str:
    """The text on a wide terminal without colours, with single spaces."""
    stream = io.StringIO()
    Console(file=stream, width=200, no_color=True).print(renderable)
    return "\n".join(" ".join(line.split()) for line in stream.getvalue().splitlines())


def status(**changes: object) -> decision_pb2.LimitStatus:
    """The status of a limit of 200 contacts that is half used."""
    value: dict[str, object] = {
        "policy": "policies/hard-limit",
        "limitId": "people-a-day",
        "reason": "REASON_WITHIN_LIMITS",
        "maxCount": 200,
        "usedCount": 100,
        "remainingCount": 100,
        "resetTime": "2025-03-03T15:11:30.500Z",
        "enforcement": "ENFORCEMENT_ENFORCED",
        **changes,
    }
    return json_format.ParseDict(value, decision_pb2.LimitStatus())


def decided(outcome: str, reason: str, **fields: object) -> decision_pb2.Decision:
    value: dict[str, object] = {
        "outcome": f"OUTCOME_{outcome}",
        "reason": f"REASON_{reason}",
        "decideTime": NOON,
        **fields,
    }
    return json_format.ParseDict(value, decision_pb2.Decision())


def test_a_denial_says_why_how_much_and_until_when() -> None:
    full = status(reason="REASON_CONTACT_CAP", usedCount=200, remainingCount=0, exceeded=True)
    answer = decided("DENIED", "CONTACT_CAP", retryTime="2025-03-03T15:11:30.500Z")
    answer.binding_limit.CopyFrom(full)
    answer.limit_statuses.append(full)
    assert shown(render.decision(answer)).splitlines() == [
        "DENIED the cap on contacts is full",
        "limit people-a-day of policies/hard-limit",
        "count 200 of 200 contacts used, 0 left",
        "way out try again in 3 h 12 min, at Mon 3 Mar 2025 15:11:31 UTC",
        "limit policy used max left state count falls",
        "people-a-day policies/hard-limit 200 200 0 does not fit in 3 h 12 min",
    ]


def test_a_denial_for_good_says_that_waiting_does_not_help() -> None:
    answer = decided("DENIED", "MESSAGE_COUNT_OVER_MAX")
    assert "no waiting helps: these limits never let" in shown(render.decision(answer))
    answer = decided("DENIED", "POLICY_REQUIRED")
    assert shown(render.decision(answer)).splitlines() == [
        "DENIED no policy is assigned, and the server requires one",
        "way out no waiting helps",
    ]


def test_an_outcome_that_is_not_known_reads_as_denied() -> None:
    assert shown(render.decision(decision_pb2.Decision())).startswith("DENIED")


def test_a_commit_that_uses_up_a_limit_warns() -> None:
    last = status(usedCount=200, remainingCount=0)
    response = decision_service_pb2.CommitResponse(commit_id="c1", account_sequence=7)
    response.decision.CopyFrom(decided("ALLOWED", "WITHIN_LIMITS"))
    response.decision.limit_statuses.extend([last, status(limitId="other", policy="")])
    lines = shown(render.commit(response)).splitlines()
    assert lines[:3] == [
        "ALLOWED within all limits",
        "commit c1, number 7 of the account, counted",
        (
            "warning with this one people-a-day of policies/hard-limit is full: 200 of 200; "
            "its count falls in 3 h 12 min"
        ),
    ]
    assert lines[4].startswith("people-a-day policies/hard-limit 200 200 0 full in 3 h")
    assert lines[5].startswith("other (inline) 100 200 100 fits in 3 h")
    response.replayed = True
    assert "counted before, not again" in shown(render.commit(response))


def test_goals_and_limits_that_were_not_evaluated() -> None:
    goal = status(enforcement="ENFORCEMENT_GOAL", usedCount=50, remainingCount=150)
    missing = status(reason="REASON_NOT_EVALUATED", usedCount=0, enforcement="ENFORCEMENT_GOAL")
    missing.ClearField("reset_time")
    none = status(enforcement="ENFORCEMENT_GOAL", maxCount=0, usedCount=3)
    partial = status(countedSinceTime=NOON)
    text = shown(render.statuses([goal, missing, none, partial]))
    assert "goal, 25 % reached 2025-03-03 15:11:31" in text
    assert "a field is missing" in text
    assert "goal, 100 % reached" in text
    assert "count falls counted since" in text
    assert text.endswith("2025-03-03 15:11:31 2025-03-03 12:00:00")


def test_hours_are_open_or_closed() -> None:
    count = {"maxCount": 0, "usedCount": 0, "remainingCount": 0, "resetTime": None}
    is_open = status(**count)
    closed = status(**count, exceeded=True, reason="REASON_HOURS")
    text = shown(render.statuses([is_open, closed]))
    assert " 0 open" in text
    assert " 0 closed" in text
    allowed = decided(
        "ALLOWED", "WITHIN_LIMITS", limitStatuses=[json_format.MessageToDict(is_open)]
    )
    assert "warning" not in shown(render.decision(allowed))
    denied = decided("DENIED", "HOURS", bindingLimit=json_format.MessageToDict(closed))
    text = shown(render.decision(denied))
    assert "outside the hours" in text
    assert "used" not in text


def test_a_break_that_is_due() -> None:
    due = status(maxCount=3, usedCount=3, remainingCount=0, reason="REASON_PAUSE", exceeded=True)
    text = shown(
        render.decision(decided("DENIED", "PAUSE", bindingLimit=json_format.MessageToDict(due)))
    )
    assert "DENIED a break is due" in text
    assert "3 of 3 messages in a row used, 0 left" in text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            {"pause": {"afterCount": 20, "duration": "900s", "per": ["DIMENSION_AGENT"]}},
            "a break of 15 min after 20 messages per agent (enforced)",
        ),
        (
            {
                "hours": {
                    "timeZone": "RECIPIENT",
                    "fallbackTimeZone": "Europe/Berlin",
                    "ranges": [
                        {
                            "days": [
                                f"DAY_OF_WEEK_{day}" for day in ("MONDAY", "TUESDAY", "FRIDAY")
                            ],
                            "startMinute": 540,
                            "endMinute": 1440,
                        },
                        {
                            "days": ["DAY_OF_WEEK_SATURDAY", "DAY_OF_WEEK_SUNDAY"],
                            "startMinute": 1325,
                            "endMinute": 60,
                        },
                    ],
                }
            },
            (
                "only Mon Tue Fri 09:00-24:00, Sat Sun 22:05-01:00 in the recipient's zone, else in"
                " Europe/Berlin (enforced)"
            ),
        ),
        (
            {
                "cap": {
                    "measure": "MEASURE_CONTACTS",
                    "maxCount": 1000,
                    "window": {"rolling": "86400s"},
                    "ramp": {
                        "dailyStep": {"startDate": "2025-03-03", "startCount": 50, "stepCount": 25}
                    },
                }
            },
            (
                "at most 1,000 contacts in any 24 h, from 50 on 2025-03-03 up by 25 a day in UTC"
                " (enforced)"
            ),
        ),
        (
            {
                "cap": {
                    "measure": "MEASURE_MESSAGES",
                    "maxCount": 1000,
                    "window": {"rolling": "86400s"},
                    "ramp": {
                        "timeZone": "Europe/Berlin",
                        "tiers": {"tiers": [{"startDate": "2025-03-03", "maxCount": 50}]},
                    },
                }
            },
            (
                "at most 1,000 messages in any 24 h, growing in Europe/Berlin: 50 from 2025-03-03"
                " (enforced)"
            ),
        ),
    ],
)
def test_rules_that_look_at_the_clock_in_words(rule: dict[str, object], words: str) -> None:
    value = {"limitId": "rule", "enforcement": "ENFORCEMENT_ENFORCED", **rule}
    assert limit_in_words(json_format.ParseDict(value, policy_pb2.Limit())) == words


def test_a_shadow_limit_says_what_it_would_do() -> None:
    fits = status(enforcement="ENFORCEMENT_SHADOW")
    over = status(enforcement="ENFORCEMENT_SHADOW", exceeded=True)
    text = shown(render.statuses([fits, over]))
    assert " shadow 2025" in text
    assert " shadow, would deny 2025" in text


def test_names_are_never_markup() -> None:
    name = "[bold]x[/bold] [/] :smile:"
    text = shown(render.statuses([status(limitId=name, policy=name)]))
    assert text.count(name) == 2
    policy = policy_pb2.Policy(name=name, display_name=name)
    assert shown(render.policies([policy])).count(name) == 2
    assignment = policy_pb2.Assignment(name=name, policy=name, scope=policy_pb2.Scope(account=name))
    assert shown(render.assignments([assignment])).count(name) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("200 contacts in 24h", "at most 200 contacts in any 24 h (enforced)"),
        (
            "10_000 messages per agent+contact in 90min",
            "at most 10,000 messages per agent and contact in any 1 h 30 min (enforced)",
        ),
        ("2 contacts per channel in 168h", "at most 2 contacts per channel in any 7 days (enf"),
        ("1 addresses in 36h", "at most 1 address in any 1 d 12 h (enforced)"),
        ("5 messages in day Europe/Berlin", "at most 5 messages in the day in Europe/Berlin"),
        ("5 addresses in week x2", "at most 5 addresses in the last 2 weeks in UTC (enforced)"),
    ],
)
def test_limits_in_words(text: str, words: str) -> None:
    assert limit_in_words(parse_limit(text, "a")).startswith(words)


def test_which_attempts_a_limit_is_about() -> None:
    limit = parse_limit("5 messages in 24h", "a")
    limit.enforcement = policy_pb2.ENFORCEMENT_GOAL
    queue = {"dimension": "DIMENSION_SOURCE", "values": ["queue", "bot"]}
    other = {"dimension": "DIMENSION_CATEGORY", "values": ["transactional"], "negate": True}
    json_format.ParseDict({"conditions": [queue, other]}, limit.applies_to)
    limit.counts.SetInParent()
    assert limit_in_words(limit) == (
        "at most 5 messages in any 24 h (goal, for source queue or bot and category not "
        "transactional, counting everything)"
    )
    limit.counts.CopyFrom(limit.applies_to)
    assert limit_in_words(limit).endswith("counting source queue or bot and category not tran"
                                          "sactional)")  # fmt: skip


def test_policies_and_assignments() -> None:
    policy = policy_pb2.Policy(name="policies/a", display_name="A", limits=[])
    assert shown(render.policies([policy])).splitlines()[1] == "policies/a A none: unlimited"
    policy.limits.append(parse_limit("1 messages in 24h", "one"))
    assert shown(render.policies([policy])).endswith(
        "one: at most 1 message in any 24 h (enforced)"
    )
    scopes = [
        (policy_pb2.Scope(), "everything"),
        (policy_pb2.Scope(account="x"), "account x"),
        (policy_pb2.Scope(account="x", resource="r"), "resource r of account x"),
        (policy_pb2.Scope(account="x", campaign="c"), "campaign c of account x"),
    ]
    found = [policy_pb2.Assignment(name="n", policy="p", scope=each) for each, _ in scopes]
    found[0].mandatory = True
    lines = shown(render.assignments(found)).splitlines()[1:]
    assert lines[0] == "n everything p mandatory"
    assert lines[1:] == [f"n {words} p" for _, words in scopes[1:]]
    found[1].state = policy_pb2.ASSIGNMENT_STATE_REBUILDING
    assert shown(render.assignments(found)).splitlines()[2] == "n account x p rebuilding"


def test_every_reason_has_words() -> None:
    for value in decision_pb2.Reason.values():
        if value != decision_pb2.REASON_UNSPECIFIED:
            assert not reason_in_words(value).startswith("reason ")


def change(value: dict[str, object]) -> policy_service_pb2.PolicyChange:
    return json_format.ParseDict(value, policy_service_pb2.PolicyChange())


def test_a_difference_shows_what_somebody_wrote_and_no_more() -> None:
    limits = [
        {"limitId": f"limit-{number}", "cap": {"maxCount": number, "window": {"rolling": "60s"}}}
        for number in (1, 2, 3)
    ]
    old = {"name": "policies/b", "displayName": "Old", "limits": limits, "etag": "1"}
    changed = [limits[0], limits[1], {**limits[2], "cap": {"maxCount": 9}}]
    new = {**old, "displayName": "New", "limits": changed, "etag": "2", "updateTime": NOON}
    assignment = {"name": "assignments/c", "policy": "policies/b", "state": 1}
    changes = [
        change({"action": "ACTION_CREATE", "name": "policies/a", "newPolicy": {"etag": "7"}}),
        change({"action": 2, "name": "policies/b", "oldPolicy": old, "newPolicy": new}),
        change({"action": 3, "name": "assignments/c", "oldAssignment": assignment}),
    ]
    assert [line.plain for line in difference(changes)] == [
        "+ create policies/a",
        "~ change policies/b",
        "    - displayName: Old",
        "    + displayName: New",
        "      limits:",
        "      - limitId: limit-1",
        "      ...",
        "      - limitId: limit-3",
        "        cap:",
        "    -     maxCount: 3",
        "    -     window:",
        "    -       rolling: 60s",
        "    +     maxCount: 9",
        "- delete assignments/c",
        "    - policy: policies/b",
    ]
    assert summary(changes) == "1 to create, 1 to change, 1 to delete"
