"""The rules of the hot requests: each refusal names the field, the rule and the way out."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from limiter import _wire_inspect, bounds
from limiter.errors import InvalidArgument
from limiter.v1 import decision_service_pb2, plan_pb2

KINDS = (
    "CheckRequest",
    "CommitRequest",
    "CheckBatchRequest",
    "CommitBatchRequest",
    "GetUsageRequest",
    "PlanRequest",
)
BATCHES = ("CheckBatchRequest", "CommitBatchRequest")
LISTS = (*BATCHES, "PlanRequest")
RECIPIENTS_MAX = {**dict.fromkeys(BATCHES, 10_000), "PlanRequest": 100_000}
RECIPIENT_LABELS = ("contact", "address", "contact_time_zone")
LABELS = ("channel", "resource", "campaign", "agent", "team", "source", "category")


def blank(kind: str) -> Any:
    return getattr(plan_pb2 if kind == "PlanRequest" else decision_service_pb2, kind)()


def sound(kind: str) -> Any:
    """A request of the kind that breaks no rule."""
    request = blank(kind)
    request.attempt.account = "acme"
    if kind in LISTS:
        request.recipients.add(contact="ann")
        request.recipients.add(contact="bob")
    else:
        request.attempt.contact = "ann"
    return request


def accept(kind: str, request: Message) -> dict[str, Any]:
    return accept_bytes(kind, request.SerializeToString())


def accept_bytes(kind: str, data: bytes) -> dict[str, Any]:
    return _wire_inspect.describe(kind, data)


def refuse(kind: str, request: Message, field: str, reason: str = "INVALID_FIELD") -> str:
    """The request is refused for this field and reason; returns the words."""
    with pytest.raises(InvalidArgument) as refusal:
        accept(kind, request)
    fault = refusal.value
    assert fault.reason == reason
    assert [violation.field for violation in fault.violations] == [field]
    description = fault.violations[0].description
    assert fault.message == f"{field}: {description}"
    return description


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_request_is_accepted(kind: str) -> None:
    assert accept(kind, sound(kind))["attempt"]["account"] == "acme"


@pytest.mark.parametrize("kind", KINDS)
def test_account_is_required(kind: str) -> None:
    request = sound(kind)
    request.attempt.account = ""
    assert "required" in refuse(kind, request, "attempt.account", "MISSING_FIELD")
    request.ClearField("attempt")
    refuse(kind, request, "attempt.account", "MISSING_FIELD")


@pytest.mark.parametrize("kind", KINDS)
def test_account_has_at_most_128_characters(kind: str) -> None:
    request = sound(kind)
    request.attempt.account = "a" * 128
    accept(kind, request)
    request.attempt.account = "a" * 129
    assert "1 to 128" in refuse(kind, request, "attempt.account")


def test_account_has_no_other_characters() -> None:
    request = sound("CheckRequest")
    for code in [*range(256), 0x4E00, 0x1F600]:
        request.attempt.account = f"a{chr(code)}b"
        if bounds.ACCOUNT_PATTERN.fullmatch(request.attempt.account):
            accept("CheckRequest", request)
        else:
            assert "A-Z a-z 0-9" in refuse("CheckRequest", request, "attempt.account")


def test_contact_is_required_but_for_usage() -> None:
    for kind in ("CheckRequest", "CommitRequest"):
        request = sound(kind)
        request.attempt.contact = ""
        refuse(kind, request, "attempt.contact", "MISSING_FIELD")
    request = sound("GetUsageRequest")
    request.attempt.contact = ""
    accept("GetUsageRequest", request)


@pytest.mark.parametrize("kind", LISTS)
def test_contact_is_required_of_every_recipient(kind: str) -> None:
    request = sound(kind)
    request.recipients.add(address="+49151")
    refuse(kind, request, "recipients[2].contact", "MISSING_FIELD")


@pytest.mark.parametrize(
    ("kind", "label"),
    [(kind, label) for kind in KINDS for label in LABELS]
    + [(kind, label) for kind in KINDS if kind not in LISTS for label in RECIPIENT_LABELS],
)
def test_labels_have_at_most_256_bytes(kind: str, label: str) -> None:
    request = sound(kind)
    setattr(request.attempt, label, "ä" * 128)
    assert accept(kind, request)["attempt"][label] == "ä" * 128
    setattr(request.attempt, label, "ä" * 128 + "b")
    words = refuse(kind, request, f"attempt.{label}")
    assert "257 bytes" in words
    assert "256" in words


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("field", [*RECIPIENT_LABELS, "reference"])
def test_recipient_fields_have_at_most_256_bytes(kind: str, field: str) -> None:
    request = sound(kind)
    setattr(request.recipients[1], field, "x" * 256)
    accept(kind, request)
    setattr(request.recipients[1], field, "x" * 257)
    words = refuse(kind, request, f"recipients[1].{field}")
    assert "257 bytes" in words
    assert "at most 256" in words


@pytest.mark.parametrize("kind", ["CommitRequest", "CommitBatchRequest"])
def test_request_id_has_at_most_64_bytes(kind: str) -> None:
    request = sound(kind)
    request.request_id = "x" * 64
    assert accept(kind, request)["request_id"] == "x" * 64
    request.request_id = "x" * 65
    words = refuse(kind, request, "request_id")
    assert "65 bytes" in words
    assert "at most 64" in words


def test_request_id_of_a_recipient_is_for_commits_and_has_at_most_64_bytes() -> None:
    request = sound("CommitBatchRequest")
    request.recipients[1].request_id = "x" * 64
    accept("CommitBatchRequest", request)
    words = refuse("CheckBatchRequest", request, "recipients[1].request_id")
    assert "check" in words
    request.recipients[1].request_id = "x" * 65
    assert "at most 64" in refuse("CommitBatchRequest", request, "recipients[1].request_id")


@pytest.mark.parametrize("kind", KINDS)
def test_message_count_has_bounds(kind: str) -> None:
    request = sound(kind)
    for count in (0, 1, 1_000_000):
        request.attempt.message_count = count
        assert accept(kind, request)["attempt"]["message_count"] == count
    for count in (-1, 1_000_001, -(2**63), 2**63 - 1):
        request.attempt.message_count = count
        words = refuse(kind, request, "attempt.message_count")
        assert f"is {count}," in words
        assert "1000000" in words


ENUMS = [
    (kind, field, known)
    for kind in KINDS
    for field, known in (("view", 2), ("mode", 2), ("atomicity", 2))
    if field in blank(kind).DESCRIPTOR.fields_by_name
]


@pytest.mark.parametrize(("kind", "field", "known"), ENUMS)
def test_unknown_enum_values_are_refused(kind: str, field: str, known: int) -> None:
    request = sound(kind)
    for value in range(known + 1):
        setattr(request, field, value)
        assert accept(kind, request)[field] == value
    for value in (-1, 3, 2**31 - 1, -(2**31)):
        setattr(request, field, value)
        words = refuse(kind, request, field)
        assert f"is {value}," in words
        assert "(1)" in words


def test_an_event_time_is_an_instant_and_only_for_what_is_recorded() -> None:
    request = sound("CommitRequest")
    request.event_time.FromSeconds(1)
    assert "COMMIT_MODE_RECORD" in refuse("CommitRequest", request, "event_time")
    request.mode = decision_service_pb2.COMMIT_MODE_RECORD
    assert accept("CommitRequest", request)["event_time"] == (1, 0)
    for seconds, nanos in ((-1, 0), (1, -1), (1, 1_000_000_000), (2**62, 0), (-(2**63), 0)):
        request.event_time.seconds, request.event_time.nanos = seconds, nanos
        assert "Timestamp" in refuse("CommitRequest", request, "event_time")


def test_a_hold_lasts_up_to_an_hour_and_is_not_for_what_is_recorded() -> None:
    request = sound("CommitRequest")
    for seconds, nanos in ((0, 1_000_000), (3_600, 0), (3_599, 999_999_999)):
        request.hold_duration.seconds, request.hold_duration.nanos = seconds, nanos
        assert accept("CommitRequest", request)["hold_duration"] == (seconds, nanos)
    for seconds, nanos in (
        (0, 0),
        (0, 999_999),
        (-1, 0),
        (0, -1),
        (3_600, 1),
        (3_601, 0),
        (1, 1_000_000_000),
        (2**63 - 1, 0),
    ):
        request.hold_duration.seconds, request.hold_duration.nanos = seconds, nanos
        assert "3600 s" in refuse("CommitRequest", request, "hold_duration")
    request.hold_duration.FromSeconds(1)
    request.mode = decision_service_pb2.COMMIT_MODE_RECORD
    assert "COMMIT_MODE_RECORD" in refuse("CommitRequest", request, "hold_duration")


def test_a_malformed_time_is_called_malformed() -> None:
    data = sound("CommitRequest").SerializeToString() + b"\x32\x01\x08"
    with pytest.raises(InvalidArgument) as refusal:
        _wire_inspect.describe("CommitRequest", data)
    assert refusal.value.reason == "MALFORMED_REQUEST"
    assert "in event_time" in refusal.value.message


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("field", RECIPIENT_LABELS)
def test_what_belongs_to_recipients_is_not_shared(kind: str, field: str) -> None:
    request = sound(kind)
    setattr(request.attempt, field, "x")
    assert "`recipients`" in refuse(kind, request, f"attempt.{field}")


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_has_so_many_recipients(kind: str) -> None:
    request = sound(kind)
    most = RECIPIENTS_MAX[kind]
    one = request.recipients[0]
    del request.recipients[:]
    assert f"1 to {most}" in refuse(kind, request, "recipients")
    request.recipients.extend([one] * most)
    assert len(accept(kind, request)["recipients"]) == most
    request.recipients.append(one)
    assert f"has {most + 1} entries" in refuse(kind, request, "recipients")


def test_a_plan_is_spread_over_1_ms_to_400_days() -> None:
    request = sound("PlanRequest")
    day_s = 86_400
    for seconds, nanos in ((0, 1_000_000), (400 * day_s, 0)):
        request.spread_duration.seconds, request.spread_duration.nanos = seconds, nanos
        assert accept("PlanRequest", request)["spread_duration"] == (seconds, nanos)
    for seconds, nanos in ((0, 0), (0, 999_999), (-1, 0), (400 * day_s, 1), (2**63 - 1, 0)):
        request.spread_duration.seconds, request.spread_duration.nanos = seconds, nanos
        assert "400 days" in refuse("PlanRequest", request, "spread_duration")


def test_what_a_planned_recipient_lacks_is_passed_over() -> None:
    data = sound("PlanRequest").SerializeToString() + b"\x1a\x08\x0a\x01c\x2a\x03\xff\xff\xff"
    assert accept_bytes("PlanRequest", data)["recipients"][2]["contact"] == "c"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "GetUsageRequest"])
def test_a_request_has_at_most_16_inline_limits(kind: str) -> None:
    request = sound(kind)
    for number in range(16):
        request.inline_limits.add(limit_id=f"limit-{number}")
    raw = [limit.SerializeToString() for limit in request.inline_limits]
    assert accept(kind, request)["inline_limits"] == raw
    request.inline_limits.add(limit_id="one-too-many")
    assert "has 17 entries" in refuse(kind, request, "inline_limits")


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        ("CommitRequest", b"\x22\x01\xff", "request_id"),
        ("CheckRequest", b"\x0a\x03\x0a\x01\xff", "attempt.account"),
        ("GetUsageRequest", b"\x0a\x03\x62\x01\xff", "attempt.contact_time_zone"),
        ("CommitBatchRequest", b"\x2a\x00\x2a\x03\x1a\x01\xff", "recipients[1].reference"),
    ],
)
def test_what_is_not_utf8_is_named(kind: str, data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _wire_inspect.describe(kind, data)
    assert refusal.value.reason == "MALFORMED_REQUEST"
    assert [violation.field for violation in refusal.value.violations] == [field]
    assert "UTF-8" in refusal.value.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x18\x01\x80", "byte 2 is"),
        (b"\x18\x01\x0a\x02\x0a\x05", "byte 4 in attempt.account is"),
        (b"\x0a\x01\x80", "byte 2 in attempt is"),
        (b"\x2a\x00\x2a\x02\x0a\x05", "byte 4 in recipients[1].contact is"),
    ],
)
def test_what_is_malformed_is_located(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        _wire_inspect.describe("CommitBatchRequest", data)
    assert refusal.value.reason == "MALFORMED_REQUEST"
    assert "limiter.v1.CommitBatchRequest" in refusal.value.message
    assert words in refusal.value.message


def test_a_request_has_at_most_4_mebibytes() -> None:
    request = sound("CheckRequest")
    data = request.SerializeToString()
    filler_size = bounds.MESSAGE_BYTES_MAX - len(data) - 5
    filler = b"\x7a" + bytes([filler_size & 0x7F | 0x80, filler_size >> 7 & 0x7F | 0x80])
    filler += bytes([filler_size >> 14 & 0x7F | 0x80, filler_size >> 21]) + bytes(filler_size)
    assert len(data + filler) == bounds.MESSAGE_BYTES_MAX
    _wire_inspect.describe("CheckRequest", data + filler)
    with pytest.raises(InvalidArgument, match="at most 4194304"):
        _wire_inspect.describe("CheckRequest", data + filler + b"\x18\x01")


def test_the_first_fault_in_field_order_is_reported() -> None:
    request = sound("CommitRequest")
    request.attempt.account = "no spaces"
    request.attempt.contact = "x" * 300
    request.view = 9
    refuse("CommitRequest", request, "attempt.account")
