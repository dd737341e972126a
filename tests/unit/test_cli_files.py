"""Policy files: what is right becomes messages, what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import SIZE_MAX_BYTES, load_limits, load_policy_file
from limiter.cli.inline import parse_limit
from limiter.v1 import attempt_pb2, policy_pb2

GOOD = """\
policies:
  - name: policies/a
    displayName: "200"
    limits:
      - limitId: people
        cap:
          measure: MEASURE_CONTACTS
          maxCount: 200
          window: {rolling: 86400s}
        counts: {}
        enforcement: ENFORCEMENT_ENFORCED
      - limit_id: day
        cap:
          measure: MEASURE_MESSAGES
          max_count: "50"
          per: [DIMENSION_CAMPAIGN]
          window: {calendar: {unit: CALENDAR_UNIT_DAY, timeZone: Europe/Berlin, count: 2}}
        appliesTo: {conditions: [{dimension: DIMENSION_SOURCE, values: [queue], negate: true}]}
        enforcement: ENFORCEMENT_GOAL
assignments:
  - name: assignments/a
    policy: policies/a
    mandatory: true
    scope: null
"""


def write(folder: Path, text: str, name: str = "policy.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(folder: Path, text: str, name: str = "policy.yaml") -> list[str]:
    """The lines of the error, without the file's name in front."""
    path = write(folder, text, name)
    with pytest.raises(CommandError) as caught:
        load_policy_file(path)
    assert caught.value.exit_code is ExitCode.INVALID
    return [line.removeprefix(f"{path}:") for line in caught.value.lines]


def test_a_whole_file(tmp_path: Path) -> None:
    file = load_policy_file(write(tmp_path, GOOD))
    people, day = file.policies[0].limits
    assert file.policies[0].display_name == "200"
    assert people.cap.window.rolling.seconds == 86_400
    assert people.HasField("counts")
    assert not people.HasField("applies_to")
    assert day.cap.max_count == 50
    assert list(day.cap.per) == [attempt_pb2.DIMENSION_CAMPAIGN]
    assert day.cap.window.calendar.time_zone == "Europe/Berlin"
    assert day.applies_to.conditions[0].negate
    assert file.assignments[0].mandatory
    assert not file.assignments[0].HasField("scope")


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    from_yaml = load_policy_file(write(tmp_path, GOOD))
    text = json.dumps(
        {
            "policies": [json_format.MessageToDict(each) for each in from_yaml.policies],
            "assignments": [json_format.MessageToDict(each) for each in from_yaml.assignments],
        },
        indent="\t",
    )
    from_json = load_policy_file(write(tmp_path, text, "policy.json"))
    assert from_json.policies == from_yaml.policies
    assert from_json.assignments == from_yaml.assignments


def test_fields_that_the_server_names_are_located(tmp_path: Path) -> None:
    file = load_policy_file(write(tmp_path, GOOD))
    assert file.locate("policies[0].limits[1].cap.max_count").endswith("policy.yaml:15")
    assert file.locate("policies[0].limits[1].cap.window.calendar.time_zone").endswith(":17")
    assert file.locate("policies[0].limits[0].applies_to.conditions[3].values").endswith(":5")
    assert file.locate("assignments[0]").endswith(":21")
    assert file.locate("etag") == ""
    assert file.locate("") == ""


POLICY = "policies[0]"
CAP = f"{POLICY}.limits[0].cap"
DAY = f"{POLICY}.limits[1]"
ASSIGNMENT = "assignments[0]"
DURATION = "must be a duration in seconds, such as 86400s"
WHOLE = "must be a whole number, but is"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("policies:", "polices:", "1: unknown key polices: did you mean policies?"),
        ("displayName:", "label:", f"3: {POLICY}: unknown key label: it must be one of name, "),
        ("displayName:", "displayname:", f"3: {POLICY}: unknown key displayname: did you mean "),
        ('"200"', "200", f"3: {POLICY}.display_name: must be text, but 200 reads as a number: "),
        ('"200"', "yes", f"3: {POLICY}.display_name: must be text, but yes reads as true or fal"),
        (
            '"200"',
            "2025-01-01",
            f"3: {POLICY}.display_name: must be text, but 2025-01-01 reads as a date",
        ),
        (
            "MEASURE_CONTACTS",
            "CONTACTS",
            f"7: {CAP}.measure: unknown value CONTACTS: did you mean MEASURE_CONTACTS",
        ),
        (
            "MEASURE_CONTACTS",
            "MEASURE_CONTACT",
            f"7: {CAP}.measure: unknown value MEASURE_CONTACT: did you mean ",
        ),
        (
            "MEASURE_CONTACTS",
            "7",
            f"7: {CAP}.measure: unknown value 7: it must be one of MEASURE_MESSAGES, ",
        ),
        (
            "MEASURE_CONTACTS",
            "MEASURE_UNSPECIFIED",
            f"7: {CAP}.measure: unknown value MEASURE_UNSPECIFIED: ",
        ),
        ("maxCount: 200", "maxCount: 2.5", f"8: {CAP}.max_count: {WHOLE} 2.5"),
        ("maxCount: 200", "maxCount: 0x10", f"8: {CAP}.max_count: {WHOLE} 0x10"),
        (
            "maxCount: 200",
            "maxCount: 9223372036854775808",
            f"8: {CAP}.max_count: must fit in 64 bits",
        ),
        ("maxCount: 200", f"maxCount: {'9' * 5000}", f"8: {CAP}.max_count: must fit in 64 bits"),
        (
            "maxCount: 200",
            "maxCount: [200]",
            f"8: {CAP}.max_count: must be a single value, but is a list",
        ),
        (
            "count: 2}",
            "count: 2147483648}",
            f"17: {DAY}.cap.window.calendar.count: must fit in 32 bits",
        ),
        ("86400s", "24h", f"9: {CAP}.window.rolling: {DURATION}: write 86400s for 24h"),
        ("86400s", "a day", f"9: {CAP}.window.rolling: {DURATION}, but is a day"),
        ("86400s", "{seconds: 5}", f"9: {CAP}.window.rolling: {DURATION}, but is a mapping"),
        (
            "{rolling: 86400s}",
            "{rolling: 1s, calendar: {}}",
            f"9: {CAP}.window.calendar: only one of rolling and calendar may be given",
        ),
        (
            "[DIMENSION_CAMPAIGN]",
            "DIMENSION_CAMPAIGN",
            f"16: {DAY}.cap.per: must be a list, but is text",
        ),
        (
            "negate: true",
            "negate: 1",
            f"18: {DAY}.applies_to.conditions[0].negate: must be true or false, but is 1",
        ),
        (
            "    mandatory: true",
            "    mandatory: true\n    mandatory: false",
            f"24: {ASSIGNMENT}: the key mandatory occurs twice",
        ),
        (
            "limit_id: day",
            "limit_id: day\n        limitId: day",
            f"13: {DAY}.limit_id: occurs twice, the second time as limitId",
        ),
        (
            "  - name: assignments/a\n    policy",
            "    policy",
            "21: assignments: must be a list, but is a mapping",
        ),
        (
            "assignments:",
            "groups: [{resource: web}]\nassignments:",
            "20: groups[0]: unknown key resource: did you mean resources?",
        ),
        (
            "scope: null",
            "scope: everything",
            f"24: {ASSIGNMENT}.scope: must be a mapping of keys to values, but is text",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_all_problems_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("86400s", "24h").replace("200\n", "many\n").replace("name: pol", "nam: pol")
    assert [line.split(":")[0] for line in problems(tmp_path, text)] == ["2", "8", "9"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.yaml", "", " the file is empty"),
        ("p.yaml", "# nothing\n", " the file is empty"),
        ("p.yaml", "policies: [\n  - a\n", "2: not valid YAML: "),
        ("p.yaml", "a: 1\n---\nb: 2\n", "2: not valid YAML: "),
        ("p.yaml", "\x01", " not valid YAML: "),
        ("p.yaml", "- policies\n", "1: must be a mapping of keys to values, but is a list"),
        ("p.yaml", "policies: &a [*a]\n", "1: policies[0]: must be a mapping of keys to values"),
        ("p.json", '{"policies": [}', "1: not valid JSON: "),
        ("p.json", '{"policies": []\n "a": 1}', "2: not valid JSON: "),
        ("p.json", "[" * 100_000, "1: not valid JSON: nested too deep"),
    ],
)
def test_text_that_cannot_be_read(tmp_path: Path, name: str, text: str, expected: str) -> None:
    assert problems(tmp_path, text, name)[0].startswith(expected)


def test_a_mapping_inside_itself_ends(tmp_path: Path) -> None:
    text = "policies:\n  - limits:\n    - &a\n      appliesTo: *a\n"
    assert "appliesTo" in problems(tmp_path, text)[0]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot read") as caught:
        load_policy_file(str(tmp_path / "missing.yaml"))
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_file_that_is_too_large_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"#" * (SIZE_MAX_BYTES + 1))
    with pytest.raises(CommandError, match="larger than 16 MiB"):
        load_policy_file(str(path))
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(CommandError, match=r"policy.yaml:2: not UTF-8 text"):
        load_policy_file(str(path))


def test_inline_limits_are_one_or_a_list(tmp_path: Path) -> None:
    one = "limitId: a\ncap: {maxCount: 3}\n"
    assert [each.limit_id for each in load_limits(write(tmp_path, one))] == ["a"]
    several = "- {limitId: a}\n- {limitId: b}\n"
    assert [each.limit_id for each in load_limits(write(tmp_path, several))] == ["a", "b"]
    with pytest.raises(CommandError, match=r"policy.yaml:2: inline_limits\[1\]: unknown key id"):
        load_limits(write(tmp_path, "- {limitId: a}\n- {id: b}\n"))


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        (
            "200 contacts in 24h",
            {"measure": "MEASURE_CONTACTS", "maxCount": 200, "window": {"rolling": "86400s"}},
        ),
        (
            "1_000 messages per campaign + channel in day x2 Europe/Berlin",
            {
                "measure": "MEASURE_MESSAGES",
                "maxCount": 1000,
                "per": ["DIMENSION_CAMPAIGN", "DIMENSION_CHANNEL"],
                "window": {
                    "calendar": {
                        "unit": "CALENDAR_UNIT_DAY",
                        "timeZone": "Europe/Berlin",
                        "count": 2,
                    }
                },
            },
        ),
        (
            "0 addresses in month",
            {
                "measure": "MEASURE_ADDRESSES",
                "window": {"calendar": {"unit": "CALENDAR_UNIT_MONTH", "timeZone": "UTC"}},
            },
        ),
    ],
)
def test_limits_in_words(text: str, cap: dict[str, object]) -> None:
    limit = parse_limit(text, "inline-1")
    assert limit.limit_id == "inline-1"
    assert limit.enforcement == policy_pb2.ENFORCEMENT_ENFORCED
    assert limit.cap == json_format.ParseDict(cap, policy_pb2.Cap())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200 contacts", "does not read as a limit"),
        ("many contacts in 24h", "does not read as a limit"),
        ("200 people in 24h", "people is none of messages, contacts, addresses"),
        ("200 unspecified in 24h", "unspecified is none of"),
        ("200 messages per person in 24h", "person is none of contact, address, channel"),
        ("200 messages in a while", "is not a duration"),
        ("99999999999999999999 messages in 24h", "out of range"),
    ],
)
def test_limits_in_words_that_are_wrong(text: str, expected: str) -> None:
    with pytest.raises(CommandError, match=expected) as caught:
        parse_limit(text, "inline-1")
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.lines[1].startswith("Write it as")
