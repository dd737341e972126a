"""One account fills what waits for the journal: the others are still taken in."""

from __future__ import annotations

import pytest

from limiter import bounds, errors, kinds, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter.policy import PolicyStore
from limiter.v1 import attempt_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2

NOW_MS = 1_800_000_000_000


class Service:
    """A core whose open group nobody takes."""

    def __init__(self) -> None:
        store = PolicyStore()
        self.core = Core(bytes(32), store.bind, kinds.define_kind)
        store.connect(self.core)
        self.decider = Decider(self.core, kinds.compile_inline, zones.zone)

    def commit(self, account: str) -> None:
        attempt = attempt_pb2.Attempt(account=account, contact="c")
        request = service_pb2.CommitRequest(attempt=attempt)
        self.decider.commit(request.SerializeToString(), NOW_MS)

    def batch(self, account: str, size: int = 10_000) -> None:
        request = service_pb2.CommitBatchRequest(
            attempt=attempt_pb2.Attempt(account=account),
            recipients=[service_pb2.Recipient(contact=f"c{number}") for number in range(size)],
        )
        self.decider.commit_batch(request.SerializeToString(), NOW_MS)

    def fill(self, account: str, pending_bytes: int = bounds.SHARED_JOURNAL_BYTES) -> None:
        """Batches until that much waits."""
        while self.core.pending_bytes <= pending_bytes:
            self.batch(account)


def test_who_fills_half_of_the_room_alone_is_refused_and_others_are_not() -> None:
    service = Service()
    service.fill("much")
    appended = service.core.appended
    for ask in (service.commit, service.batch):
        with pytest.raises(errors.OverShare, match="most of it is this account's") as caught:
            ask("much")
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert caught.value.reason == "OVERLOADED"
        assert caught.value.retry_after_ms == bounds.RETRY_AFTER_MS
    assert service.core.appended == appended
    service.commit("new")
    service.commit("new")
    service.batch("other", 100)
    with pytest.raises(errors.OverShare):
        service.commit("much")


def test_it_may_still_ask_what_changes_nothing() -> None:
    service = Service()
    service.fill("much")
    attempt = attempt_pb2.Attempt(account="much", contact="c")
    check = service_pb2.CheckRequest(attempt=attempt)
    assert service.decider.check(check.SerializeToString(), NOW_MS)


def test_below_half_of_the_room_nobody_is_refused() -> None:
    service = Service()
    service.fill("much", bounds.SHARED_JOURNAL_BYTES - 1_000_000)
    assert service.core.pending_bytes <= bounds.SHARED_JOURNAL_BYTES
    service.commit("much")


def test_the_next_group_is_counted_anew() -> None:
    service = Service()
    service.fill("much")
    with pytest.raises(errors.OverShare):
        service.commit("much")
    assert service.core.take_group() is not None
    service.commit("much")
    service.fill("other")
    service.commit("much")
    with pytest.raises(errors.OverShare):
        service.commit("other")


def test_of_many_accounts_those_are_refused_that_hold_more_than_the_average() -> None:
    service = Service()
    names = [f"a{number}" for number in range(1_000)]
    while service.core.pending_bytes <= bounds.SHARED_JOURNAL_BYTES:
        for number, name in enumerate(names):
            service.batch(name, 40 if number < 100 else 10)
    for name in names[:100]:
        with pytest.raises(errors.OverShare):
            service.commit(name)
    for name in names[100:]:
        service.commit(name)


def test_denials_fill_the_room_too() -> None:
    service = Service()
    attempt = attempt_pb2.Attempt(account="denied", contact="c")
    commit = service_pb2.CommitRequest(attempt=attempt)
    inline = commit.inline_limits.add(limit_id="none", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    inline.cap.measure = policy_pb2.MEASURE_MESSAGES
    inline.cap.window.rolling.FromSeconds(60)
    request = commit.SerializeToString()
    while service.core.pending_bytes <= bounds.SHARED_JOURNAL_BYTES:
        service.decider.commit(request, NOW_MS)
    with pytest.raises(errors.OverShare):
        service.decider.commit(request, NOW_MS)
    service.commit("other")
