"""Lengths of time and instants, in words for people and back.

Durations are integers of milliseconds, instants milliseconds since the epoch. What is told to a
person is rounded up, so that nobody is told to try again too early.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_UNIT_MS = {
    "ms": 1,
    "s": SECOND_MS,
    "min": MINUTE_MS,
    "m": MINUTE_MS,
    "h": HOUR_MS,
    "d": DAY_MS,
}
_PART = re.compile(r"(\d{1,12})\s*(ms|min|s|m|h|d)")


def in_words(duration_ms: int) -> str:
    """A duration in its two largest units, rounded up: "3 h 12 min", "2 d", "45 s", "80 ms"."""
    if duration_ms <= 0:
        return "0 s"
    if duration_ms < SECOND_MS:
        return f"{duration_ms} ms"
    # In the smaller units first: 59 min 59.5 s are told as an hour.
    seconds_ms = _rounded_up(duration_ms, SECOND_MS)
    if seconds_ms < HOUR_MS:
        return _in_units(seconds_ms, "min", "s")
    minutes_ms = _rounded_up(duration_ms, MINUTE_MS)
    if minutes_ms < DAY_MS:
        return _in_units(minutes_ms, "h", "min")
    return _in_units(_rounded_up(duration_ms, HOUR_MS), "d", "h")


def _rounded_up(duration_ms: int, unit_ms: int) -> int:
    return -(-duration_ms // unit_ms) * unit_ms


def _in_units(duration_ms: int, larger: str, smaller: str) -> str:
    whole, rest_ms = divmod(duration_ms, _UNIT_MS[larger])
    words = [f"{whole} {larger}"] if whole else []
    words += [f"{rest_ms // _UNIT_MS[smaller]} {smaller}"] if rest_ms else []
    return " ".join(words)


def parse_ms(text: str) -> int:
    """The milliseconds in a text such as "24h", "7d", "1h30min" or "500ms".

    Raises ValueError, which says what is expected, for anything else.
    """
    compact = text.strip().lower()
    total_ms, position = 0, 0
    for part in _PART.finditer(compact):
        if compact[position : part.start()].strip():
            break
        total_ms += int(part.group(1)) * _UNIT_MS[part.group(2)]
        position = part.end()
    if position == 0 or position != len(compact):
        raise ValueError(
            f"{text!r} is not a duration: write a number with ms, s, min, h or d, such as 24h"
        )
    return total_ms


def at_local(instant_ms: int, zone: tzinfo | None = None) -> str:
    """An instant as local time, rounded up to the second: "Mon 3 Mar 2025 14:05:12 CET".

    `zone` is the machine's own unless given.
    """
    seconds = -(-instant_ms // SECOND_MS)
    local = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    return f"{local:%a} {local.day} {local:%b %Y %H:%M:%S} {local.tzname()}"


def in_table(instant_ms: int, zone: tzinfo | None = None) -> str:
    """The same for a table, where there is less room: "2025-03-03 14:05:12"."""
    seconds = -(-instant_ms // SECOND_MS)
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone(zone):%Y-%m-%d %H:%M:%S}"


def retry_in_words(retry_ms: int, decide_ms: int, zone: tzinfo | None = None) -> str:
    """When to try again: "try again in 3 h 12 min, at Mon 3 Mar 2025 14:05:12 CET"."""
    return f"try again in {in_words(retry_ms - decide_ms)}, at {at_local(retry_ms, zone)}"
