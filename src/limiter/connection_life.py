"""How long a connection may live, and what it must do for it.

In: a connection, as its session and its calls tell of it, and the time. Out: at most one step
against it: a ping, a notice, a shutdown, an end. It is looked at about once a second.

What always holds: whoever is silent, stuck in the middle of something, does not read, or has
nothing to ask is gone after a bounded time, and nobody stays for ever: clients that come back
spread over the servers that there are then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from limiter import bounds

__all__ = ["Life", "Living"]


class Living(Protocol):
    """A connection; instants are seconds on the monotonic clock, 0 for what is not so."""

    @property
    def opened_s(self) -> float:
        """Since when it is there."""

    @property
    def active_s(self) -> float:
        """When something was last received."""

    @property
    def unfinished_s(self) -> float:
        """Since when a frame or a header is coming."""

    @property
    def paused_s(self) -> float:
        """Since when its client reads too slowly."""

    @property
    def closing_s(self) -> float:
        """Since when it waits for its last bytes to go out."""

    @property
    def called_s(self) -> float:
        """When a call last began or ended."""

    @property
    def stream_count(self) -> int:
        """Calls that are under way."""

    @property
    def greeted(self) -> bool:
        """Whether the client has sent its settings."""

    def ping(self) -> None:
        """Asks whether the client is there."""

    def announce_shutdown(self) -> None:
        """Asks the client to send no more calls."""

    def shut_down(self, error_code: int = 0) -> None:
        """Takes no more calls and closes once those under way are answered."""

    def abort(self) -> None:
        """Closes at once."""


class Life:
    """What is remembered of one connection between two looks. `leave` ends the calls on it that
    would not end by themselves."""

    def __init__(self, connection: Living, leave: Callable[[Any], None]) -> None:
        self._connection = connection
        self._leave = leave
        self._pinged_s = 0.0
        self._age_s = bounds.AGE_MS_MAX / 1000 * random.uniform(0.9, 1)
        # What an old connection has been told: a notice, then a shutdown, then to leave.
        self._farewells = 0

    def look(self, now_s: float) -> None:
        """Does what is due."""
        connection = self._connection
        if self._is_stuck(now_s):
            connection.abort()
        elif now_s - connection.opened_s > self._age_s:
            self._retire(now_s)
        elif connection.stream_count == 0 and _over(connection.called_s, now_s, bounds.IDLE_MS_MAX):
            connection.shut_down()
        if _over(connection.active_s, now_s, bounds.QUIET_MS_MAX):
            self._ask(now_s)

    def _is_stuck(self, now_s: float) -> bool:
        connection = self._connection
        return (
            (not connection.greeted and _over(connection.opened_s, now_s, bounds.GREETING_MS_MAX))
            or _over(connection.unfinished_s, now_s, bounds.FRAME_MS_MAX)
            or _over(connection.paused_s, now_s, bounds.STALL_MS_MAX)
            or _over(connection.closing_s, now_s, bounds.CLOSING_MS_MAX)
        )

    def _retire(self, now_s: float) -> None:
        connection = self._connection
        is_over = now_s - connection.opened_s > self._age_s + bounds.AGE_GRACE_MS_MAX / 1000
        if self._farewells == 0:
            connection.announce_shutdown()
        elif self._farewells == 1:
            connection.shut_down()
        elif not is_over:
            return
        elif self._farewells == 2:
            self._leave(connection)
        else:
            connection.abort()
        self._farewells += 1

    def _ask(self, now_s: float) -> None:
        if self._pinged_s < self._connection.active_s:
            self._pinged_s = now_s
            self._connection.ping()
        elif _over(self._pinged_s, now_s, bounds.PING_MS_MAX):
            self._connection.abort()


def _over(since_s: float, now_s: float, allowed_ms: int) -> bool:
    """Whether something, unless it is not so (0), has been so for too long."""
    return since_s > 0 and now_s - since_s > allowed_ms / 1000
