"""Messages to the domain and back: nothing is lost, and what has no meaning is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from limiter import errors, model
from limiter.model import (
    Assignment,
    CalendarUnit,
    CalendarWindow,
    Condition,
    CounterKind,
    Dimension,
    Limit,
    Measure,
    Policy,
    RollingWindow,
)
from limiter.service import conversion
from limiter.v1 import policy_pb2
from tests.unit import policy_examples as examples

times = st.integers(0, 4_133_980_799_999)


@examples.few
@given(examples.policies(), times, times, st.text("0af", max_size=4))
def test_a_policy_survives_the_way_there_and_back(
    policy: Policy, create_ms: int, update_ms: int, etag: str
) -> None:
    stored = replace(policy, etag=etag, create_ms=create_ms, update_ms=update_ms)
    message = policy_pb2.Policy.FromString(conversion.policy_to_message(stored).SerializeToString())
    assert conversion.ms_from_timestamp(message.create_time) == create_ms
    assert conversion.ms_from_timestamp(message.update_time) == update_ms
    assert conversion.policy_from_message(message, "policy") == replace(policy, etag=etag)


@examples.few
@given(examples.assignments(), times)
def test_an_assignment_survives_the_way_there_and_back(
    assignment: Assignment, create_ms: int
) -> None:
    stored = replace(assignment, etag="e", create_ms=create_ms)
    message = policy_pb2.Assignment.FromString(
        conversion.assignment_to_message(stored).SerializeToString()
    )
    assert message.state == policy_pb2.ASSIGNMENT_STATE_ACTIVE
    assert conversion.ms_from_timestamp(message.create_time) == create_ms
    assert not message.HasField("update_time")
    assert conversion.assignment_from_message(message) == replace(assignment, etag="e")


@examples.few
@given(
    st.lists(examples.policies(), max_size=2),
    st.lists(examples.assignments(), max_size=2),
    st.lists(examples.ids, max_size=2),
    times,
)
def test_a_revision_survives_the_journal(
    policies: list[Policy], assignments: list[Assignment], deleted: list[str], time_ms: int
) -> None:
    revision = model.Revision(
        number=7,
        time_ms=time_ms,
        put_policies=tuple(
            replace(each, etag="p", create_ms=1, update_ms=time_ms) for each in policies
        ),
        put_assignments=tuple(
            replace(each, etag="a", create_ms=2, update_ms=time_ms) for each in assignments
        ),
        deleted_policies=tuple(deleted),
        deleted_assignments=("x",),
    )
    payload = conversion.revision_to_bytes(revision)
    assert conversion.revision_from_bytes(payload) == revision
    assert conversion.revision_to_bytes(revision) == payload


@pytest.mark.parametrize("payload", [b"\xff", b"\x1a\x02\x1a\x00"])
def test_bytes_that_are_no_revision(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a policy revision"):
        conversion.revision_from_bytes(payload)


# --- Defaults -------------------------------------------------------------------------------------


def read_limit(text: str) -> Limit:
    return conversion.limit_from_message(text_format.Parse(text, policy_pb2.Limit()), "limit")


SOUND = """
    limit_id: "day"
    cap { measure: MEASURE_CONTACTS max_count: 200 window { rolling { seconds: 86400 } } }
    enforcement: ENFORCEMENT_ENFORCED
"""


def test_a_limit_as_a_client_writes_it() -> None:
    assert read_limit(SOUND) == examples.limit("day", 200, Measure.CONTACTS)
    assert read_limit(SOUND + "applies_to {}") == read_limit(SOUND)


def test_counts_present_and_empty_is_not_counts_left_out() -> None:
    queue = 'applies_to { conditions { dimension: DIMENSION_SOURCE values: "queue" } }'
    same = read_limit(SOUND + queue)
    everything = read_limit(SOUND + queue + "counts {}")
    assert same.counts is None
    assert examples.described_kind_of(same).counts == (Condition(Dimension.SOURCE, ("queue",)),)
    assert everything.counts == ()
    assert examples.described_kind_of(everything).counts == ()


def test_what_a_calendar_leaves_out_has_a_default() -> None:
    text = SOUND.replace("rolling { seconds: 86400 }", "calendar { unit: CALENDAR_UNIT_DAY }")
    assert examples.cap_of(read_limit(text)).window == CalendarWindow(CalendarUnit.DAY, "UTC", 1)


# --- What has no meaning --------------------------------------------------------------------------

PAUSE = "pause { after_count: 3 }"
CAP = SOUND[SOUND.index("cap") : SOUND.index("enforcement")]


@pytest.mark.parametrize(
    ("edit", "field", "reason"),
    [
        (lambda text: text.replace(CAP, ""), "cap", "MISSING_FIELD"),
        (lambda text: text.replace(CAP, "cap {}"), "cap.measure", "MISSING_FIELD"),
        (lambda text: text.replace(CAP, PAUSE), "pause.duration", "MISSING_FIELD"),
        (
            lambda text: text.replace(CAP, "hours { ranges { days: 8 } }"),
            "hours.ranges[0].days[0]",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace(CAP, "hours { ranges { days: 0 } }"),
            "hours.ranges[0].days[0]",
            "MISSING_FIELD",
        ),
        (
            lambda text: text.replace("max_count", "ramp {} max_count"),
            "cap.ramp",
            "MISSING_FIELD",
        ),
        (lambda text: text.replace("MEASURE_CONTACTS", "4"), "cap.measure", "INVALID_FIELD"),
        (lambda text: text.replace("MEASURE_CONTACTS", "-1"), "cap.measure", "INVALID_FIELD"),
        (
            lambda text: text.replace("max_count", "per: DIMENSION_TEAM per: 10 max_count"),
            "cap.per[1]",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("max_count", "per: DIMENSION_UNSPECIFIED max_count"),
            "cap.per[0]",
            "MISSING_FIELD",
        ),
        (
            lambda text: text.replace("max_count", "per: DIMENSION_TEAM " * 10 + " max_count"),
            "cap.per",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("window { rolling { seconds: 86400 } }", ""),
            "cap.window",
            "MISSING_FIELD",
        ),
        (
            lambda text: text.replace("rolling { seconds: 86400 }", ""),
            "cap.window",
            "MISSING_FIELD",
        ),
        (
            lambda text: text.replace("seconds: 86400", "nanos: 1500000"),
            "cap.window.rolling",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("seconds: 86400", "seconds: 1 nanos: -5000000"),
            "cap.window.rolling",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("seconds: 86400", "nanos: 1000000000"),
            "cap.window.rolling",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("rolling { seconds: 86400 }", "calendar {}"),
            "cap.window.calendar.unit",
            "MISSING_FIELD",
        ),
        (
            lambda text: text.replace("rolling { seconds: 86400 }", "calendar { unit: 5 }"),
            "cap.window.calendar.unit",
            "INVALID_FIELD",
        ),
        (
            lambda text: text.replace("ENFORCEMENT_ENFORCED", "0"),
            "enforcement",
            "MISSING_FIELD",
        ),
        (lambda text: text.replace("ENFORCEMENT_ENFORCED", "9"), "enforcement", "INVALID_FIELD"),
        (
            lambda text: text + 'applies_to { conditions { values: "x" } }',
            "applies_to.conditions[0].dimension",
            "MISSING_FIELD",
        ),
        (
            lambda text: text + "counts { " + "conditions { dimension: DIMENSION_TEAM }" * 17 + "}",
            "counts.conditions",
            "INVALID_FIELD",
        ),
    ],
)
def test_what_has_no_meaning_is_named_by_field(
    edit: Callable[[str], str], field: str, reason: str
) -> None:
    text = edit(SOUND)
    assert text != SOUND
    with pytest.raises(errors.InvalidArgument) as caught:
        read_limit(text)
    assert caught.value.reason == reason
    (violation,) = caught.value.violations
    assert violation.field == f"limit.{field}"


def test_an_unknown_number_gets_the_known_names() -> None:
    with pytest.raises(errors.InvalidArgument, match="7 is not a known number; set one of E"):
        read_limit(SOUND.replace("ENFORCEMENT_ENFORCED", "7"))


def test_a_policy_names_the_place_of_its_limit() -> None:
    message = policy_pb2.Policy(name="policies/p")
    message.limits.add().CopyFrom(text_format.Parse(SOUND, policy_pb2.Limit()))
    message.limits.add(limit_id="empty")
    with pytest.raises(errors.InvalidArgument) as caught:
        conversion.policy_from_message(message, "policies[3]")
    assert caught.value.violations[0].field == "policies[3].limits[1].cap"


@pytest.mark.parametrize(
    ("policy", "groups", "index"),
    [
        ("policies/p", ["accounts/a/groups/g"], 0),
        ("accounts/a/policies/p", ["accounts/b/groups/g"], 0),
        ("accounts/a/policies/p", ["groups/g"], 0),
        ("accounts/a/policies/p", ["accounts/a/groups/g", "accounts/a/policies/p"], 1),
        ("accounts/a/policies/p", ["accounts/a/groups/g"] * 2, 1),
    ],
)
def test_access_groups_are_different_ones_of_the_policys_account(
    policy: str, groups: list[str], index: int
) -> None:
    message = policy_pb2.Policy(name=policy, access_groups=groups)
    read = conversion.policy_from_message(message, "policy")
    assert conversion.policy_to_message(read) == message
    with pytest.raises(errors.InvalidArgument) as caught:
        read.check("policy")
    assert caught.value.violations[0].field == f"policy.access_groups[{index}]"


# --- Kinds ----------------------------------------------------------------------------------------


@examples.few
@given(examples.limits(counting=True))
def test_a_kind_survives_as_bytes(limit: Limit) -> None:
    definition = conversion.kind_to_bytes(examples.described_kind_of(limit))
    assert conversion.kind_from_bytes(definition) == limit.kind


@examples.few
@given(examples.limits(counting=True), examples.limits(counting=True))
def test_only_equal_kinds_have_equal_bytes(one: Limit, other: Limit) -> None:
    kinds = [examples.described_kind_of(each) for each in (one, other)]
    first, second = (conversion.kind_to_bytes(kind) for kind in kinds)
    assert (first == second) == (kinds[0] == kinds[1])


def test_the_bytes_of_a_kind_never_change() -> None:
    # They identify counters in journals that exist: a change would orphan those.
    kind = CounterKind(
        Measure.MESSAGES,
        (Dimension.CONTACT, Dimension.CHANNEL),
        RollingWindow(86_400_500),
        (Condition(Dimension.CATEGORY, ("a", "b"), negate=True),),
    )
    assert conversion.kind_to_bytes(kind).hex() == (
        "0a1408011a020103220c0a0a0880a3051080cab5ee01120c0a0a08091201611201621801"
    )


@pytest.mark.parametrize(
    "kind",
    [
        CounterKind(Measure.MESSAGES, (Dimension.TEAM, Dimension.CONTACT), RollingWindow(5), ()),
        CounterKind(
            Measure.MESSAGES,
            (),
            RollingWindow(5),
            (Condition(Dimension.TEAM, ("b", "a")),),
        ),
    ],
)
def test_bytes_that_are_not_canonical_define_no_kind(kind: CounterKind) -> None:
    with pytest.raises(ValueError, match="canonical"):
        conversion.kind_from_bytes(conversion.kind_to_bytes(kind))


@pytest.mark.parametrize("definition", [b"", b"\xff\xff", b"\x0a\x00"])
def test_bytes_that_define_nothing(definition: bytes) -> None:
    with pytest.raises(ValueError, match="not a kind"):
        conversion.kind_from_bytes(definition)
