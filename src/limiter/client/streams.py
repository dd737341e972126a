"""What has been asked on a stream and not been answered, for both kinds of client.

In: requests in order, replies in order, faults. Out: commits, and how long to wait before a stream
that broke is opened again.

What always holds: a request stays open until its reply has come. What is open when a stream breaks
is sent again on the next one, first things first, under its own request id: so nothing is lost and
nothing counts twice. The caller's deadline is for progress: it runs from the newest reply, or from
the moment at which something was open again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from limiter import bounds, errors
from limiter.client import results
from limiter.client.faults import with_request_id
from limiter.client.patience import Patience, Retries
from limiter.v1 import decision_service_pb2

__all__ = ["Ledger", "ended_early", "is_silent"]


class Ledger:
    """Requests without a reply, oldest first; at most `window_count` of them."""

    def __init__(
        self,
        timeout_s: float,
        retries: Retries,
        window_count: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= window_count <= bounds.STREAM_WINDOW_MAX:
            raise errors.InvalidArgument.for_field(
                "window_count", f"must be from 1 to {bounds.STREAM_WINDOW_MAX}"
            )
        # Says that the timeout is none before anything is asked.
        Patience(timeout_s, retries)
        self._timeout_s = timeout_s
        self._retries = retries
        self._window_count = window_count
        self._now_s = now_s
        self._progress_s = now_s()
        self._patience: Patience | None = None
        self.open: deque[decision_service_pb2.CommitRequest] = deque()

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return len(self.open) < self._window_count

    def add(self, request: decision_service_pb2.CommitRequest) -> None:
        """To be called before the request leaves."""
        if not self.open:
            self._progress_s = self._now_s()
        self.open.append(request)

    def settle(self, reply: decision_service_pb2.CommitResponse) -> results.Commit:
        """The answer to the oldest one."""
        request = self.open.popleft()
        self._progress_s = self._now_s()
        self._patience = None
        return results.commit(reply, request.request_id)

    def try_timeout_s(self) -> float:
        """How long to wait for the next reply."""
        return self._patience_left().try_timeout_s(can_repeat=True)

    def pause_s(self, fault: errors.LimiterError) -> float:
        """How long to wait before the stream is opened again; raises the fault if it is not."""
        pause_s = self._patience_left().pause_s(fault, can_repeat=True)
        if pause_s is None:
            raise with_request_id(fault, self.open[0].request_id if self.open else "")
        return pause_s

    def _patience_left(self) -> Patience:
        if self._patience is None:
            spent_s = self._now_s() - self._progress_s
            left_s = max(self._timeout_s - spent_s, 0.001)
            self._patience = Patience(left_s, self._retries, now_s=self._now_s)
        return self._patience


def ended_early() -> errors.Unavailable:
    """The fault of a stream that ends well before everything is answered."""
    return errors.Unavailable("STREAM_ENDED", "the server ended the stream before its last reply")


def is_silent() -> errors.DeadlineExceeded:
    """The fault of a stream that does not answer."""
    return errors.DeadlineExceeded("NO_REPLY", "the stream has not answered within the time given")
