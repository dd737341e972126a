"""What speaks gRPC in the servers that the tests start: both transports pass one suite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

__all__ = ["BOTH", "TRANSPORTS", "current", "served_by"]

TRANSPORTS: Final = ("native", "grpcio")

# For `pytestmark`: runs all tests of a module over both.
BOTH: Final = pytest.mark.parametrize("transport", TRANSPORTS, indirect=True, scope="module")

_current: str = TRANSPORTS[0]


def current() -> str:
    """The transport of servers that are started now and do not name theirs."""
    return _current


@contextmanager
def served_by(transport: str) -> Iterator[None]:
    """Starts servers with this transport meanwhile."""
    global _current  # noqa: PLW0603 - what is under test, for helpers however deep
    before, _current = _current, transport
    try:
        yield
    finally:
        _current = before
