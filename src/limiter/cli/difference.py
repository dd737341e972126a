"""What applying a file would change, as lines of a diff.

In: the changes that ApplyPolicies reports. Out: styled lines. What the server adds by itself (etag,
times, state) is left out: nobody wrote it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.text import Text

from limiter.v1 import policy_service_pb2

_SERVER_KEYS = ("etag", "createTime", "updateTime", "state")
_NUMBER_KEYS = ("maxCount", "afterCount", "startCount", "stepCount")
_CONTEXT_LINES = 2
_STYLES = {"+": "green", "-": "red"}
_MARKS = {
    policy_service_pb2.PolicyChange.ACTION_CREATE: ("+", "create", "bold green"),
    policy_service_pb2.PolicyChange.ACTION_UPDATE: ("~", "change", "bold yellow"),
    policy_service_pb2.PolicyChange.ACTION_DELETE: ("-", "delete", "bold red"),
}


def difference(changes: Sequence[policy_service_pb2.PolicyChange]) -> list[Text]:
    """The lines of the diff: a headline for each resource, then its lines with +, - or neither."""
    lines: list[Text] = []
    for change in changes:
        mark, verb, style = _MARKS.get(change.action, ("?", "touch", "bold"))
        lines.append(Text(f"{mark} {verb} {change.name}", style))
        lines += [
            Text(f"    {line}", _STYLES.get(line[0], "dim"))
            for line in _body(_old(change), _new(change))
        ]
    return lines


def summary(changes: Sequence[policy_service_pb2.PolicyChange]) -> str:
    """How much changes, in one line: "2 to create, 1 to change, 0 to delete"."""
    kinds = policy_service_pb2.PolicyChange
    counts = {
        words: sum(1 for change in changes if change.action == action)
        for action, words in (
            (kinds.ACTION_CREATE, "to create"),
            (kinds.ACTION_UPDATE, "to change"),
            (kinds.ACTION_DELETE, "to delete"),
        )
    }
    return ", ".join(f"{count} {words}" for words, count in counts.items())


def _old(change: policy_service_pb2.PolicyChange) -> Message | None:
    if change.HasField("old_group"):
        return change.old_group
    if change.HasField("old_policy"):
        return change.old_policy
    return change.old_assignment if change.HasField("old_assignment") else None


def _new(change: policy_service_pb2.PolicyChange) -> Message | None:
    if change.HasField("new_group"):
        return change.new_group
    if change.HasField("new_policy"):
        return change.new_policy
    return change.new_assignment if change.HasField("new_assignment") else None


def _body(old: Message | None, new: Message | None) -> Iterable[str]:
    """The differing lines with a little context, without the header that difflib puts on top."""
    before, after = _yaml_lines(old), _yaml_lines(new)
    hunks = 0
    for line in difflib.unified_diff(before, after, n=_CONTEXT_LINES, lineterm=""):
        if line.startswith("@@"):
            hunks += 1
            if hunks > 1:
                yield "  ..."
        elif not line.startswith(("---", "+++")):
            yield f"{line[0]} {line[1:]}"


def _yaml_lines(message: Message | None) -> list[str]:
    if message is None:
        return []
    value = json_format.MessageToDict(message)
    for key in ("name", *_SERVER_KEYS):
        value.pop(key, None)
    if not value:
        return []
    text = yaml.safe_dump(_numbers(value), sort_keys=False, allow_unicode=True, width=100)
    return text.splitlines()


def _numbers(value: object) -> object:
    """The same, with the 64-bit numbers that canonical JSON writes as strings as numbers."""
    if isinstance(value, dict):
        return {
            key: int(inside) if key in _NUMBER_KEYS else _numbers(inside)
            for key, inside in value.items()
        }
    if isinstance(value, list):
        return [_numbers(inside) for inside in value]
    return value
