"""Sizes as people write them: "512MB", "4GB"."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_bytes"]

_UNITS: Final = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """The bytes that a size means; 0 needs no unit. Raises ValueError for what is none."""
    if text.strip() == "0":
        return 0
    matched = _PATTERN.fullmatch(text)
    if matched is None:
        raise ValueError(
            f"{text!r} is not a size: write a number with B, KB, MB, GB or TB, such as 4GB"
        )
    number, unit = matched.groups()
    return int(float(number) * _UNITS[unit.upper()])
