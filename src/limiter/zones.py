"""The rules of time zones as plain tables, from the pinned `tzdata` package alone.

In flows the name of an IANA zone; out flows the table of its changes of offset, and the `Zone` that
the calendar windows of the core are made of. The machine's own zone files are never read: the same
version of that package gives the same windows on every machine.

A zone file holds explicit transitions for the past and, in its footer, the rule for all years after
them; both are laid out here for every year that an instant of the service can fall into. What
always holds: a table's transitions strictly increase, neighbouring offsets differ, and there is one
offset more than there are transitions.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib import resources
from typing import ClassVar, Final

from limiter import errors
from limiter._calendar import Zone

UTC: Final = "UTC"

# In the place of a name: the account's own zone, and that of the contact who is written to.
ACCOUNT: Final = "ACCOUNT"
RECIPIENT: Final = "RECIPIENT"

# Instants lie in 1970..2100; a window reaches back up to 62 days from there and a retry_time up to
# 400 days ahead, so the tables cover one year more before and two more after.
FIRST_YEAR: Final = 1969
LAST_YEAR: Final = 2102

_EPOCH: Final = date(1970, 1, 1)
_DAY_SECONDS: Final = 86_400
_FIRST_SECOND: Final = (date(FIRST_YEAR, 1, 1) - _EPOCH).days * _DAY_SECONDS
_LAST_SECOND: Final = (date(LAST_YEAR + 1, 1, 1) - _EPOCH).days * _DAY_SECONDS - 1
# Earlier than any instant of a zone file.
_BEFORE_ALL: Final = -(2**63)

_NAME = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)"
_CLOCK = r"[+-]?\d{1,3}(?::\d{2}){0,2}"
_DAY = rf"(?:M\d{{1,2}}\.[1-5]\.[0-6]|J?\d{{1,3}})(?:/{_CLOCK})?"
_RULE: Final = re.compile(
    rf"{_NAME}(?P<standard>{_CLOCK})"
    rf"(?:{_NAME}(?P<summer>{_CLOCK})?,(?P<start>{_DAY}),(?P<end>{_DAY}))?"
)


@dataclass(frozen=True, slots=True)
class ZoneTable:
    """Changes of offset of one zone: `offset_ms[i]` (local time minus UTC) holds from
    `transition_ms[i - 1]` (ms since the epoch, inclusive) to `transition_ms[i]` (exclusive)."""

    transition_ms: tuple[int, ...]
    offset_ms: tuple[int, ...]


@cache
def names() -> frozenset[str]:
    """Every zone name that the pinned tz database knows, links included."""
    text = (resources.files("tzdata") / "zones").read_text(encoding="utf-8")
    return frozenset(text.split())


def zone_table(name: str, field: str = "time_zone") -> ZoneTable:
    """The changes of offset of the zone `name` from 1969 through 2102.

    Raises `InvalidArgument` about `field` when the tz database has no zone of that name.
    """
    if name not in names():
        raise errors.InvalidArgument.for_field(field, _unknown_name(name))
    return _load(name)


def zone(name: str, field: str = "time_zone") -> Zone:
    """The zone `name` for the core's calendar windows; the same object for the same name.

    Raises `InvalidArgument` about `field` when the tz database has no zone of that name.
    """
    table = zone_table(name, field)
    return _zone(name, table)


def _unknown_name(name: str) -> str:
    shown = name if len(name) <= 64 else name[:64] + "…"
    advice = "use a name of the IANA tz database such as Europe/Berlin or UTC"
    meant = _names_by_lower_case().get(name.lower())
    if meant is not None:
        advice = f"did you mean {meant!r}?"
    return f"{shown!r} is not a time zone; {advice}"


@cache
def _names_by_lower_case() -> dict[str, str]:
    return {name.lower(): name for name in sorted(names())}


@cache
def _zone(name: str, table: ZoneTable) -> Zone:
    return Zone(name, table.transition_ms, table.offset_ms)


@cache
def _load(name: str) -> ZoneTable:
    file = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    return _tabulate(file.read_bytes())


def _tabulate(data: bytes) -> ZoneTable:
    """The table of one zone file's bytes."""
    changes, footer = _read_file(data)
    if footer:
        last_second = changes[-1][0]
        changes += [change for change in _rule_changes(footer) if change[0] > last_second]
    # Of several changes at one instant (or before the first year) the last one holds.
    offset_at: dict[int, int] = {}
    for second, offset in changes:
        if second <= _LAST_SECOND:
            offset_at[max(second, _FIRST_SECOND)] = offset
    instants: list[int] = []
    offsets: list[int] = []
    for second, offset in offset_at.items():
        if not offsets:
            offsets.append(offset * 1000)
        elif offset * 1000 != offsets[-1]:
            instants.append(second * 1000)
            offsets.append(offset * 1000)
    return ZoneTable(tuple(instants), tuple(offsets))


def _read_file(data: bytes) -> tuple[list[tuple[int, int]], str]:
    """The explicit changes as (second, offset in seconds), in order, and the footer's rule.

    The first change stands for all time before the others. The layout is RFC 9636's: a block of
    32-bit data that only old readers need, the same with 64 bits, the footer between line feeds.
    """
    skipped = _Header.at(data, 0)
    header = _Header.at(data, _Header.SIZE + skipped.block_size(4))
    start = header.start + _Header.SIZE
    count = header.transition_count
    seconds = struct.unpack_from(f">{count}q", data, start)
    kinds = struct.unpack_from(f">{count}B", data, start + 8 * count)
    types = start + 9 * count
    offsets = [
        struct.unpack_from(">i", data, types + 6 * index)[0] for index in range(header.type_count)
    ]
    footer = data[start + header.block_size(8) :].decode("ascii").strip("\n")
    changes = [(_BEFORE_ALL, offsets[0])]
    changes += [(second, offsets[kind]) for second, kind in zip(seconds, kinds, strict=True)]
    return changes, footer


@dataclass(frozen=True, slots=True)
class _Header:
    """The counts that open one block of a zone file, which begins at byte `start`."""

    SIZE: ClassVar[int] = 44

    start: int
    universal_count: int
    standard_count: int
    leap_count: int
    transition_count: int
    type_count: int
    name_size: int

    @classmethod
    def at(cls, data: bytes, start: int) -> _Header:
        magic, version, *counts = struct.unpack_from(">4s c 15x 6I", data, start)
        if magic != b"TZif" or version < b"2":
            raise ValueError("the tz database holds a file that is not TZif of version 2 or later")
        return cls(start, *counts)

    def block_size(self, time_size: int) -> int:
        """Bytes of the block after this header where an instant takes `time_size` bytes."""
        return (
            self.transition_count * (time_size + 1)
            + self.type_count * 6
            + self.name_size
            + self.leap_count * (time_size + 4)
            + self.standard_count
            + self.universal_count
        )


def _rule_changes(footer: str) -> list[tuple[int, int]]:
    """The changes as (second, offset in seconds) that a rule makes in the covered years."""
    match = _RULE.fullmatch(footer)
    if match is None:
        raise ValueError(f"the tz database holds a rule that is not POSIX TZ: {footer!r}")
    # POSIX counts offsets westwards: "CET-1" is an hour east of UTC.
    standard = -_clock_seconds(match["standard"])
    if match["start"] is None:
        return [(_FIRST_SECOND, standard)]
    summer = -_clock_seconds(match["summer"]) if match["summer"] else standard + 3600
    changes: list[tuple[int, bool, int]] = []
    for year in range(FIRST_YEAR - 1, LAST_YEAR + 2):
        start = _rule_second(match["start"], year) - standard
        end = _rule_second(match["end"], year) - summer
        changes += [(start, True, summer), (end, False, standard)]
    # Where summer time ends as the next one starts, it never ends: the start sorts last.
    return [(second, offset) for second, _, offset in sorted(changes)]


def _rule_second(when: str, year: int) -> int:
    """The second (local time, as if it were UTC) that `Mm.w.d`, `Jn` or `n` with `/time` means."""
    day_text, _, time_text = when.partition("/")
    if day_text[0] == "M":
        month, week, weekday = (int(part) for part in day_text[1:].split("."))
        first = date(year, month, 1)
        day = first + timedelta(days=(weekday - first.isoweekday()) % 7 + 7 * (week - 1))
        if day.month != month:
            day -= timedelta(days=7)
    elif day_text[0] == "J":
        # Counted from 1, and February 29 is never counted.
        common = date(2001, 1, 1) + timedelta(days=int(day_text[1:]) - 1)
        day = common.replace(year=year)
    else:
        day = date(year, 1, 1) + timedelta(days=int(day_text))
    return (day - _EPOCH).days * _DAY_SECONDS + _clock_seconds(time_text or "02:00:00")


def _clock_seconds(text: str) -> int:
    """Seconds of `[+-]h[:mm[:ss]]`."""
    sign = -1 if text.startswith("-") else 1
    hours, minutes, seconds = (*map(int, text.lstrip("+-").split(":")), 0, 0)[:3]
    return sign * (hours * 3600 + minutes * 60 + seconds)
