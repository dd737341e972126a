"""The two streams that a command writes to, as rich consoles made when they are needed."""

from __future__ import annotations

import json
import os
import sys

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console

PIPE_WIDTH = 160


def output() -> Console:
    """What was asked for: standard output."""
    return _console(stderr=False)


def notices() -> Console:
    """What is said about it: standard error."""
    return _console(stderr=True)


def interactive() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def print_json(message: Message) -> None:
    """Prints a reply in canonical JSON, zeros and false included."""
    sys.stdout.write(to_json(message) + "\n")


def to_json(message: Message) -> str:
    """A message in canonical JSON with every field that has no presence of its own."""
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return json.dumps(value, indent=2, ensure_ascii=False)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # Where nobody looks, nothing is to be cut to the width of a window.
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)
