"""The audit finds a server that holds something else than the ledger."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limiter.store import LmdbJournal
from tests.crash.audit import (
    probe_denied,
    repeat_acknowledged,
    usage_differences,
    verify_edition,
)
from tests.crash.ledger import DENIED, Ledger, Send
from tests.crash.load import Clients, Load
from tests.integration.inside import serving
from tests.integration.process import START_MS


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        clients = Clients([inside.channel])
        await clients.set_up()
        yield clients


async def commit(clients: Clients, ledger: Ledger, contact: str, request_id: str) -> Send:
    send = Send("a", contact, 2, request_id, 0)
    ledger.add(send)
    await Load(clients, ledger, random.Random(0), 0, ["a"]).ask(send)
    return send


async def test_a_right_server_is_found_right(clients: Clients) -> None:
    ledger = Ledger()
    for number in range(3):
        await commit(clients, ledger, f"c{number}", f"r{number}")
    assert await usage_differences(clients, ledger, [("a", "c0"), ("a", "c7")]) == []
    await verify_edition(clients, ledger)
    assert ledger.faults == []


async def test_what_counted_behind_the_ledgers_back_is_found(clients: Clients) -> None:
    ledger = Ledger()
    await commit(clients, ledger, "c0", "r0")
    await commit(clients, Ledger(), "c0", "r1")
    lines = await usage_differences(clients, ledger, [("a", "c0")])
    assert [line.strip() for line in lines[:2]] == [
        "a/c0: per-contact: server 4 of 8, ledger 2 of 8",
        "a/c0: goal: server 4 of 1000000, ledger 2 of 1000000",
    ]
    # With the attempts that the ledger knows.
    assert "'r0'" in lines[2]
    # A hole shows as soon as something is counted behind it.
    await commit(clients, ledger, "c1", "r2")
    assert any("missing: [2]" in line for line in ledger.gaps("a"))


async def test_what_a_disk_lost_that_lies_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        clients = Clients([inside.channel])
        await clients.set_up()
        await commit(clients, ledger, "c0", "r0")
        monkeypatch.setattr(LmdbJournal, "append", lambda *_: None)
        lost = await commit(clients, ledger, "c0", "r1")
        await commit(clients, ledger, "c1", "r2")
    monkeypatch.undo()
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        clients = Clients([inside.channel])
        assert await usage_differences(clients, ledger, [("a", "c0")]) != []
        assert ledger.faults == []
        # Asked for again, what was lost counts as if for the first time.
        load = Load(clients, ledger, random.Random(0), 0, ["a"])
        await repeat_acknowledged(clients, load, ledger, [lost])
        assert len(ledger.faults) == 1
        assert "counted again" in ledger.faults[0]


async def test_what_a_server_counts_twice_that_forgets_request_ids_is_found(
    clients: Clients,
) -> None:
    ledger = Ledger()
    # Counted without an answer; asked for again under an id that the server does not know.
    await commit(clients, Ledger(), "c0", "forgotten")
    await commit(clients, ledger, "c0", "r0")
    lines = await usage_differences(clients, ledger, [("a", "c0")])
    assert any("per-contact: server 4 of 8, ledger 2 of 8" in line for line in lines)
    assert any("missing: [1]" in line for line in ledger.gaps("a"))


async def test_an_edition_that_was_lost_is_found(clients: Clients) -> None:
    ledger = Ledger()
    ledger.edition = ledger.edition_asked = 1
    await verify_edition(clients, ledger)
    assert len(ledger.faults) == 1


async def test_room_that_the_ledger_does_not_see_is_found(clients: Clients) -> None:
    ledger = Ledger()
    # Four of two messages each fill what one contact may get.
    for number in range(4):
        await commit(clients, ledger, "c0", f"r{number}")
    denied = await commit(clients, ledger, "c0", "r4")
    assert denied.outcome == DENIED
    await probe_denied(clients, ledger, random.Random(0), 5)
    assert ledger.faults == []
    ledger.tally("a").messages["c0"] = 6
    await probe_denied(clients, ledger, random.Random(0), 5)
    assert len(ledger.faults) == 1
    assert "must pass" in ledger.faults[0]
