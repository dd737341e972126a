"""kill -9 at random moments under load: nothing acknowledged is lost, nothing counts twice.

LIMITER_CRASH_ROUNDS says how often the server is killed under load (default 3). The draws follow
LIMITER_CRASH_SEED, which a run prints; where in the server a kill falls follows the machine.

One round is one life of the server: what the life before left unknown is retried under the same
request ids (and now and then that is where the next kill falls), the server is compared with the
ledger, and the load runs until the kill. Many rounds go in two lanes, each with a folder and a
ledger of its own, so that one server starts while the other one works.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.crash.audit import (
    probe_denied,
    repeat_acknowledged,
    repeat_cancelled,
    usage_differences,
    verify_edition,
)
from tests.crash.ledger import Batch, Ledger, Send
from tests.crash.load import CONTACTS, Clients, Load, connected
from tests.integration.process import ServerProcess

_T = TypeVar("_T")

ROUNDS: Final = int(os.environ.get("LIMITER_CRASH_ROUNDS", "3"))

# Accounts under load at a time, and how many of them are new in each round, so that there are
# always some with room and some that are full.
_ACCOUNTS: Final = 6
_NEW_ACCOUNTS: Final = 2

# Each round looks at what the last two have done, at a sample of what is older, and in each account
# at a sample of the contacts; the end looks at all.
_RECENT_ROUNDS: Final = 2
_OLD_ENTRIES: Final = 50
_OLD_ACCOUNTS: Final = 2
_SAMPLED_CONTACTS: Final = 6


class Crashes:
    """One run: a data folder, a ledger, and a server that is killed and comes back."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.ledger = Ledger()
        self.life_count = 0
        self._data_dir = data_dir
        self._seed = seed
        self._rng = random.Random(seed)

    async def run(self, round_count: int) -> None:
        """So many rounds, and a life that ends well, in which all is audited."""
        for number in range(round_count):
            await self._round(number)
        async with self._life(round_count, exit_code=0) as (server, clients, load):
            await self._audit(clients, load, None)
            server.signal(signal.SIGTERM)

    async def _round(self, number: int) -> None:
        """One life, ended by a kill under load. First more, if the kills fall on the retries."""
        while self._rng.random() < 0.1 and self.ledger.unknown():
            async with self._life(number) as (server, _, load):
                await load.retry_until_killed(server, self._rng.uniform(0, 0.03))
        async with self._life(number) as (server, clients, load):
            if number == 0:
                await clients.set_up()
            await self._audit(clients, load, number)
            # At a random moment on a slow machine too, where little is done in a short time.
            answer_count, delay_s = self._rng.randint(1, 100), self._rng.uniform(0.02, 0.3)
            await load.run_until_killed(server, answer_count, delay_s)

    def summary(self) -> str:
        """What happened, in one line."""
        ledger = self.ledger
        commit_count = sum(len(ledger.tally(account).sequences) for account in ledger.accounts)
        return (
            f"{self.life_count} lives, {len(ledger.singles)} attempts and {len(ledger.batches)} "
            f"batches, {ledger.edition} edits of the policy, {commit_count} commits allowed in "
            f"{len(ledger.accounts)} accounts, {len(ledger.undoings)} confirmed or cancelled; "
            f"unknown at a kill and then allowed: "
            f"{ledger.found_count} had been counted, {ledger.fresh_count} had not"
        )

    @asynccontextmanager
    async def _life(
        self, number: int, exit_code: int = -signal.SIGKILL
    ) -> AsyncIterator[tuple[ServerProcess, Clients, Load]]:
        """A server that must end with the exit code; the log is shown if anything fails."""
        self.life_count += 1
        server = await _started(self._data_dir)
        try:
            async with connected(server) as clients:
                load = Load(clients, self.ledger, self._rng, number, _names(number))
                yield server, clients, load
            assert server.wait() == exit_code
        except BaseException:
            print(f"seed {self._seed}, round {number}, the server's log:\n{server.log}")
            raise
        finally:
            server.close()

    async def _audit(self, clients: Clients, load: Load, number: int | None) -> None:
        """Compares what came back with the ledger: all of it if `number` is None."""
        ledger = self.ledger
        await load.retry_unknown()
        assert not ledger.unknown()
        await verify_edition(clients, ledger)
        await repeat_acknowledged(clients, load, ledger, self._entries(number))
        await repeat_cancelled(clients, load, ledger, self._rng, 20)
        await probe_denied(clients, ledger, self._rng, 20)
        differences = await usage_differences(clients, ledger, self._keys(number))
        report = "\n".join(ledger.faults + differences)
        assert not report, f"seed {self._seed}, round {number}:\n{report}"

    def _entries(self, number: int | None) -> list[Send | Batch]:
        entries = self.ledger.acknowledged()
        if number is None:
            return entries
        recent, old = _split(entries, lambda entry: _round_of(entry) >= number - _RECENT_ROUNDS)
        return recent + self._sample(old, _OLD_ENTRIES)

    def _keys(self, number: int | None) -> list[tuple[str, str]]:
        """Whose counters are compared, as (account, contact)."""
        accounts = self.ledger.accounts
        if number is None:
            return [(account, contact) for account in accounts for contact in CONTACTS]
        names = {name for back in range(_RECENT_ROUNDS) for name in _names(number - 1 - back)}
        recent, old = _split(accounts, lambda account: account in names)
        return [
            (account, contact)
            for account in recent + self._sample(old, _OLD_ACCOUNTS)
            for contact in self._sample(CONTACTS, _SAMPLED_CONTACTS)
        ]

    def _sample(self, items: list[_T], most: int) -> list[_T]:
        return self._rng.sample(items, min(most, len(items)))


async def _started(data_dir: Path) -> ServerProcess:
    """A server that serves; none is left behind if the other lane fails meanwhile."""
    starting = asyncio.ensure_future(asyncio.to_thread(ServerProcess, data_dir, clock="system"))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        (await starting).close()
        raise


def _names(number: int) -> list[str]:
    """The accounts that a round sends for."""
    first = number * _NEW_ACCOUNTS
    return [f"a{first + place}" for place in range(_ACCOUNTS)]


def _round_of(entry: Send | Batch) -> int:
    return (entry.sends[0] if isinstance(entry, Batch) else entry).round_number


def _split(items: Iterable[_T], condition: Callable[[_T], bool]) -> tuple[list[_T], list[_T]]:
    chosen: list[_T] = []
    rest: list[_T] = []
    for item in items:
        (chosen if condition(item) else rest).append(item)
    return chosen, rest


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * ROUNDS)
async def test_kills_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("LIMITER_CRASH_SEED") or random.SystemRandom().randrange(2**32))
    print(f"LIMITER_CRASH_SEED={seed}")
    lane_count = 2 if ROUNDS >= 10 else 1
    lanes = [Crashes(tmp_path / f"lane-{lane}", seed + lane) for lane in range(lane_count)]
    async with asyncio.TaskGroup() as running:
        for place, lane in enumerate(lanes):
            running.create_task(lane.run((ROUNDS + place) // lane_count))
    with capsys.disabled():
        print(f"\n{ROUNDS} kills under load, LIMITER_CRASH_SEED={seed}")
        for lane in lanes:
            print(f"  {lane.summary()}")
    # The kills were felt: attempts were under way, and in the long run some of them had been
    # counted and some had not.
    found_count = sum(lane.ledger.found_count for lane in lanes)
    fresh_count = sum(lane.ledger.fresh_count for lane in lanes)
    assert found_count + fresh_count > 0
    assert ROUNDS < 50 or min(found_count, fresh_count) > 0
