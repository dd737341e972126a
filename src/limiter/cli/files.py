"""Policy files and files of inline limits: found, read, checked line by line.

A policy file (YAML or JSON) has the keys `policies`, `assignments` and `groups`, each a list in
the canonical JSON mapping of its message. What the file alone can show to be wrong is reported here
with its line; every rule about values is the server's.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.yaml_messages import Problem, Reader, unknown_key
from limiter.v1 import access_pb2, policy_pb2

SIZE_MAX_BYTES = 16 << 20
KEYS = ("policies", "assignments", "groups")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What one file asks for. `lines` leads from a field's path to its line, from 1."""

    label: str
    groups: tuple[access_pb2.Group, ...]
    policies: tuple[policy_pb2.Policy, ...]
    assignments: tuple[policy_pb2.Assignment, ...]
    lines: dict[str, int]

    def locate(self, field: str) -> str:
        """Where the field that the server names stands: "FILE:LINE", or "" if it is not here."""
        path = field
        while path and path not in self.lines:
            path = re.sub(r"(\.?[^.\[\]]+|\[\d+\])$", "", path) if path[-1] != "." else path[:-1]
        return f"{self.label}:{self.lines[path]}" if path else ""


def load_policy_file(path: str) -> PolicyFile:
    """Reads the policy file at `path`, or standard input for "-".

    Raises CommandError with one line for each problem.
    """
    label, root = _parse(path)
    reader = Reader()
    groups: list[access_pb2.Group] = []
    policies: list[policy_pb2.Policy] = []
    assignments: list[policy_pb2.Assignment] = []
    for key, key_node, value in reader.entries(root, ""):
        if key == "policies":
            for inside, node in reader.items(value, key):
                policies.append(reader.message(node, policy_pb2.Policy(), inside))
        elif key == "assignments":
            for inside, node in reader.items(value, key):
                assignments.append(reader.message(node, policy_pb2.Assignment(), inside))
        elif key == "groups":
            for inside, node in reader.items(value, key):
                groups.append(reader.message(node, access_pb2.Group(), inside))
        else:
            reader.report(key_node, "", unknown_key(key, list(KEYS)))
    _raise_problems(label, reader.problems)
    return PolicyFile(label, tuple(groups), tuple(policies), tuple(assignments), reader.lines)


def load_limits(path: str) -> list[policy_pb2.Limit]:
    """Reads a file that holds one limit or a list of limits, or standard input for "-".

    Raises CommandError with one line for each problem.
    """
    label, root = _parse(path)
    reader = Reader()
    name = "inline_limits"
    if isinstance(root, yaml.SequenceNode):
        nodes = reader.items(root, name)
    else:
        nodes = [(f"{name}[0]", root)]
    limits = [reader.message(node, policy_pb2.Limit(), inside) for inside, node in nodes]
    _raise_problems(label, reader.problems)
    return limits


def _parse(path: str) -> tuple[str, yaml.Node]:
    """The file's label in messages and its root node."""
    label = "standard input" if path == "-" else path
    text = _text(path, label)
    if path.endswith(".json"):
        _check_json(text, label)
        # JSON may be indented by tabs, YAML may not; inside strings JSON has none.
        text = text.replace("\t", " ")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        reason = error.problem or error.context or "cannot be read"
        raise CommandError(ExitCode.INVALID, f"{label}:{line}: not valid YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise CommandError(ExitCode.INVALID, f"{label}: not valid YAML: {error}") from error
    if root is None:
        raise CommandError(ExitCode.INVALID, f"{label}: the file is empty")
    return label, root


def read_text(path: str) -> str:
    """The text of a file; - is standard input. Raises `CommandError`."""
    return _text(path, "standard input" if path == "-" else path)


def _text(path: str, label: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(SIZE_MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(ExitCode.USAGE, f"cannot read {label}: {error.strerror}") from error
    if len(data) > SIZE_MAX_BYTES:
        raise CommandError(ExitCode.INVALID, f"{label}: larger than {SIZE_MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CommandError(ExitCode.INVALID, f"{label}:{line}: not UTF-8 text") from error


def _check_json(text: str, label: str) -> None:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise CommandError(ExitCode.INVALID, f"{label}:{line}: not valid JSON: {reason}") from error


def _raise_problems(label: str, problems: list[Problem]) -> None:
    if problems:
        raise CommandError(
            ExitCode.INVALID,
            *(
                f"{label}:{each.line}: {each.path + ': ' if each.path else ''}{each.message}"
                for each in sorted(problems, key=lambda each: each.line)
            ),
        )
