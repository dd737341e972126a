"""From YAML or JSON text to protobuf messages, with the line of everything that is wrong.

The mapping is protobuf's canonical JSON. In: a node of the parsed text and an empty message. Out:
the message, plus the line of every field under its path as the server names it
(`policies[0].limits[1].cap.max_count`). All problems are collected, not just the first one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeVar, cast

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from limiter.cli.durations import parse_ms

M = TypeVar("M", bound=Message)

_DEPTH_MAX = 32
_STRING_TAG = "tag:yaml.org,2002:str"
_BOOL_TAG = "tag:yaml.org,2002:bool"
_NULL_TAG = "tag:yaml.org,2002:null"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DURATION = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s")
_TRUE_WORDS = ("true", "yes", "on")
_DURATION_NAME = "google.protobuf.Duration"
_TIMESTAMP_NAME = "google.protobuf.Timestamp"
_BIT_SIZES = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the line (from 1), the field's path and what to do about it."""

    line: int
    path: str
    message: str


@dataclass(slots=True)
class Reader:
    """Reads the nodes of one text: `problems` and `lines` (path to line) grow as it goes."""

    problems: list[Problem] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def report(self, node: yaml.Node, path: str, message: str) -> None:
        """Notes a problem at `node`."""
        self.problems.append(Problem(line_of(node), path, message))

    def message(self, node: yaml.Node, message: M, path: str) -> M:
        """Fills `message` from `node`, which stands at `path`; returns it. Problems are noted, and
        what has one is left out."""
        before = len(self.problems)
        value = self._message(node, cast(Descriptor, message.DESCRIPTOR), path, 0)
        if value is not None and len(self.problems) == before:
            try:
                json_format.ParseDict(value, message)
            except json_format.ParseError as error:
                self.report(node, path, str(error))
        return message

    def items(self, node: yaml.Node, path: str) -> list[tuple[str, yaml.Node]]:
        """The elements of a list with their paths; a problem if `node` is none."""
        self.lines[path] = line_of(node)
        if isinstance(node, yaml.SequenceNode):
            return [(f"{path}[{index}]", child) for index, child in enumerate(node.value)]
        self.report(node, path, f"must be a list, but is {_kind(node)}")
        return []

    def entries(self, node: yaml.Node, path: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
        """The keys of a mapping, each with its own node and its value's; a problem if `node` is
        none or if a key occurs twice."""
        if not isinstance(node, yaml.MappingNode):
            self.report(node, path, f"must be a mapping of keys to values, but is {_kind(node)}")
            return []
        found: list[tuple[str, yaml.Node, yaml.Node]] = []
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if name in seen:
                self.report(key, path, f"the key {name} occurs twice")
            elif not name:
                self.report(key, path, "a key must be a plain word")
            else:
                found.append((name, key, value))
            seen.add(name)
        return found

    def _message(
        self, node: yaml.Node, descriptor: Descriptor, path: str, depth: int
    ) -> dict[str, object] | None:
        self.lines.setdefault(path, line_of(node))
        if depth > _DEPTH_MAX:
            self.report(node, path, f"is nested more than {_DEPTH_MAX} deep")
            return None
        result: dict[str, object] = {}
        groups: dict[str, str] = {}
        for name, key, value in self.entries(node, path):
            known = _field_named(descriptor, name)
            if known is None:
                names = [each.camelcase_name for each in descriptor.fields]
                self.report(key, path, unknown_key(name, names))
                continue
            if _is_null(value):
                continue
            inside = f"{path}.{known.name}" if path else known.name
            self.lines[inside] = line_of(key)
            if known.name in result:
                self.report(key, inside, f"occurs twice, the second time as {name}")
                continue
            group = known.containing_oneof.name if known.containing_oneof is not None else None
            if group is not None and groups.setdefault(group, name) != name:
                self.report(key, inside, f"only one of {groups[group]} and {name} may be given")
                continue
            result[known.name] = self._field(value, known, inside, depth)
        return result

    def _field(self, node: yaml.Node, known: FieldDescriptor, path: str, depth: int) -> object:
        if not known.is_repeated:
            return self._value(node, known, path, depth)
        items = self.items(node, path)
        return [self._value(child, known, inside, depth) for inside, child in items]

    def _value(self, node: yaml.Node, known: FieldDescriptor, path: str, depth: int) -> object:
        self.lines.setdefault(path, line_of(node))
        if known.message_type is not None:
            if known.message_type.full_name == _DURATION_NAME:
                return self._duration(node, path)
            if known.message_type.full_name == _TIMESTAMP_NAME:
                return str(node.value)
            return self._message(node, known.message_type, path, depth + 1)
        if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL_TAG:
            self.report(node, path, f"must be a single value, but is {_kind(node)}")
            return None
        if known.enum_type is not None:
            return self._enum(node, known.enum_type, path)
        if known.type == FieldDescriptor.TYPE_BOOL:
            return self._bool(node, path)
        if known.type in _BIT_SIZES:
            return self._integer(node, path, _BIT_SIZES[known.type])
        if node.tag != _STRING_TAG:
            read_as = f"{node.value} reads as {_kind(node)}"
            self.report(node, path, f"must be text, but {read_as}: put it in quotes")
        return str(node.value)

    def _enum(self, node: yaml.ScalarNode, enum: EnumDescriptor, path: str) -> str:
        name = str(node.value)
        names = [value.name for value in enum.values if value.number != 0]
        if name not in names:
            prefix = names[0][: len(enum.values[0].name) - len("UNSPECIFIED")]
            guess = prefix + name.upper()
            close = [guess] if guess in names else get_close_matches(name, names, 1, 0.75)
            hint = f"did you mean {close[0]}?" if close else f"it must be one of {', '.join(names)}"
            self.report(node, path, f"unknown value {name}: {hint}")
        return name

    def _bool(self, node: yaml.ScalarNode, path: str) -> bool:
        if node.tag != _BOOL_TAG:
            self.report(node, path, f"must be true or false, but is {node.value}")
        return str(node.value).lower() in _TRUE_WORDS

    def _integer(self, node: yaml.ScalarNode, path: str, bit_size: int) -> int:
        text = str(node.value).replace("_", "")
        if not _INTEGER.fullmatch(text):
            self.report(node, path, f"must be a whole number, but is {node.value}")
            return 0
        number = int(text) if len(text) < 40 else 1 << 100
        if not -(1 << (bit_size - 1)) <= number < 1 << (bit_size - 1):
            self.report(node, path, f"must fit in {bit_size} bits, but is {node.value}")
        return number

    def _duration(self, node: yaml.Node, path: str) -> str:
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
        if not _DURATION.fullmatch(text):
            self.report(node, path, _duration_hint(text, node))
        return text


def line_of(node: yaml.Node) -> int:
    """The line on which `node` starts, from 1."""
    mark = node.start_mark
    return mark.line + 1 if mark is not None else 1


def unknown_key(name: str, known: list[str]) -> str:
    """What to say of a key that nothing is called: the closest known one, or all of them."""
    close = get_close_matches(name, known, 1, 0.6)
    hint = f"did you mean {close[0]}?" if close else f"it must be one of {', '.join(known)}"
    return f"unknown key {name}: {hint}"


def _field_named(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """The field of that JSON name or original name."""
    return descriptor.fields_by_camelcase_name.get(name) or descriptor.fields_by_name.get(name)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG


def _kind(node: yaml.Node) -> str:
    """What a node is, in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    names = {_STRING_TAG: "text", _BOOL_TAG: "true or false", _NULL_TAG: "empty"}
    return names.get(node.tag, "a date" if node.tag.endswith("timestamp") else "a number")


def _duration_hint(text: str, node: yaml.Node) -> str:
    """How to write what was probably meant."""
    rule = "must be a duration in seconds, such as 86400s"
    if not text:
        return f"{rule}, but is {_kind(node)}"
    try:
        duration_ms = parse_ms(text)
    except ValueError:
        return f"{rule}, but is {text}"
    seconds = f"{duration_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{rule}: write {seconds}s for {text}"
