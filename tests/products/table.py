"""The README's tables of what the five products do, read back.

A row has what a product does and what does it: calls of the API and lines of a policy, in code
spans. The tests take their limits from these lines, so that a reader can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format

from limiter.v1 import policy_pb2

__all__ = ["ROWS", "Row"]

_README: Final = Path(__file__).resolve().parents[2] / "README.md"
_SECTION: Final = "## What each product does, and what does it\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that a product does. `spans` are the code spans of what does it."""

    product: str
    what: str
    spans: tuple[str, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a limit, in canonical JSON, that the row's policy lines set."""
        found: dict[str, Any] = {}
        for span in self.spans:
            if ": " in span:
                found |= yaml.safe_load(span)
        return found

    def limit(self, **fields: Any) -> policy_pb2.Limit:
        """A limit of the row's policy lines; `fields` in canonical JSON add to them."""
        whole = {"limitId": "told", "enforcement": "ENFORCEMENT_ENFORCED", **self.fields, **fields}
        return json_format.ParseDict(whole, policy_pb2.Limit())


def _rows() -> dict[str, Row]:
    """Every row by what it says, which no two say alike."""
    text = _README.read_text(encoding="utf-8")
    section = text.partition(_SECTION)[2].partition("\n## ")[0]
    rows: dict[str, Row] = {}
    product = ""
    for line in section.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            what, by = (cell.strip() for cell in line.strip("|").split(" | ", 1))
            if by == "what does it":
                product = what
                continue
            assert what not in rows, f"the README says twice: {what}"
            rows[what] = Row(product, what, tuple(re.findall(r"`([^`]+)`", by)))
    return rows


ROWS: Final = _rows()
