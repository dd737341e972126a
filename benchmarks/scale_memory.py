"""What a contact costs in memory, with its share of its account, in a process of its own.

`python -m benchmarks.scale_memory ACCOUNTS CONTACTS CAPS` fills a core and prints JSON. Bytes are
those that malloc has given out, with the heads of its pieces and what it rounds up, and beside them
what the process has grown by, which counts holes between pieces too. Everything that an account
costs is in it: names, structs, indices and counters. What is there once, such as the buffer of the
journal's group, is there before it is measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

import psutil

from benchmarks.workload import START_MS, Engine, Population, account_name, assign
from limiter import bounds, model
from limiter.v1 import attempt_pb2, decision_service_pb2

__all__ = ["CAPS", "POPULATIONS", "Fields", "Footprint", "Memory", "footprint", "requests"]

ROOT: Final = Path(__file__).resolve().parent.parent

# One large account, very many small ones, and many of the size of the first product's limit.
POPULATIONS: Final = (
    Population(1, 10_000_000),
    Population(1_000_000, 10),
    Population(100_000, 200),
)

# Recipients of one batch.
BLOCK: Final = 1_000

_DAY: Final = model.RollingWindow(bounds.DAY_MS)
_WEEK: Final = model.RollingWindow(7 * bounds.DAY_MS)
_ANYBODY: Final = 10**9


def _per_recipient(limit_id: str, *per: model.Dimension) -> model.Limit:
    return model.Limit(limit_id, model.Cap(model.Measure.MESSAGES, _ANYBODY, per, _WEEK))


# People in 24 hours; and beside it what the third product keeps about each recipient.
PEOPLE: Final = model.Limit("people", model.Cap(model.Measure.CONTACTS, 20_000_000, (), _DAY))
CAPS: Final = {
    "people": (PEOPLE,),
    "recipients": (
        PEOPLE,
        _per_recipient("overall", model.Dimension.CONTACT),
        _per_recipient("resource", model.Dimension.CONTACT, model.Dimension.RESOURCE),
        _per_recipient("channel", model.Dimension.CONTACT, model.Dimension.CHANNEL),
        _per_recipient("address", model.Dimension.ADDRESS),
    ),
}


@dataclass(frozen=True, slots=True)
class Fields:
    """What an attempt names: a contact and a channel, or all that the third product does."""

    is_full: bool

    def attempt(self, account: str) -> attempt_pb2.Attempt:
        """An attempt of an account without its recipient."""
        if self.is_full:
            return attempt_pb2.Attempt(
                account=account, channel="sms", resource="shop", campaign="spring"
            )
        return attempt_pb2.Attempt(account=account)

    def address(self, contact: str) -> str:
        """The contact's address; empty where attempts name none."""
        return f"+{contact}" if self.is_full else ""


# A block's number, left open in the serialized recipients of all of them.
_OPEN: Final = b"#######"


@cache
def _open_recipients(count: int, fields: Fields) -> bytes:
    request = decision_service_pb2.CommitBatchRequest()
    for number in range(count):
        contact = f"{_OPEN.decode()}.{number:05}"
        request.recipients.add(contact=contact, address=fields.address(contact))
    return request.SerializeToString()


def requests(
    population: Population, fields: Fields, first_account: int = 0
) -> Iterator[tuple[bytes, int]]:
    """Serialized CommitBatchRequests to every contact of every account once, and how many each is
    to."""
    block = 0
    for account in range(first_account, first_account + population.account_count):
        head = decision_service_pb2.CommitBatchRequest(
            attempt=fields.attempt(account_name(account))
        ).SerializeToString()
        left = population.contact_count
        while left:
            count = min(left, BLOCK)
            recipients = _open_recipients(count, fields)
            yield head + recipients.replace(_OPEN, b"%07d" % block), count
            left -= count
            block += 1


class _Mallinfo(ctypes.Structure):
    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _given_bytes() -> int:
    """What malloc has given out: pieces of its heap, and those mapped one by one."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Mallinfo
    gc.collect()
    now = library.mallinfo2()
    return int(now.uordblks + now.hblkhd)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a population took, in bytes for each of its contacts."""

    contact_count: int
    given_bytes: float
    resident_bytes: float


def fill(engine: Engine, population: Population, fields: Fields, first_account: int = 0) -> None:
    """Gives every account its contacts over half a day. Raises RuntimeError unless all were
    counted."""
    done = 0
    for request, count in requests(population, fields, first_account):
        now_ms = START_MS + done * (bounds.DAY_MS // 2) // population.pair_count
        reply, _ = engine.decider.commit_batch(request, now_ms)
        if done % (100 * BLOCK) < count:
            accepted = decision_service_pb2.CommitBatchResponse.FromString(reply).accepted_count
            if accepted != count:
                raise RuntimeError(f"only {accepted} of {count} recipients were counted")
        engine.core.take_group()
        done += count
    if done != population.pair_count or engine.core.appended < done:
        raise RuntimeError(f"{engine.core.appended} events were made of {done} recipients")


def measured(population: Population, caps: str) -> Footprint:
    """Fills a core of this process and measures it."""
    fields = Fields(caps == "recipients")
    engine = Engine.make()
    assign(engine.store, CAPS[caps], START_MS)
    # What every core has: policies, buffers, names that all accounts share.
    fill(engine, Population(1, BLOCK), fields, population.account_count)
    process = psutil.Process()
    given, resident = _given_bytes(), process.memory_info().rss
    fill(engine, population, fields)
    pairs = population.pair_count
    return Footprint(
        pairs,
        (_given_bytes() - given) / pairs,
        (process.memory_info().rss - resident) / pairs,
    )


def footprint(population: Population, caps: str) -> Footprint:
    """The same in a process of its own, whose heap nothing else has used."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.scale_memory",
            str(population.account_count),
            str(population.contact_count),
            caps,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Footprint(**json.loads(done.stdout))


class Memory:
    """Bytes that a contact costs, by population and caps."""

    params: ClassVar = [
        [f"{each.account_count} x {each.contact_count}" for each in POPULATIONS],
        list(CAPS),
    ]
    param_names: ClassVar = ["population", "caps"]
    unit = "bytes"
    timeout = 3600
    scale = 0.01

    def track_bytes_per_contact(self, name: str, caps: str) -> float:
        accounts, contacts = (int(part) for part in name.split(" x "))
        return footprint(scaled(Population(accounts, contacts), self.scale), caps).given_bytes


def scaled(population: Population, scale: float) -> Population:
    """Fewer accounts of the same size; of a single one fewer contacts."""
    if population.account_count == 1:
        return Population(1, max(BLOCK, int(population.contact_count * scale)))
    return Population(max(10, int(population.account_count * scale)), population.contact_count)


if __name__ == "__main__":
    print(json.dumps(asdict(measured(Population(int(sys.argv[1]), int(sys.argv[2])), sys.argv[3]))))
