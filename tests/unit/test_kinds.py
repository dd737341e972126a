"""From limits to the core's objects: one kind for each definition, and inline limits by field."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
from hypothesis import given

from benchmarks.workload import START_MS, Engine, assign, commit_request
from limiter import bounds, errors, kinds
from limiter.model import CalendarUnit, CalendarWindow, Condition, Dimension, Limit, RollingWindow
from limiter.service import conversion
from limiter.v1 import decision_pb2, decision_service_pb2, policy_pb2
from tests.unit import policy_examples as examples

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED


@examples.few
@given(examples.limits(counting=True))
def test_a_definition_has_one_kind_while_somebody_holds_it(limit: Limit) -> None:
    kind = examples.kind_of(limit)
    assert kinds.define_kind(kind.definition) is kind
    assert kinds.kind_of(replace(limit, limit_id="other")) is kind
    assert kinds.compile_rule("policies/p", limit).kind is kind


def test_a_kind_that_nobody_holds_is_forgotten() -> None:
    limit = examples.limit(window=RollingWindow(123_457))
    definition = examples.kind_of(limit).definition
    gc.collect()
    assert definition not in kinds._kinds
    assert kinds.define_kind(definition).definition == definition


def test_bytes_that_define_no_kind() -> None:
    with pytest.raises(ValueError, match="not a kind of counter"):
        kinds.define_kind(b"\xff")


def test_windows_are_compiled() -> None:
    rolling = examples.kind_of(examples.limit(window=RollingWindow(1000))).window
    assert (rolling.first_ms(5000), rolling.exit_ms(5000)) == (4001, 6000)
    days = examples.kind_of(
        examples.limit(window=CalendarWindow(CalendarUnit.DAY, "Europe/Berlin", 2))
    ).window
    # 1970-01-02 began in Berlin at 23:00 UTC.
    assert days.first_ms(2 * bounds.DAY_MS) == bounds.DAY_MS - bounds.HOUR_MS
    assert days.exit_ms(bounds.DAY_MS) == 3 * bounds.DAY_MS - bounds.HOUR_MS


def serialized(limit: Limit) -> bytes:
    return conversion.limit_to_message(limit).SerializeToString()


def test_an_inline_limit_is_compiled() -> None:
    limit = replace(examples.limit(), counts=(Condition(Dimension.TEAM, ("b", "a")),))
    rule = kinds.compile_inline(serialized(limit))
    assert rule.kind is kinds.kind_of(limit)


@pytest.mark.parametrize(
    ("limit_bytes", "field", "reason"),
    [
        (b"\xff", "inline_limits[]", "MALFORMED_REQUEST"),
        (b"", "inline_limits[].cap", "MISSING_FIELD"),
        (serialized(examples.limit("")), "inline_limits[].limit_id", "MISSING_FIELD"),
        (
            serialized(examples.limit(window=RollingWindow(0))),
            "inline_limits[].cap.window.rolling",
            "INVALID_FIELD",
        ),
        (
            serialized(examples.limit(window=CalendarWindow(CalendarUnit.DAY, "RECIPIENT"))),
            "inline_limits[].cap.window.calendar.time_zone",
            "INVALID_FIELD",
        ),
        (
            policy_pb2.Limit(limit_id="a", pause=policy_pb2.Pause()).SerializeToString(),
            "inline_limits[].pause.duration",
            "MISSING_FIELD",
        ),
    ],
)
def test_a_broken_inline_limit_is_named_by_field(
    limit_bytes: bytes, field: str, reason: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        kinds.compile_inline(limit_bytes)
    assert caught.value.reason == reason
    (violation,) = caught.value.violations
    assert violation.field == field


def test_cores_with_keys_of_their_own_share_a_condition_on_contacts() -> None:
    """Equal kinds are one object in a process; contacts are compared under each core's own key."""
    to_ana = (Condition(Dimension.CONTACT, ("ana",)),)
    limit = replace(examples.limit(max_count=0), applies_to=to_ana)
    engines = [Engine.make(bytes([number]) * 32) for number in range(2)]
    for engine in engines:
        assign(engine.store, [limit], START_MS)
    for contact, outcome in (("ana", DENIED), ("ben", ALLOWED)) * 2:
        for engine in engines:
            reply = engine.decider.check(commit_request("acme", contact), START_MS)
            found = decision_service_pb2.CheckResponse.FromString(reply)
            assert found.decision.outcome == outcome
