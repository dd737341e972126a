"""Inline limits from the command line: "500 messages per campaign in day UTC".

    MAX MEASURE [per DIMENSION[+DIMENSION...]] in WINDOW

MEASURE is messages, contacts or addresses. WINDOW is a duration such as 24h (rolling), or hour,
day, week or month, with xN for several and a time zone (UTC if none): "day", "day Europe/Berlin",
"day x2".
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.descriptor import EnumDescriptor

from limiter.cli.durations import parse_ms
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.v1 import attempt_pb2, policy_pb2

GRAMMAR = '"MAX messages|contacts|addresses (per DIMENSION+...) in 24h|day (xN) (ZONE)"'
"""The same in one line, for help and errors; what is in parentheses may be left out."""

_LIMIT = re.compile(
    r"(?P<max>[0-9][0-9_]*)\s+(?P<measure>[a-z]+)"
    r"(?:\s+per\s+(?P<per>[a-z]+(?:\s*\+\s*[a-z]+)*))?"
    r"\s+in\s+(?P<window>\S.*)"
)
_CALENDAR = re.compile(
    r"(?P<unit>hour|day|week|month)s?(?:\s+x(?P<count>[0-9]{1,4}))?(?:\s+(?P<zone>\S+))?"
)


def parse_limit(text: str, limit_id: str) -> policy_pb2.Limit:
    """The enforced limit that `text` describes. Raises CommandError that shows the grammar."""
    found = _LIMIT.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError("it does not read as a limit")
        per = re.split(r"\s*\+\s*", found["per"]) if found["per"] else []
        cap = policy_pb2.Cap(
            measure=_number(policy_pb2.Measure.DESCRIPTOR, found["measure"]),
            max_count=int(found["max"].replace("_", "")),
            per=[_number(attempt_pb2.Dimension.DESCRIPTOR, each) for each in per],
            window=_window(found["window"].strip()),
        )
    except ValueError as error:
        message = f"--limit {text!r}: {error}"
        raise CommandError(ExitCode.USAGE, message, f"Write it as {GRAMMAR}.") from error
    return policy_pb2.Limit(limit_id=limit_id, cap=cap, enforcement=policy_pb2.ENFORCEMENT_ENFORCED)


def _number(enum: EnumDescriptor, word: str) -> Any:
    """The number of the value of `enum` that `word` means; ValueError, naming all, if there is
    none."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    found = enum.values_by_name.get(prefix + word.upper())
    if found is None or found.number == 0:
        known = [each.name.removeprefix(prefix).lower() for each in enum.values if each.number]
        raise ValueError(f"{word} is none of {', '.join(known)}")
    return found.number


def _window(text: str) -> policy_pb2.Window:
    """Raises ValueError for a window that is neither a duration nor a unit of the calendar."""
    found = _CALENDAR.fullmatch(text)
    if found is None:
        rolling = duration_pb2.Duration()
        rolling.FromMilliseconds(parse_ms(text))
        return policy_pb2.Window(rolling=rolling)
    calendar = policy_pb2.Calendar(
        unit=_number(policy_pb2.CalendarUnit.DESCRIPTOR, found["unit"]),
        time_zone=found["zone"] or "UTC",
        count=int(found["count"] or 0),
    )
    return policy_pb2.Window(calendar=calendar)
