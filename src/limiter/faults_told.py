"""How many faults were told to callers, by status code and reason.

What flows in: each fault that a call of this process ends with. What flows out: their counts.

What always holds: reasons are this program's own words, so there are few; should there be many,
those beyond a bound are counted together.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from limiter import bounds

__all__ = ["count", "counts"]

_OTHERS: Final = "OTHER"

# Those that alerts look for are told from the beginning: a count that begins with one is no growth.
_told: Final[Counter[tuple[str, str]]] = Counter(
    {
        ("INTERNAL", "INTERNAL"): 0,
        ("RESOURCE_EXHAUSTED", "OVERLOADED"): 0,
        ("UNAVAILABLE", "JOURNAL_UNAVAILABLE"): 0,
    }
)


def count(code: str, reason: str) -> None:
    """A call ends with this status and this reason."""
    key = (code, reason)
    if key not in _told and len(_told) >= bounds.FAULT_REASONS_MAX:
        key = (code, _OTHERS)
    _told[key] += 1


def counts() -> dict[tuple[str, str], int]:
    """How many there were of each, since the process began."""
    return dict(_told)
