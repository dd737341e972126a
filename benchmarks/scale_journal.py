"""Bytes of the journal for each commit, as the core packs them and the journal frames them.

Unary Commits go to random people of random accounts, each of whom was written to before, so that an
event names the previous ones of its account, contact and address. Their groups are those of a
server with a few hundred calls under way. Names are defined before what is measured.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar, Final

from benchmarks.scale_memory import CAPS, Fields, fill
from benchmarks.workload import START_MS, Engine, Population, account_name, assign
from limiter import bounds
from limiter.journal import encode_group
from limiter.v1 import decision_pb2, decision_service_pb2

__all__ = ["JournalBytes", "journal_bytes"]

COMMITS: Final = 20_000
GROUP: Final = 256
_SEED: Final = 20_270_115


def journal_bytes(population: Population, fields: Fields, commit_count: int = COMMITS) -> float:
    """The average. Raises RuntimeError unless every commit was allowed."""
    engine = Engine.make()
    assign(engine.store, CAPS["recipients" if fields.is_full else "people"], START_MS)
    fill(engine, population, fields)
    random = Random(_SEED)
    now_ms = START_MS + bounds.DAY_MS // 2
    written = checksum = 0
    for number in range(1, commit_count + 1):
        account = random.randrange(population.account_count)
        contact = f"{account:07}.{random.randrange(population.contact_count):05}"
        attempt = fields.attempt(account_name(account))
        attempt.contact = contact
        attempt.address = fields.address(contact)
        request = decision_service_pb2.CommitRequest(attempt=attempt, view=decision_pb2.VIEW_BASIC)
        reply, _ = engine.decider.commit(request.SerializeToString(), now_ms + number)
        if not decision_service_pb2.CommitResponse.FromString(reply).commit_id:
            raise RuntimeError("a commit of the benchmark was not allowed")
        if number % GROUP == 0 or number == commit_count:
            group = engine.core.take_group()
            assert group is not None
            record, checksum = encode_group(0, group[0], group[2], group[1], checksum)
            written += len(record)
    return written / commit_count


class JournalBytes:
    """Bytes a commit, with a contact alone and with all that the third product names."""

    params: ClassVar = [[False, True]]
    param_names: ClassVar = ["full"]
    unit = "bytes"
    timeout = 600
    population = Population(10_000, 10)
    commit_count = COMMITS

    def track_bytes_per_commit(self, is_full: bool) -> float:
        return journal_bytes(self.population, Fields(is_full), self.commit_count)
