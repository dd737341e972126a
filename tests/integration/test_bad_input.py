"""Bad input over the wire: each field empty, too long, of the wrong kind, absurd; and garbage.

Each case is refused with INVALID_ARGUMENT that names the field and the rule; nothing is counted,
and the server lives on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from limiter import bounds
from limiter.service import cold
from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
)
from tests.integration import transports
from tests.integration.inside import Inside, serving
from tests.integration.requests import cap, fault_of

pytestmark = transports.BOTH

HOT = ["Check", "Commit", "CheckBatch", "CommitBatch", "GetUsage"]
BATCHES = ["CheckBatch", "CommitBatch"]
COMMITS = ["Commit", "CommitBatch"]
LABELS = ["channel", "resource", "campaign", "agent", "team", "source", "category"]
UNKNOWN_NUMBER = 4_711

# How a sound request is spoiled, the path of the field that is named, and the reason.
Case = tuple[str, Callable[[Any], object], str, str]


def sound(method: str) -> Any:
    """A request of the method that is accepted."""
    request = getattr(decision_service_pb2, f"{method}Request")()
    request.attempt.account = "a"
    if method in BATCHES:
        for contact in ("c0", "c1"):
            request.recipients.add(contact=contact)
    else:
        request.attempt.contact = "c"
    return request


def setting(path: str, value: Any) -> Callable[[Any], None]:
    """Sets the field at a path such as `attempt.account`."""

    def spoil(request: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            request = getattr(request, parent)
        setattr(request, last, value)

    return spoil


def with_limit(change: Callable[[Any], object]) -> Callable[[Any], None]:
    """Adds an inline limit, changed."""

    def spoil(request: Any) -> None:
        limit = request.inline_limits.add()
        limit.CopyFrom(cap(5))
        change(limit)

    return spoil


def attempt_cases(method: str) -> Iterator[Case]:
    def field(name: str, value: Any, reason: str = "INVALID_FIELD") -> Case:
        path = f"attempt.{name}"
        return f"{path}={str(value)[:20]!r}", setting(path, value), path, reason

    yield (
        "no attempt",
        lambda request: request.ClearField("attempt"),
        "attempt.account",
        "MISSING_FIELD",
    )
    yield field("account", "", "MISSING_FIELD")
    yield field("account", "a" * (bounds.ACCOUNT_BYTES_MAX + 1))
    for text in ("a b", "a/b", "é", "a\n", "a\x00", "%41"):
        yield field("account", text)
    for label in LABELS:
        yield field(label, "x" * (bounds.LABEL_BYTES_MAX + 1))
        yield field(label, "é" * (bounds.LABEL_BYTES_MAX // 2 + 1))
    if method in BATCHES:
        yield field("contact", "c")
        yield field("address", "a")
        yield field("contact_time_zone", "Europe/Berlin")
    else:
        yield field("contact", "x" * (bounds.LABEL_BYTES_MAX + 1))
        yield field("address", "x" * (bounds.LABEL_BYTES_MAX + 1))
        yield field("contact_time_zone", "x" * (bounds.LABEL_BYTES_MAX + 1))
        yield field("contact_time_zone", "Europe/Bonn")
    for count in (-1, -(2**63), bounds.MESSAGE_COUNT_MAX + 1, 2**63 - 1):
        yield field("message_count", count)


def limit(
    name: str, change: Callable[[Any], object], field: str, reason: str = "INVALID_FIELD"
) -> Case:
    return name, with_limit(change), f"inline_limits[0].{field}", reason


def rolling(seconds: int, nanos: int = 0) -> Callable[[Any], None]:
    def change(limit: Any) -> None:
        limit.cap.window.rolling.seconds = seconds
        limit.cap.window.rolling.nanos = nanos

    return change


def calendar(unit: int, zone: str = "UTC", count: int = 1) -> Callable[[Any], None]:
    def change(limit: Any) -> None:
        limit.cap.window.calendar.unit = unit
        limit.cap.window.calendar.time_zone = zone
        limit.cap.window.calendar.count = count

    return change


def inline_cases() -> Iterator[Case]:
    window = "cap.window.rolling"
    for name, seconds, nanos in [
        ("window of nothing", 0, 0),
        ("window below a millisecond", 0, 1),
        ("window between milliseconds", 1, 1),
        ("negative window", -1, 0),
        ("window with two signs", 1, -1_000_000),
        ("window with too many nanos", 1, 1_000_000_000),
        ("window of 62 days and more", 62 * 86_400, 1_000_000),
        ("endless window", 2**62, 0),
    ]:
        yield limit(name, rolling(seconds, nanos), window)
    yield limit(
        "no window", lambda limit: limit.cap.ClearField("window"), "cap.window", "MISSING_FIELD"
    )
    day = policy_pb2.CALENDAR_UNIT_DAY
    yield limit("no unit", calendar(0), "cap.window.calendar.unit", "MISSING_FIELD")
    yield limit("unknown unit", calendar(UNKNOWN_NUMBER), "cap.window.calendar.unit")
    for zone in ("Europe/Bonn", "../etc/passwd", "x" * 65, "\x00"):
        yield limit(f"zone {zone[:9]!r}", calendar(day, zone), "cap.window.calendar.time_zone")
    yield limit("zone RECIPIENT", calendar(day, "RECIPIENT"), "cap.window.calendar.time_zone")
    for count in (-1, 63, 2**31 - 1):
        yield limit(f"{count} days", calendar(day, count=count), "cap.window.calendar.count")
    yield limit("no measure", setting("cap.measure", 0), "cap.measure", "MISSING_FIELD")
    yield limit("unknown measure", setting("cap.measure", UNKNOWN_NUMBER), "cap.measure")
    for count in (-1, -(2**63), bounds.CAP_MAX_COUNT_MAX + 1, 2**63 - 1):
        yield limit(f"max_count {count}", setting("cap.max_count", count), "cap.max_count")
    contact = attempt_pb2.DIMENSION_CONTACT
    yield limit(
        "per nothing known", lambda limit: limit.cap.per.append(0), "cap.per[0]", "MISSING_FIELD"
    )
    yield limit("per unknown", lambda limit: limit.cap.per.append(UNKNOWN_NUMBER), "cap.per[0]")
    yield limit("per the measured", lambda limit: limit.cap.per.append(contact), "cap.per[0]")
    yield limit("per twice", lambda limit: limit.cap.per.extend([3, 3]), "cap.per[1]")
    yield limit("no rule", lambda limit: limit.ClearField("cap"), "cap", "MISSING_FIELD")
    yield limit("no id", setting("limit_id", ""), "limit_id", "MISSING_FIELD")
    for text in ("A", "1a", "a-", "a_b", "a" * 64, "é"):
        yield limit(f"id {text[:9]!r}", setting("limit_id", text), "limit_id")
    yield limit("unknown enforcement", setting("enforcement", UNKNOWN_NUMBER), "enforcement")
    yield limit("pause", lambda limit: limit.pause.SetInParent(), "pause.duration", "MISSING_FIELD")
    yield limit("hours", lambda limit: limit.hours.SetInParent(), "hours.ranges", "MISSING_FIELD")
    yield limit("ramp", lambda limit: limit.cap.ramp.SetInParent(), "cap.ramp", "MISSING_FIELD")

    def condition(**fields: Any) -> Callable[[Any], None]:
        def change(limit: Any) -> None:
            limit.applies_to.conditions.add(**fields)

        return change

    at = "applies_to.conditions[0]"
    yield limit("no dimension", condition(values=["x"]), f"{at}.dimension", "MISSING_FIELD")
    yield limit(
        "unknown dimension",
        condition(dimension=UNKNOWN_NUMBER, values=["x"]),
        f"{at}.dimension",
    )
    yield limit("no values", condition(dimension=3), f"{at}.values", "MISSING_FIELD")
    yield limit("empty value", condition(dimension=3, values=[""]), f"{at}.values[0]")
    yield limit("long value", condition(dimension=3, values=["x" * 257]), f"{at}.values[0]")
    yield limit(
        "many values",
        condition(dimension=3, values=[str(number) for number in range(65)]),
        f"{at}.values",
    )

    def many(request: Any) -> None:
        for number in range(bounds.INLINE_LIMITS_MAX + 1):
            request.inline_limits.add().CopyFrom(cap(5, limit_id=f"l{number}"))

    yield "too many inline limits", many, "inline_limits", "INVALID_FIELD"


def batch_cases(method: str) -> Iterator[Case]:
    def recipient(name: str, value: str, reason: str = "INVALID_FIELD") -> Case:
        def spoil(request: Any) -> None:
            setattr(request.recipients[1], name, value)

        return f"recipient.{name}", spoil, f"recipients[1].{name}", reason

    yield (
        "no recipients",
        lambda request: request.ClearField("recipients"),
        "recipients",
        "INVALID_FIELD",
    )
    for name, limit_bytes in [
        ("contact", bounds.LABEL_BYTES_MAX),
        ("address", bounds.LABEL_BYTES_MAX),
        ("reference", bounds.REFERENCE_BYTES_MAX),
        ("contact_time_zone", bounds.LABEL_BYTES_MAX),
        ("request_id", bounds.REQUEST_ID_BYTES_MAX),
    ]:
        yield recipient(name, "x" * (limit_bytes + 1))
    yield recipient("contact_time_zone", "Europe/Bonn")
    yield "unknown atomicity", setting("atomicity", UNKNOWN_NUMBER), "atomicity", "INVALID_FIELD"

    def many(request: Any) -> None:
        for _ in range(bounds.BATCH_RECIPIENTS_MAX - 1):
            request.recipients.add(contact="c")

    yield "too many recipients", many, "recipients", "INVALID_FIELD"
    if method == "CommitBatch":

        def twice(request: Any) -> None:
            for each in request.recipients:
                each.request_id = "same"

        yield "one id for two", twice, "recipients[1].request_id", "REQUEST_ID_REUSED"


def recorded(seconds: int) -> Callable[[Any], None]:
    """Turns a commit into the record of a message that went out then."""

    def spoil(request: Any) -> None:
        request.mode = decision_service_pb2.COMMIT_MODE_RECORD
        request.event_time.FromSeconds(seconds)

    return spoil


def cases(method: str) -> Iterator[Case]:
    """All ways to spoil a request of the method."""
    yield from attempt_cases(method)
    if method != "GetUsage":
        yield "unknown view", setting("view", UNKNOWN_NUMBER), "view", "INVALID_FIELD"
        yield "negative view", setting("view", -1), "view", "INVALID_FIELD"
    if method in COMMITS:
        long_id = "x" * (bounds.REQUEST_ID_BYTES_MAX + 1)
        yield "long request_id", setting("request_id", long_id), "request_id", "INVALID_FIELD"
    if method == "Commit":
        yield "unknown mode", setting("mode", UNKNOWN_NUMBER), "mode", "INVALID_FIELD"
        yield (
            "event time of a decision",
            lambda request: request.event_time.FromSeconds(1),
            "event_time",
            "INVALID_FIELD",
        )
        yield "event time in the future", recorded(4_000_000_000), "event_time", "INVALID_FIELD"
        yield "event time of long ago", recorded(1), "event_time", "INVALID_FIELD"
        yield (
            "hold of two hours",
            lambda request: request.hold_duration.FromSeconds(7_200),
            "hold_duration",
            "INVALID_FIELD",
        )
    if method in BATCHES:
        yield from batch_cases(method)


async def problem_of(call: Any, field: str, reason: str) -> str:
    """How the refusal of a call differs from what it should be; empty if it does not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            return f"{error.code()}: {error.details()}"
        fault = fault_of(error)
        if (set(fault.fields), fault.reason) != ({field}, reason):
            return f"{fault.reason} {set(fault.fields)}: {fault.message}"
        if not fault.fields[field] or field not in fault.message:
            return f"does not say what: {fault.message}"
        return ""
    return "accepted"


@pytest.mark.parametrize("method", HOT)
async def test_every_field_of_the_hot_methods(tmp_path: Path, method: str) -> None:
    problems = []
    count = 0
    async with serving(tmp_path / "data") as inside:
        call = getattr(inside.decisions, method)
        await call(sound(method))
        for name, spoil, field, reason in cases(method):
            request = sound(method)
            spoil(request)
            count += 1
            if problem := await problem_of(call(request), field, reason):
                problems.append(f"{name} ({field}, {reason}): {problem}")
        await call(sound(method))
    assert not problems, "\n".join(problems)
    assert count > 25


@pytest.mark.parametrize("method", ["Check", "Commit", "CheckBatch", "CommitBatch"])
async def test_every_field_of_an_inline_limit(tmp_path: Path, method: str) -> None:
    problems = []
    async with serving(tmp_path / "data") as inside:
        call = getattr(inside.decisions, method)
        for name, spoil, field, reason in inline_cases():
            request = sound(method)
            spoil(request)
            if problem := await problem_of(call(request), field, reason):
                problems.append(f"{name} ({field}, {reason}): {problem}")
        request = sound(method)
        request.inline_limits.add().CopyFrom(cap(5))
        await call(request)
    assert not problems, "\n".join(problems)


async def test_a_refused_request_counts_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await inside.policies.ApplyPolicies(
            policy_service_pb2.ApplyPoliciesRequest(
                policies=[policy_pb2.Policy(name="policies/p", limits=[cap(1_000)])],
                assignments=[policy_pb2.Assignment(name="assignments/p", policy="policies/p")],
            )
        )
        for method in COMMITS:
            for _, spoil, _, _ in [*cases(method), *inline_cases()]:
                request = sound(method)
                spoil(request)
                with pytest.raises(grpc.aio.AioRpcError):
                    await getattr(inside.decisions, method)(request)
        usage = await inside.decisions.GetUsage(sound("GetUsage"))
        assert usage.limit_statuses[0].used_count == 0


def garbage(generator: random.Random) -> Iterator[bytes]:
    """Bytes that are no request, and requests with bytes changed, cut or doubled."""
    yield from (b"\xff", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x0f")
    for _ in range(60):
        yield generator.randbytes(generator.randrange(1, 200))
    whole = sound("Commit")
    whole.inline_limits.add().CopyFrom(cap(5))
    data = whole.SerializeToString()
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield bytes(changed[: generator.randrange(1, len(changed) + 1)])


@pytest.mark.parametrize("method", [*HOT, "CommitStream"])
async def test_garbage_is_refused_and_the_server_lives_on(
    tmp_path: Path, method: str, rng: random.Random
) -> None:
    path = f"/limiter.v1.DecisionService/{method}"
    codes: dict[grpc.StatusCode, bytes] = {}
    async with serving(tmp_path / "data") as inside:
        channel: Any = inside.channel
        for request in garbage(rng):
            try:
                if method == "CommitStream":
                    stream = channel.stream_stream(path)()
                    await stream.write(request)
                    await stream.read()
                    stream.cancel()
                else:
                    await channel.unary_unary(path)(request)
            except grpc.aio.AioRpcError as error:
                codes.setdefault(fault_of(error).code, request)
        assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}, codes
        await inside.decisions.Check(sound("Check"))


async def test_garbage_for_the_policy_service(tmp_path: Path, rng: random.Random) -> None:
    service = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"]
    codes: dict[grpc.StatusCode, tuple[str, bytes]] = {}
    async with serving(tmp_path / "data") as inside:
        channel: Any = inside.channel
        for method in service.methods:
            if not any(hasattr(each.servicer, method.name) for each in cold.SERVICES):
                continue
            call = channel.unary_unary(f"/{service.full_name}/{method.name}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff")
            assert fault_of(caught.value).reason == "MALFORMED_REQUEST"
            for request in garbage(rng):
                try:
                    await call(request)
                except grpc.aio.AioRpcError as error:
                    codes.setdefault(fault_of(error).code, (method.name, request))
        # Some of it may read like the name of something that does not exist.
        assert grpc.StatusCode.INVALID_ARGUMENT in codes
        assert set(codes) <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, codes
        await inside.decisions.Check(sound("Check"))


async def test_a_message_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        channel: Any = inside.channel
        call = channel.unary_unary("/limiter.v1.DecisionService/Check")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(bytes(bounds.MESSAGE_BYTES_MAX + 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await inside.decisions.Check(sound("Check"))


async def test_fields_of_the_future_are_skipped(tmp_path: Path) -> None:
    """Unknown fields anywhere do not change the decision: old servers serve new clients."""
    async with serving(tmp_path / "data") as inside:
        plain: Message = sound("Check")
        channel: Any = inside.channel
        call = channel.unary_unary("/limiter.v1.DecisionService/Check")
        # Field 1000 as a varint, as bytes, as 64 and as 32 bits.
        unknown = bytes.fromhex("c03e2a" + "c23e03616263" + "c13e0102030405060708" + "c53e01020304")
        first = await call(plain.SerializeToString())
        assert await call(plain.SerializeToString() + unknown) == first
        attempt = sound("Check").attempt.SerializeToString() + unknown
        nested = b"\x0a" + bytes([len(attempt)]) + attempt
        reply = decision_service_pb2.CheckResponse.FromString(await call(nested))
        assert reply.decision.outcome == decision_pb2.OUTCOME_ALLOWED


async def create(inside: Inside, **fields: Any) -> Any:
    request = policy_service_pb2.CreatePolicyRequest(policy_id="p")
    request.policy.limits.add().CopyFrom(cap(5))
    for path, value in fields.items():
        setting(path.replace("__", "."), value)(request)
    return await inside.policies.CreatePolicy(request)


async def test_every_field_of_a_limit_in_a_policy(tmp_path: Path) -> None:
    """The rules of inline limits hold for those of policies, under the path in that request."""
    problems = []
    async with serving(tmp_path / "data") as inside:
        for name, spoil, field, reason in inline_cases():
            if not field.startswith("inline_limits[0]."):
                continue
            bearer = sound("Check")
            spoil(bearer)
            request = policy_service_pb2.CreatePolicyRequest(policy_id="p")
            request.policy.limits.extend(bearer.inline_limits)
            path = field.replace("inline_limits[0]", "policy.limits[0]")
            call = inside.policies.CreatePolicy(request)
            if problem := await problem_of(call, path, reason):
                problems.append(f"{name} ({path}, {reason}): {problem}")
        listed = await inside.policies.ListPolicies(policy_service_pb2.ListPoliciesRequest())
        assert list(listed.policies) == []
    assert not problems, "\n".join(problems)
