"""The decoder of the hot requests, byte for byte against the protobuf library."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from limiter import _wire_inspect
from limiter.errors import InvalidArgument
from limiter.v1 import attempt_pb2, decision_service_pb2, plan_pb2, policy_pb2

REQUESTS: dict[str, type[Message]] = {
    "CheckRequest": decision_service_pb2.CheckRequest,
    "CommitRequest": decision_service_pb2.CommitRequest,
    "CheckBatchRequest": decision_service_pb2.CheckBatchRequest,
    "CommitBatchRequest": decision_service_pb2.CommitBatchRequest,
    "GetUsageRequest": decision_service_pb2.GetUsageRequest,
    "PlanRequest": plan_pb2.PlanRequest,
}
ATTEMPT_LABELS = [
    field.name for field in attempt_pb2.Attempt.DESCRIPTOR.fields if field.name != "message_count"
]
RECIPIENT_LABELS = [field.name for field in decision_service_pb2.Recipient.DESCRIPTOR.fields]


def parsed(kind: str, data: bytes) -> Message | None:
    """What the protobuf library reads, None where it refuses."""
    try:
        return REQUESTS[kind].FromString(data)
    except DecodeError:
        return None


def described(kind: str, data: bytes) -> dict[str, Any] | None:
    """What the decoder reads at the wire level, None where it refuses."""
    try:
        return _wire_inspect.describe(kind, data, validate=False)
    except InvalidArgument as fault:
        if fault.reason != "MALFORMED_REQUEST":
            raise
        return None


def values_of(message: Any) -> dict[str, Any]:
    """A parsed message in the decoder's terms."""
    names = set(message.DESCRIPTOR.fields_by_name)
    return {
        "attempt": {
            field.name: getattr(message.attempt, field.name)
            for field in message.attempt.DESCRIPTOR.fields
        },
        "view": message.view if "view" in names else 0,
        "request_id": message.request_id if "request_id" in names else "",
        "mode": message.mode if "mode" in names else 0,
        "event_time": moment_of(message, "event_time"),
        "hold_duration": moment_of(message, "hold_duration"),
        "spread_duration": moment_of(message, "spread_duration"),
        "recipients": [
            {name: getattr(recipient, name, "") for name in RECIPIENT_LABELS}
            for recipient in (message.recipients if "recipients" in names else ())
        ],
        "atomicity": message.atomicity if "atomicity" in names else 0,
        "exclude_duplicates": message.exclude_duplicates if "atomicity" in names else False,
        "exclude_opt_outs": message.exclude_opt_outs if "atomicity" in names else False,
    }


def moment_of(message: Any, field: str) -> tuple[int, int] | None:
    """A Timestamp or a Duration, if the message has it."""
    if field not in message.DESCRIPTOR.fields_by_name or not message.HasField(field):
        return None
    moment = getattr(message, field)
    return moment.seconds, moment.nanos


def limits_of(raw: list[bytes]) -> list[policy_pb2.Limit] | None:
    """The inline limits, which the decoder does not look into; None where one is malformed."""
    try:
        return [policy_pb2.Limit.FromString(one) for one in raw]
    except DecodeError:
        return None


def assert_read_alike(kind: str, data: bytes) -> None:
    """The decoder accepts what protobuf accepts, and reads the same values."""
    expected: Any = parsed(kind, data)
    found = described(kind, data)
    if found is None:
        assert expected is None, f"only the decoder refuses {kind} {data.hex()}"
        return
    limits = limits_of(found.pop("inline_limits"))
    if limits is None:
        assert expected is None, f"only the decoder accepts the limits of {kind} {data.hex()}"
        return
    assert expected is not None, f"only the decoder accepts {kind} {data.hex()}"
    assert found == values_of(expected)
    expected_limits = list(expected.inline_limits) if kind != "GetUsageRequest" else []
    assert limits == expected_limits[:16]


# Whole messages, as a client may build them. Drawn from a seeded generator, several for each
# example of hypothesis, because drawing every field from hypothesis takes a hundred times longer.

CASES_PER_EXAMPLE = 4
LETTERS = "abcdefghij0123456789.~@ \x00äß€\ud7ff\U0001f600\U0010ffff"
kinds = st.sampled_from(sorted(REQUESTS))
generators = st.randoms(use_true_random=True)


def any_label(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=random.choice([0, 1, 3, 7, 8, 9, 17, 40])))


def any_integer(random: Random, bits: int) -> int:
    low = -(1 << bits - 1)
    return random.choice([0, 1, 2, 3, random.getrandbits(bits) + low])


def any_labels(random: Random, names: list[str]) -> dict[str, Any]:
    return {name: any_label(random) for name in names if random.random() < 0.5}


def any_limit(random: Random) -> policy_pb2.Limit:
    limit = policy_pb2.Limit(limit_id=any_label(random))
    limit.cap.max_count = any_integer(random, 64)
    limit.cap.window.rolling.seconds = any_integer(random, 64)
    return limit


def any_message(random: Random, kind: str) -> Message:
    """A message of the kind with any values in any of its fields."""
    cls: Any = REQUESTS[kind]
    message: Message = cls()
    fill(random, message)
    return message


def fill(random: Random, message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.25:
            continue
        if field.name == "attempt":
            attempt = attempt_pb2.Attempt(**any_labels(random, ATTEMPT_LABELS))
            attempt.message_count = any_integer(random, 64)
            message.attempt.CopyFrom(attempt)
        elif field.name == "inline_limits":
            message.inline_limits.extend(any_limit(random) for _ in range(random.randrange(4)))
        elif field.name == "recipients":
            labels = [each.name for each in field.message_type.fields]
            for _ in range(random.randrange(5)):
                message.recipients.add(**any_labels(random, labels))
        elif field.name == "request_id":
            message.request_id = any_label(random)
        elif field.name in {"event_time", "hold_duration", "spread_duration"}:
            getattr(message, field.name).seconds = any_integer(random, 64)
            getattr(message, field.name).nanos = any_integer(random, 32)
        elif field.name.startswith("exclude_"):
            setattr(message, field.name, random.random() < 0.5)
        else:
            setattr(message, field.name, any_integer(random, 32))


@given(kinds, generators)
def test_valid_messages_are_read_alike(kind: str, random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        data = any_message(random, kind).SerializeToString()
        assert described(kind, data) is not None
        assert_read_alike(kind, data)


@given(kinds, st.binary(max_size=64))
def test_random_bytes_are_read_alike(kind: str, data: bytes) -> None:
    assert_read_alike(kind, data)


# Fields as no client writes them: any number, any wire type, any length of varint.


def varint(value: int, padding: int = 0) -> bytes:
    """The varint of `value`, `padding` bytes longer than it need be."""
    groups = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if value == 0:
            break
    groups += [0] * padding
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def tag(number: int, wire_type: int, padding: int = 0) -> bytes:
    return varint(number << 3 | wire_type, padding)


def seldom(random: Random, usual: int, *others: int) -> int:
    return random.choice(others) if random.random() < 0.06 else usual


def wild_varint(random: Random) -> bytes:
    value = random.choice([0, 1, 2, random.getrandbits(31), random.getrandbits(64)])
    return varint(seldom(random, value, 2**70), seldom(random, 0, *range(1, 11)))


def wild_tag(random: Random, wire_type: int) -> bytes:
    number = seldom(random, random.randint(1, 13), 0, 15, 16, 2047, 2**29 - 1, 2**29, 2**32)
    return tag(number, wire_type, seldom(random, 0, *range(1, 6)))


def wild_content(random: Random, depth: int) -> bytes:
    form = random.random()
    if depth and form < 0.5:
        return wild_fields(random, depth - 1)
    if form < 0.9:
        return any_label(random).encode()
    return random.randbytes(random.randrange(6))


def wild_field(random: Random, depth: int) -> bytes:
    wire_type = seldom(random, random.choice([0, 1, 2, 2, 2, 3, 5]), 4, 6, 7)
    head = wild_tag(random, wire_type)
    if wire_type == 0:
        return head + wild_varint(random)
    if wire_type == 1:
        return head + random.randbytes(seldom(random, 8, 7))
    if wire_type == 5:
        return head + random.randbytes(seldom(random, 4, 3))
    if wire_type == 2:
        content = wild_content(random, depth)
        size = max(0, len(content) + seldom(random, 0, -1, 1, 2**31))
        return head + varint(size, seldom(random, 0, *range(1, 6))) + content
    if wire_type == 3:
        number = random.choice([1, 2, 15])
        last = number + seldom(random, 0, 1)
        return tag(number, 3) + wild_fields(random, max(0, depth - 1)) + tag(last, 4)
    return head


def wild_fields(random: Random, depth: int) -> bytes:
    return b"".join(wild_field(random, depth) for _ in range(random.randrange(4)))


@given(kinds, generators)
def test_wild_fields_are_read_alike(kind: str, random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        assert_read_alike(kind, wild_fields(random, 3))


def mutated(random: Random, kind: str) -> bytes:
    """A valid message with bytes flipped, cut, spliced, doubled or with unknown fields between."""
    data = any_message(random, kind).SerializeToString()
    for _ in range(random.randint(1, 3)):
        place = random.randint(0, len(data))
        how = random.choice(["flip", "cut", "splice", "double", "insert", "remove"])
        if how == "flip" and place < len(data):
            flipped = data[place] ^ random.randint(1, 255)
            data = data[:place] + bytes([flipped]) + data[place + 1 :]
        elif how == "cut":
            data = data[:place]
        elif how == "splice":
            other = any_message(random, kind).SerializeToString()
            data = data[:place] + other[random.randint(0, len(other)) :]
        elif how == "double":
            data = any_message(random, kind).SerializeToString() + data
        elif how == "insert":
            data = data[:place] + wild_fields(random, 2) + data[place:]
        elif how == "remove":
            data = data[:place] + data[place + random.randint(1, 5) :]
    return data


@given(kinds, generators)
def test_mutated_messages_are_read_alike(kind: str, random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        assert_read_alike(kind, mutated(random, kind))


@pytest.mark.parametrize("kind", sorted(REQUESTS))
def test_the_generators_make_both_good_and_bad(kind: str) -> None:
    """So that the comparisons above compare something."""
    random = Random(kind)
    wild = [wild_fields(random, 3) for _ in range(400)]
    mutants = [mutated(random, kind) for _ in range(400)]
    assert 40 < sum(parsed(kind, data) is not None for data in wild) < 360
    assert 40 < sum(parsed(kind, data) is not None for data in mutants) < 360


# The edges, one by one: these must hold whatever hypothesis draws.


def nested_groups(depth: int) -> bytes:
    return tag(15, 3) * depth + tag(15, 4) * depth


def in_attempt(data: bytes) -> bytes:
    return b"\x0a" + varint(len(data)) + data


EDGES = {
    "nothing": (b"", True),
    "empty attempt": (in_attempt(b""), True),
    "tag of five bytes": (tag(15, 0, padding=4) + b"\x01", True),
    "tag of six bytes": (tag(15, 0, padding=5) + b"\x01", False),
    "largest field number": (tag(2**29 - 1, 0) + b"\x01", True),
    "field number too large": (tag(2**29, 0) + b"\x01", False),
    "field number 0": (b"\x00\x01", False),
    "field number 0 in attempt": (in_attempt(b"\x00\x01"), False),
    "field number 0 in a group": (b"\x7b\x00\x01\x7c", True),
    "varint of ten bytes": (in_attempt(tag(11, 0) + varint(5, padding=9)), True),
    "varint of eleven bytes": (in_attempt(tag(11, 0) + varint(5, padding=10)), False),
    "varint beyond 64 bits": (in_attempt(tag(11, 0) + b"\xff" * 9 + b"\x7f"), True),
    "varint cut off": (in_attempt(tag(11, 0) + b"\x80"), False),
    "varint that leaves its message": (in_attempt(tag(11, 0) + b"\x80") + b"\x01", False),
    "size of five bytes": (b"\x0a" + varint(0, padding=4), True),
    "size of six bytes": (b"\x0a" + varint(0, padding=5), False),
    "size beyond the end": (b"\x0a\x01", False),
    "size beyond 31 bits": (b"\x0a" + varint(2**31), False),
    "size beyond 64 bits": (b"\x0a" + b"\xff" * 9 + b"\x01", False),
    "string beyond its message": (in_attempt(b"\x0a\x02a") + b"b", False),
    "wire type 6": (b"\x7e", False),
    "wire type 7": (b"\x7f", False),
    "fixed64": (b"\x79" + b"12345678", True),
    "fixed64 cut off": (b"\x79" + b"1234567", False),
    "fixed32": (b"\x7d" + b"1234", True),
    "fixed32 cut off": (b"\x7d" + b"123", False),
    "group": (nested_groups(1), True),
    "group ended by another": (tag(15, 3) + tag(14, 4), False),
    "group not ended": (tag(15, 3), False),
    "end without a group": (tag(15, 4), False),
    "end of group outside attempt": (in_attempt(tag(15, 3)) + tag(15, 4), False),
    "100 groups": (nested_groups(100), True),
    "101 groups": (nested_groups(101), False),
    "99 groups in attempt": (in_attempt(nested_groups(99)), True),
    "100 groups in attempt": (in_attempt(nested_groups(100)), False),
    "attempt as a group": (tag(1, 3) + tag(1, 4), True),
    "attempt as a varint": (b"\x08\x01", True),
    "account as a varint": (in_attempt(b"\x08\x01"), True),
    "message_count as bytes": (in_attempt(tag(11, 2) + b"\x01a"), True),
    "overlong UTF-8": (in_attempt(b"\x12\x02\xc0\x80"), False),
    "overlong UTF-8 of three": (in_attempt(b"\x12\x03\xe0\x9f\xbf"), False),
    "overlong UTF-8 of four": (in_attempt(b"\x12\x04\xf0\x8f\xbf\xbf"), False),
    "first of two bytes": (in_attempt(b"\x12\x02\xc2\x80"), True),
    "first of three bytes": (in_attempt(b"\x12\x03\xe0\xa0\x80"), True),
    "before the surrogates": (in_attempt(b"\x12\x03\xed\x9f\xbf"), True),
    "surrogate": (in_attempt(b"\x12\x03\xed\xa0\x80"), False),
    "behind the surrogates": (in_attempt(b"\x12\x03\xee\x80\x80"), True),
    "first of four bytes": (in_attempt(b"\x12\x04\xf0\x90\x80\x80"), True),
    "last code point": (in_attempt(b"\x12\x04\xf4\x8f\xbf\xbf"), True),
    "beyond the last code point": (in_attempt(b"\x12\x04\xf4\x90\x80\x80"), False),
    "UTF-8 cut off": (in_attempt(b"\x12\x02\xe2\x82"), False),
    "continuation alone": (in_attempt(b"\x12\x01\x80"), False),
    "not ASCII behind eight bytes": (in_attempt(b"\x12\x0a12345678\xc3\xa4"), True),
    "not UTF-8 behind eight bytes": (in_attempt(b"\x12\x0912345678\xff"), False),
    "NUL": (in_attempt(b"\x12\x01\x00"), True),
    "bad UTF-8 that is overwritten": (in_attempt(b"\x12\x01\xff\x12\x01a"), False),
    "value that is emptied again": (in_attempt(b"\x12\x01a\x12\x00"), True),
    "enum beyond 32 bits": (tag(3, 0) + varint(2**32 + 2), True),
    "bool of many bits": (tag(7, 0) + varint(2**32), True),
    "bool whose bits are dropped": (tag(7, 0) + b"\x80" * 9 + b"\x02", True),
}


@pytest.mark.parametrize("kind", sorted(REQUESTS))
@pytest.mark.parametrize("edge", EDGES)
def test_edges_are_read_alike(kind: str, edge: str) -> None:
    data, accepted = EDGES[edge]
    assert (described(kind, data) is not None) == accepted
    assert_read_alike(kind, data)


@pytest.mark.parametrize("size", range(1, 26))
def test_a_bad_byte_is_found_wherever_it_stands(size: int) -> None:
    """The ASCII test reads words that overlap: no position may slip through."""
    for place in range(size):
        text = bytearray(b"a" * size)
        text[place] = 0xFF
        data = in_attempt(b"\x12" + varint(size) + bytes(text))
        assert described("CheckRequest", data) is None


def test_repeated_submessages_merge_and_later_values_win() -> None:
    first = attempt_pb2.Attempt(account="a", contact="first", message_count=7)
    second = attempt_pb2.Attempt(contact="second", channel="sms")
    data = in_attempt(first.SerializeToString()) + in_attempt(second.SerializeToString())
    found = _wire_inspect.describe("CommitRequest", data)["attempt"]
    assert (found["account"], found["contact"]) == ("a", "second")
    assert (found["channel"], found["message_count"]) == ("sms", 7)


def test_a_full_batch_is_read_whole() -> None:
    request = decision_service_pb2.CommitBatchRequest(attempt=attempt_pb2.Attempt(account="a"))
    for number in range(10_000):
        request.recipients.add(contact=f"contact-{number}", reference=str(number))
    found = _wire_inspect.describe("CommitBatchRequest", request.SerializeToString())
    assert [one["contact"] for one in found["recipients"]] == [
        f"contact-{number}" for number in range(10_000)
    ]
    assert found["recipients"][9_999]["reference"] == "9999"


def test_nothing_is_left_from_the_request_before() -> None:
    full = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="a", channel="sms", message_count=3),
        inline_limits=[policy_pb2.Limit(limit_id="x")],
        view=2,  # type: ignore[arg-type]
        request_id="r",
        recipients=[decision_service_pb2.Recipient(contact="c", reference="r")],
        atomicity=2,  # type: ignore[arg-type]
        exclude_duplicates=True,
    )
    _wire_inspect.describe("CommitBatchRequest", full.SerializeToString())
    with pytest.raises(InvalidArgument):
        _wire_inspect.describe("CommitBatchRequest", full.SerializeToString() + b"\x00")
    empty = _wire_inspect.describe("CommitBatchRequest", b"", validate=False)
    assert empty.pop("inline_limits") == []
    assert empty == values_of(decision_service_pb2.CommitBatchRequest())


def test_unknown_messages_are_not_guessed() -> None:
    with pytest.raises(KeyError):
        _wire_inspect.describe("CommitResponse", b"")
