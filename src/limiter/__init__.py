"""Decides, exactly and durably, whether a message may go to a contact now, and if not, when.

`limiter.Client` and `limiter.AsyncClient` ask a server. They and their values are imported when
they are first used, so that what needs no gRPC does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limiter.client import (
        AsyncClient,
        Attempt,
        BatchResult,
        Client,
        Commit,
        Commitment,
        CommitmentState,
        Decision,
        Enforcement,
        LimitStatus,
        Outcome,
        Plan,
        PlannedSend,
        Reason,
        Recipient,
        RecipientResult,
        Restriction,
        Retries,
        Tls,
        Usage,
        UsageChange,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Attempt",
    "BatchResult",
    "Client",
    "Commit",
    "Commitment",
    "CommitmentState",
    "Decision",
    "Enforcement",
    "LimitStatus",
    "Outcome",
    "Plan",
    "PlannedSend",
    "Reason",
    "Recipient",
    "RecipientResult",
    "Restriction",
    "Retries",
    "Tls",
    "Usage",
    "UsageChange",
    "__version__",
]


if not TYPE_CHECKING:  # Type checkers would take it for a leave to name anything.

    def __getattr__(name: str) -> object:
        """What `limiter.client` has, imported at its first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from limiter import client

        return getattr(client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
