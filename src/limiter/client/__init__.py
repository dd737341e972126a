"""Clients of the service in Python: `limiter.Client` and `limiter.AsyncClient`.

In: what a caller knows about an attempt. Out: typed answers, or one of `limiter.errors`.

`exchanges` says what each call asks and how its reply is read, `patience` when it is repeated,
`streams` what a stream still owes. `blocking` and `asynchronous` only carry that out.
"""

from limiter.client.asynchronous import AsyncClient
from limiter.client.attempts import Attempt, AttemptFields, Recipient
from limiter.client.blocking import Client
from limiter.client.channels import Tls
from limiter.client.patience import Retries
from limiter.client.results import (
    BatchResult,
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
    RecipientResult,
    Restriction,
    Usage,
    UsageChange,
)

__all__ = [
    "AsyncClient",
    "Attempt",
    "AttemptFields",
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
]
