"""The encoder of the hot responses, byte for byte against the protobuf library."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from limiter import _wire_inspect
from limiter.v1 import decision_pb2, decision_service_pb2

NO_TIME = -1
BASIC, FULL = 1, 2
INSTANT_MAX = 253_402_300_799_999  # the last millisecond that a Timestamp can hold

CASES_PER_EXAMPLE = 4
generators = st.randoms(use_true_random=True)


def any_instant(random: Random) -> int:
    return random.choice([NO_TIME, 0, 1, 999, 1000, random.randint(0, INSTANT_MAX), INSTANT_MAX])


def any_count(random: Random) -> int:
    return random.choice([0, 1, random.randint(2, 300), random.getrandbits(64) - 2**63])


def any_enum(random: Random) -> int:
    return random.choice([0, 1, 20, 50, random.getrandbits(32) - 2**31])


def any_text(random: Random) -> str:
    return random.choice("ax€") * random.choice([0, 1, 9, 60, 127, 128, random.randint(120, 300)])


def any_status(random: Random) -> dict[str, Any]:
    return {
        "policy": any_text(random),
        "limit_id": any_text(random),
        "reason": any_enum(random),
        "enforcement": any_enum(random),
        "exceeded": random.random() < 0.5,
        "max_count": any_count(random),
        "used_count": any_count(random),
        "remaining_count": any_count(random),
        "reset_ms": any_instant(random),
        "counted_since_ms": any_instant(random),
    }


def any_statuses(random: Random) -> list[dict[str, Any]]:
    return [any_status(random) for _ in range(random.randrange(5))]


def any_decision(random: Random) -> dict[str, Any]:
    results = any_statuses(random)
    return {
        "outcome": any_enum(random),
        "reason": any_enum(random),
        "binding": random.randint(-1, len(results) - 1),
        "results": results,
        "retry_ms": any_instant(random),
        "decide_ms": any_instant(random),
    }


def any_commit(random: Random) -> dict[str, Any]:
    return {
        "decision": any_decision(random),
        "view": random.choice([BASIC, FULL]),
        "position": random.choice([0, 1, random.getrandbits(63)]),
        "sequence": any_count(random),
        "replayed": random.random() < 0.5,
    }


def any_result(random: Random) -> dict[str, Any]:
    result = {**any_commit(random), "reference": any_text(random)}
    if random.random() < 0.3:
        result |= {"decision": None, "position": 0, "replayed": False}
        result["opted_out"] = random.random() < 0.5
    return result


def set_time(message: Any, field: str, at_ms: int) -> None:
    if at_ms == NO_TIME:
        return
    seconds, rest_ms = divmod(at_ms, 1000)
    getattr(message, field).CopyFrom(Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000))


def status_of(values: dict[str, Any]) -> decision_pb2.LimitStatus:
    plain = {name: value for name, value in values.items() if not name.endswith("_ms")}
    status = decision_pb2.LimitStatus(**plain)
    set_time(status, "reset_time", values["reset_ms"])
    set_time(status, "counted_since_time", values["counted_since_ms"])
    return status


def decision_of(values: dict[str, Any], view: int) -> decision_pb2.Decision:
    decision = decision_pb2.Decision(outcome=values["outcome"], reason=values["reason"])
    all_statuses = [status_of(one) for one in values["results"]]
    if values["binding"] >= 0:
        decision.binding_limit.CopyFrom(all_statuses[values["binding"]])
    if view == FULL:
        decision.limit_statuses.extend(all_statuses)
    set_time(decision, "retry_time", values["retry_ms"])
    set_time(decision, "decide_time", values["decide_ms"])
    return decision


def commit_id_of(position: int) -> str:
    return f"0000{position:016x}" if position else ""


def assert_encoded_alike(message: str, values: dict[str, Any], expected: Any) -> None:
    data = _wire_inspect.compose(message, values)
    assert type(expected).FromString(data) == expected
    assert data == expected.SerializeToString(deterministic=True)


@given(generators)
def test_check_responses_are_encoded_alike(random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        decision, view = any_decision(random), random.choice([BASIC, FULL])
        expected = decision_service_pb2.CheckResponse(decision=decision_of(decision, view))
        assert_encoded_alike("CheckResponse", {"decision": decision, "view": view}, expected)


@given(generators)
def test_commit_responses_are_encoded_alike(random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        commit = any_commit(random)
        expected = decision_service_pb2.CommitResponse(
            decision=decision_of(commit["decision"], commit["view"]),
            commit_id=commit_id_of(commit["position"]),
            account_sequence=commit["sequence"] if commit["position"] else 0,
            replayed=commit["replayed"],
        )
        assert_encoded_alike("CommitResponse", commit, expected)


def assert_batch_encoded_alike(batch: list[dict[str, Any]], totals: list[int]) -> None:
    expected = decision_service_pb2.CommitBatchResponse(
        accepted_count=totals[0],
        denied_count=totals[1],
        duplicate_count=totals[2],
        opted_out_count=totals[3],
    )
    for result in batch:
        entry = expected.results.add(
            reference=result["reference"],
            commit_id=commit_id_of(result["position"]),
            duplicate=result["decision"] is None and not result["opted_out"],
            opted_out=result.get("opted_out", False),
            account_sequence=result["sequence"] if result["position"] else 0,
            replayed=result["replayed"],
        )
        if result["decision"] is not None:
            entry.decision.CopyFrom(decision_of(result["decision"], result["view"]))
    assert_encoded_alike("CommitBatchResponse", {"results": batch, "counts": totals}, expected)


@given(generators)
def test_batch_responses_are_encoded_alike(random: Random) -> None:
    batch = [any_result(random) for _ in range(random.randrange(8))]
    assert_batch_encoded_alike(batch, [any_count(random) for _ in range(4)])


def test_an_empty_batch_response_is_empty() -> None:
    assert_batch_encoded_alike([], [0, 0, 0, 0])


def test_a_check_batch_is_encoded_as_a_commit_batch_without_commits() -> None:
    """Both responses have the same fields, so that one writer serves both."""
    check = decision_service_pb2.CheckBatchResponse.DESCRIPTOR
    commit = decision_service_pb2.CommitBatchResponse.DESCRIPTOR
    assert [(one.name, one.number) for one in check.fields] == [
        (one.name, one.number) for one in commit.fields
    ]


@given(generators)
def test_usage_responses_are_encoded_alike(random: Random) -> None:
    for _ in range(CASES_PER_EXAMPLE):
        usage = any_statuses(random)
        expected = decision_service_pb2.GetUsageResponse(
            limit_statuses=[status_of(one) for one in usage]
        )
        assert_encoded_alike("GetUsageResponse", {"results": usage}, expected)


def status(size: int) -> dict[str, Any]:
    return {
        "policy": "p" * size,
        "limit_id": "day",
        "reason": 20,
        "enforcement": 1,
        "exceeded": True,
        "max_count": 200,
        "used_count": 200,
        "remaining_count": 0,
        "reset_ms": 1_700_000_000_123,
        "counted_since_ms": NO_TIME,
    }


@pytest.mark.parametrize("size", [0, 1, 60, 100, 127, 128, 129, 16_300, 16_384, 2_100_000])
def test_sizes_of_every_length_stand_before_their_message(size: int) -> None:
    decision = {
        "outcome": 2,
        "reason": 20,
        "binding": 0,
        "results": [status(size)],
        "retry_ms": 0,
        "decide_ms": 0,
    }
    expected = decision_service_pb2.CheckResponse(decision=decision_of(decision, FULL))
    assert_encoded_alike("CheckResponse", {"decision": decision, "view": FULL}, expected)


def test_a_buffer_that_grew_large_goes_on() -> None:
    usage = [status(2_000) for _ in range(3_000)]
    expected = decision_service_pb2.GetUsageResponse(
        limit_statuses=[status_of(one) for one in usage]
    )
    for _ in range(2):
        assert_encoded_alike("GetUsageResponse", {"results": usage}, expected)
        assert_encoded_alike(
            "GetUsageResponse", {"results": []}, decision_service_pb2.GetUsageResponse()
        )


def test_a_response_that_was_given_up_leaves_nothing_behind() -> None:
    whole = {
        "reference": "one",
        "decision": None,
        "view": BASIC,
        "position": 0,
        "sequence": 0,
        "replayed": False,
    }
    with pytest.raises(KeyError):
        _wire_inspect.compose("CommitBatchResponse", {"results": [whole, {"reference": "two"}]})
    expected = decision_service_pb2.GetUsageResponse()
    assert_encoded_alike("GetUsageResponse", {"results": []}, expected)


def test_unset_times_differ_from_the_first_instant() -> None:
    decision = {
        "outcome": 1,
        "reason": 1,
        "binding": -1,
        "results": [],
        "retry_ms": NO_TIME,
        "decide_ms": 0,
    }
    data = _wire_inspect.compose("CheckResponse", {"decision": decision, "view": BASIC})
    read = decision_service_pb2.CheckResponse.FromString(data).decision
    assert not read.HasField("retry_time")
    assert read.HasField("decide_time")
    assert read.decide_time == Timestamp()


def test_a_binding_limit_must_be_among_the_results() -> None:
    decision = {
        "outcome": 2,
        "reason": 20,
        "binding": 1,
        "results": [status(1)],
        "retry_ms": NO_TIME,
        "decide_ms": 0,
    }
    with pytest.raises(ValueError, match="binding 1"):
        _wire_inspect.compose("CheckResponse", {"decision": decision, "view": BASIC})


def test_unknown_messages_are_not_guessed() -> None:
    with pytest.raises(KeyError):
        _wire_inspect.compose("CommitRequest", {})


def test_repetition_is_the_same_work() -> None:
    commit = {
        "decision": {
            "outcome": 1,
            "reason": 1,
            "binding": -1,
            "results": [],
            "retry_ms": NO_TIME,
            "decide_ms": 5,
        },
        "view": BASIC,
        "position": 255,
        "sequence": 1,
        "replayed": False,
    }
    data = _wire_inspect.compose("CommitResponse", commit)
    assert decision_service_pb2.CommitResponse.FromString(data).commit_id == "0" * 18 + "ff"
    assert _wire_inspect.encode_repeatedly(commit, 3) == 3 * len(data)
    request = decision_service_pb2.CheckRequest()
    request.attempt.account = "a"
    request.attempt.contact = "b"
    encoded = request.SerializeToString()
    assert _wire_inspect.decode_repeatedly("CheckRequest", encoded, 4) == 4 * len(encoded)
