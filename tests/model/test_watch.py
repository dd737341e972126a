"""Watching, under everything that may happen: what was told last is how things stand.

The machine of `test_machine` goes on as ever; beside it templates are watched. Nobody asks for how
they stand unless the core has told of a change, or the instant has come that the last look named.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from limiter._watch import Watch, notify
from limiter.v1 import attempt_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.driver import CoreDriver, Driver, Fault
from tests.model.effort import examples
from tests.model.test_machine import Machine
from tests.model.verdicts import ALLOWED
from tests.model.windows import DAY_MS


def look(watch: Watch, now_ms: int) -> service_pb2.WatchUsageResponse:
    """How things stand at now_ms."""
    watch.look(now_ms)
    return service_pb2.WatchUsageResponse.FromString(watch.state + watch.time)


def to_somebody_new(template: attempt_pb2.Attempt) -> attempt_pb2.Attempt:
    """An attempt like the template; the address too is one that nobody has written to."""
    attempt = attempt_pb2.Attempt()
    attempt.CopyFrom(template)
    attempt.contact = template.contact or "never written to"
    attempt.address = template.address or "never written to"
    return attempt


@dataclass
class Watched:
    """A template under watch, and what was told last."""

    template: attempt_pb2.Attempt
    watch: Watch
    last: service_pb2.WatchUsageResponse


class WatchingMachine(Machine):
    """The same operations, and watchers."""

    watched: list[Watched]
    told: set[int]
    core: object = None

    def make_driver(self, now_ms: int) -> Driver:
        self.watched, self.told = [], set()
        return CoreDriver(now_ms)

    def under(self, driver: CoreDriver, template: attempt_pb2.Attempt) -> Watch:
        request = service_pb2.WatchUsageRequest(attempt=template)
        return Watch(driver._decider, request.SerializeToString())

    @precondition(lambda self: len(self.watched) < 4)
    @rule(data=st.data(), partly=st.booleans())
    def begin_to_watch(self, data: st.DataObject, partly: bool) -> None:
        driver = self.pair.driver
        assert isinstance(driver, CoreDriver)
        template = data.draw(strategies.attempts(whole=not partly), "template")
        watch = self.under(driver, template)
        self.watched.append(Watched(template, watch, look(watch, self.pair.now_ms)))

    @precondition(lambda self: self.watched)
    @rule()
    def wait_until_it_may_go(self) -> None:
        """One millisecond before the instant that was told it may not, and then it may."""
        driver = self.pair.driver
        assert isinstance(driver, CoreDriver)
        for each in self.watched:
            if each.last.allowed:
                continue
            copy = driver.fork()
            watch = self.under(copy, each.template)
            if each.last.HasField("retry_time"):
                retry_ms = each.last.retry_time.ToMilliseconds()
                assert not look(watch, retry_ms - 1).allowed
                assert look(watch, retry_ms).allowed
            else:
                assert not look(watch, self.pair.now_ms + 400 * DAY_MS).allowed

    @invariant()
    def what_was_told_last_is_how_it_stands(self) -> None:
        if not hasattr(self, "pair"):
            return
        driver = self.pair.driver
        assert isinstance(driver, CoreDriver)
        now_ms = self.pair.now_ms
        if driver._core is not self.core:
            # It is another one after a restart, and everybody looks again.
            self.core = driver._core
            notify(driver._core, self.told.add, None)
            for each in self.watched:
                each.watch = self.under(driver, each.template)
                each.last = look(each.watch, now_ms)
        for each in self.watched:
            if {0, each.watch.account} & self.told or now_ms >= each.watch.next_ms:
                each.last = look(each.watch, now_ms)
        self.told.clear()
        for each in self.watched:
            self.compare(driver, each)

    def compare(self, driver: CoreDriver, each: Watched) -> None:
        usage = driver.get_usage(service_pb2.GetUsageRequest(attempt=each.template))
        assert each.last.limit_statuses == usage.limit_statuses
        check = service_pb2.CheckRequest(attempt=to_somebody_new(each.template))
        # One that lacks a field which an enforced limit needs cannot be checked.
        with contextlib.suppress(Fault):
            decision = driver.check(check).decision
            assert each.last.allowed == (decision.outcome == ALLOWED)
            assert each.last.HasField("retry_time") == decision.HasField("retry_time")
            assert each.last.retry_time == decision.retry_time


TestWatching = WatchingMachine.TestCase
TestWatching.settings = examples(80, step_count=30)
