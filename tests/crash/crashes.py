"""Lives of a server that each end with a kill, and a ledger outside it.

What flows in: a folder, random numbers, a nursery of servers behind the disk's shim and the shim's
control. What flows out: what happened, counted, or an AssertionError that says what was lost or
counted twice.

One round is one life of the server: what the life before left unknown is retried under the same
request ids, the server is compared with the ledger, and the load runs until the kill. That falls at
a random moment, or right before, after or into an operation on the disk. Now and then there is a
short life before, which ends while the server starts, or while it is asked for what is unknown.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.crash.audit import (
    probe_denied,
    repeat_acknowledged,
    repeat_cancelled,
    usage_differences,
    verify_edition,
)
from tests.crash.ledger import Batch, Ledger, Send
from tests.crash.load import CONTACTS, Clients, Death, Load, connected
from tests.disk.shim import Control
from tests.integration.forking import Nursery
from tests.integration.process import ServerProcess

__all__ = ["Crashes", "told"]

_T = TypeVar("_T")

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

# How often a life is a short one; and how many operations on the disk a start comes to, one that
# makes the folder and any other.
_SHORT: Final = 0.15
_FIRST_START_OPERATIONS: Final = 44
_START_OPERATIONS: Final = 10

# How often a kill falls at an operation on the disk, and on which files and how soon; a group takes
# a few operations, and so does a slice of images.
_AT_OPERATION: Final = 0.5
_OPERATIONS: Final = {"": 40, "data/journal/": 40, "data/images/": 20}

# What servers are told besides, each life one of these. With little memory accounts leave it and
# come back all the time, and then there are images, baselines too, between the journal's groups.
_FLAGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"restrictions_retention_ms": 0},
    {"memory_bytes_max": 1, "baseline_lag_events_max": 1},
    {"memory_bytes_max": 1, "baseline_lag_events_max": 200},
    {"memory_bytes_max": 100_000, "baseline_lag_events_max": 50},
)


class Crashes:
    """One run: a data folder below the shim's root, a ledger, and a server that is killed and comes
    back."""

    def __init__(self, root: Path, seed: int, nursery: Nursery, control: Control) -> None:
        self.ledger = Ledger()
        # What has happened so far, by what it is.
        self.counts: Counter[str] = Counter()
        self._data_dir = root / "data"
        self._seed = seed
        self._rng = random.Random(seed)
        self._nursery = nursery
        self._control = control

    async def run(self, round_count: int) -> None:
        """So many rounds, and a life that ends well, in which all is audited."""
        for number in range(round_count):
            await self._round(number)
        async with self._life(round_count, exit_code=0) as (server, clients, load):
            await self._audit(clients, load, None)
            server.signal(signal.SIGTERM)
        self._count_ledger()

    async def _round(self, number: int) -> None:
        """One life, ended by a kill under load, and short ones before it."""
        while self._rng.random() < _SHORT:
            await self._short_life(number)
        async with self._life(number) as (server, clients, load):
            if number == 0:
                await clients.set_up()
            await self._audit(clients, load, number)
            death = self._draw_death("memory_bytes_max" in server.settings)
            if not await load.run_until_dead(server, death, self._control):
                self.counts["kills at a moment"] += 1
            elif "images" in death.name:
                self.counts["kills at an operation on images"] += 1
            else:
                self.counts["kills at an operation on the disk"] += 1
            self._control.heal()

    def _draw_death(self, has_images: bool) -> Death:
        # At a random moment on a slow machine too, where little is done in a short time.
        answer_count, delay_s = self._rng.randint(1, 100), self._rng.uniform(0.02, 0.3)
        if self._rng.random() >= _AT_OPERATION:
            return Death(answer_count, delay_s)
        names = [name for name in _OPERATIONS if has_images or "images" not in name]
        name = self._rng.choice(names)
        place = self._rng.randint(1, _OPERATIONS[name])
        return Death(answer_count, 0, place, name, *self._draw_how())

    def _draw_how(self) -> tuple[bool, bool]:
        """Whether a kill falls right after an operation, or when half of it is done; else it falls
        right before it."""
        return self._rng.choice(((False, False), (True, False), (False, True)))

    async def _short_life(self, number: int) -> None:
        """One that ends before anything new is sent: half of them while the server starts."""
        is_doomed = self._rng.random() < 0.5
        if is_doomed:
            is_first = not self._data_dir.exists()
            most = _FIRST_START_OPERATIONS if is_first else _START_OPERATIONS
            after, half = self._draw_how()
            self._control.end(self._rng.randint(1, most), after=after, half=half)
        delay_s = self._rng.uniform(0, 0.03)
        async with self._started(number, -signal.SIGKILL) as server:
            if not server.ready_line:
                self.counts["kills in a start"] += 1
                return
            self.counts["kills in retries"] += 1
            async with connected(server, stands=not is_doomed) as clients:
                load = Load(clients, self.ledger, self._rng, number, _names(number))
                await load.retry_until_killed(server, delay_s, is_doomed=is_doomed)

    def _count_ledger(self) -> None:
        ledger = self.ledger
        self.counts["attempts"] = len(ledger.singles)
        self.counts["batches"] = len(ledger.batches)
        self.counts["edits of the policy"] = ledger.edition
        self.counts["commits allowed"] = sum(
            len(ledger.tally(account).sequences) for account in ledger.accounts
        )
        self.counts["confirmed"] = sum(not each.cancels for each in ledger.undoings)
        self.counts["cancelled"] = sum(each.cancels for each in ledger.undoings)
        self.counts["unknown at a kill that had been counted"] = ledger.found_count
        self.counts["unknown at a kill that had not"] = ledger.fresh_count

    @asynccontextmanager
    async def _life(
        self, number: int, exit_code: int = -signal.SIGKILL
    ) -> AsyncIterator[tuple[ServerProcess, Clients, Load]]:
        """A server that serves, with clients, and must end with the exit code."""
        async with self._started(number, exit_code) as server, connected(server) as clients:
            yield server, clients, Load(clients, self.ledger, self._rng, number, _names(number))

    @asynccontextmanager
    async def _started(self, number: int, exit_code: int) -> AsyncIterator[ServerProcess]:
        """A server that serves, or has died meanwhile, and must end with the exit code; the log is
        shown if anything fails. Nothing ends at an operation on the disk from then on."""
        flags = self._rng.choice(_FLAGS)
        self.counts["lives"] += 1
        server = await asyncio.to_thread(
            ServerProcess, self._data_dir, self._nursery, clock="system", **flags
        )
        self._control.heal()
        try:
            yield server
            assert server.wait() == exit_code
        except BaseException:
            print(f"seed {self._seed}, round {number}, {flags}, the server's log:\n{server.log}")
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


def told(counts: Counter[str]) -> str:
    """Counts in words, in one line."""
    return ", ".join(f"{count} {what}" for what, count in counts.items())


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
