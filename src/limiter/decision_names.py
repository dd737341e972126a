"""The API's numbers of outcomes and reasons by their names, without the names of their enums."""

from __future__ import annotations

from typing import Final

from limiter.v1 import decision_pb2

__all__ = ["OUTCOMES", "REASONS"]

OUTCOMES: Final[dict[int, str]] = {
    number: name.removeprefix("OUTCOME_") for name, number in decision_pb2.Outcome.items()
}
REASONS: Final[dict[int, str]] = {
    number: name.removeprefix("REASON_") for name, number in decision_pb2.Reason.items()
}
