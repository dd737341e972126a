"""The audit: a server that has come back against the ledger, while nothing else is sent.

What flows in: a ledger without unknown entries. What flows out: differences, in words.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Final

import grpc

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2
from tests.crash.ledger import ALLOWED, DENIED, Batch, Ledger, Send
from tests.crash.load import CONTACTS, Clients, Load, policy
from tests.integration.process import PATIENCE_S

__all__ = [
    "audited",
    "probe_denied",
    "repeat_acknowledged",
    "repeat_cancelled",
    "usage_differences",
    "verify_edition",
]

# Calls under way at once.
_WINDOW: Final = 32

# How many of the cancelled and of the denied are tried once more.
_SAMPLE: Final = 20


async def audited(clients: Clients, load: Load, ledger: Ledger, rng: random.Random) -> str:
    """Asks for everything that has no answer and compares everything; returns what is wrong."""
    await load.retry_unknown()
    assert not ledger.unknown()
    await verify_edition(clients, ledger)
    await repeat_acknowledged(clients, load, ledger, ledger.acknowledged())
    await repeat_cancelled(clients, load, ledger, rng, _SAMPLE)
    await probe_denied(clients, ledger, rng, _SAMPLE)
    keys = [(account, contact) for account in ledger.accounts for contact in CONTACTS]
    return "\n".join(ledger.faults + await usage_differences(clients, ledger, keys))


async def verify_edition(clients: Clients, ledger: Ledger) -> None:
    """The policy stands at the last acknowledged edition or at one asked for later, and whole."""
    found = await clients.current_policy()
    for edition in range(ledger.edition, ledger.edition_asked + 1):
        expected = policy(edition)
        if found.display_name == expected.display_name and found.limits == expected.limits:
            ledger.edition = ledger.edition_asked = edition
            return
    ledger.faults.append(
        f"edition {ledger.edition} of the policy was acknowledged and {ledger.edition_asked} asked "
        f"for; the server has {found}"
    )


async def repeat_acknowledged(
    clients: Clients, load: Load, ledger: Ledger, entries: Iterable[Send | Batch]
) -> None:
    """Repeats what was acknowledged: the same answers must come, and nothing may count."""
    singles: list[Send] = []
    for entry in entries:
        if isinstance(entry, Batch):
            await load.ask(entry, is_repeat=True)
        else:
            singles.append(entry)
    async for send, reply in clients.exchange(singles):
        ledger.settle(send, reply, is_repeat=True)


async def repeat_cancelled(
    clients: Clients, load: Load, ledger: Ledger, rng: random.Random, most: int
) -> None:
    """Cancels some of the cancelled once more, and tries them: they stay what they are, and their
    ids are spent."""
    cancelled = [each for each in ledger.undoings if each.cancels]
    for undoing in rng.sample(cancelled, min(most, len(cancelled))):
        await load.ask(undoing)
        try:
            reply = await clients.decisions.Commit(undoing.send.request(), timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
        else:
            ledger.faults.append(f"cancelled, and answered by {reply}: {undoing.send}")


async def probe_denied(clients: Clients, ledger: Ledger, rng: random.Random, most: int) -> None:
    """Tries some of the denied once more: the server must see the room that the ledger sees."""
    denied = [send for send in ledger.singles if send.outcome == DENIED][-10 * most :]
    chosen = rng.sample(denied, min(most, len(denied)))
    async for send, reply in clients.exchange(chosen):
        expected = ledger.tally(send.account).fits(send)
        if (reply.decision.outcome == ALLOWED) != expected:
            word = "pass" if expected else "be denied"
            ledger.faults.append(f"by the ledger this must {word}: {send}; answered: {reply}")
        ledger.settle(send, reply, is_repeat=True)


async def usage_differences(
    clients: Clients, ledger: Ledger, keys: Iterable[tuple[str, str]]
) -> list[str]:
    """The sequences of these accounts and the counters of these (account, contact), against the
    ledger. The counters of an account alone are compared with each of its contacts."""
    window = asyncio.Semaphore(_WINDOW)

    async def compare(account: str, contact: str) -> list[str]:
        async with window:
            return await _compare(clients, ledger, account, contact)

    chosen = list(keys)
    found = await asyncio.gather(*(compare(account, contact) for account, contact in chosen))
    gaps = [ledger.gaps(account) for account in dict.fromkeys(account for account, _ in chosen)]
    return [line for lines in [*gaps, *found] for line in lines]


async def _compare(clients: Clients, ledger: Ledger, account: str, contact: str) -> list[str]:
    request = decision_service_pb2.GetUsageRequest(
        attempt=attempt_pb2.Attempt(account=account, contact=contact)
    )
    usage = await clients.decisions.GetUsage(request, timeout=PATIENCE_S)
    tally = ledger.tally(account)
    expected = {
        "contacts": len(tally.messages),
        "per-contact": tally.messages.get(contact, 0),
        "goal": sum(tally.messages.values()),
    }
    maxima = {limit.limit_id: limit.cap.max_count for limit in policy(ledger.edition).limits}
    found: dict[str, decision_pb2.LimitStatus] = {
        status.limit_id: status for status in usage.limit_statuses
    }
    if found.keys() != expected.keys():
        return [f"{account}: limits {sorted(found)} instead of {sorted(expected)}"]
    lines = [
        f"{account}/{contact}: {limit_id}: server {found[limit_id].used_count} of "
        f"{found[limit_id].max_count}, ledger {used_count} of {maxima[limit_id]}"
        for limit_id, used_count in expected.items()
        if (found[limit_id].used_count, found[limit_id].max_count) != (used_count, maxima[limit_id])
    ]
    if found["per-contact"].used_count != expected["per-contact"]:
        lines += [f"    {send}" for send in ledger.sends_of(account, contact)]
    return lines
