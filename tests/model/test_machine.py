"""Everything at once: any mixture of commits, checks, batches, edits, waiting and restarts.

Every field of every reply is compared with the oracle's, so each invariant is tested here under all
the others' conditions; test_invariants has them one by one.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from limiter.v1 import account_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.driver import CoreDriver, Driver
from tests.model.effort import examples
from tests.model.pair import Pair
from tests.model.verdicts import ALLOWED, DENIED
from tests.model.windows import DAY_MS


class Machine(RuleBasedStateMachine):
    """The service and the oracle under the same random operations."""

    def make_driver(self, now_ms: int) -> Driver:
        return CoreDriver(now_ms)

    @initialize(data=st.data(), start_ms=strategies.starts())
    def begin(self, data: st.DataObject, start_ms: int) -> None:
        self.pair = Pair(self.make_driver(start_ms), start_ms)
        self.pool = data.draw(strategies.pools(), "windows")
        self.choices = data.draw(strategies.inline_choices(self.pool), "inline limits")
        self.asked: list[service_pb2.CommitRequest | service_pb2.CommitBatchRequest] = []
        self.edit(data)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.driver.close()

    # ---- one attempt

    @rule(data=st.data(), check_first=st.booleans())
    def commit(self, data: st.DataObject, check_first: bool) -> None:
        request = data.draw(strategies.commits(self.choices), "commit")
        before = self.pair.check(strategies.check_of(request)) if check_first else None
        response = self.pair.commit(request)
        if response is None:
            return
        if response.decision.outcome == ALLOWED and request.request_id:
            self.asked.append(request)
        if before is not None and not response.replayed:
            assert response.decision == before.decision

    @rule(data=st.data())
    def commit_on_terms(self, data: st.DataObject) -> None:
        """One that is held, or recorded."""
        request = data.draw(strategies.commits(self.choices), "commit")
        strategies.set_terms(strategies.Dice(data.draw), request, self.pair.now_ms)
        response = self.pair.commit(request)
        if response is not None and response.decision.outcome == ALLOWED and request.request_id:
            self.asked.append(request)

    @precondition(lambda self: self.pair.commit_ids)
    @rule(data=st.data(), confirm=st.booleans())
    def settle(self, data: st.DataObject, confirm: bool) -> None:
        """Cancels or confirms a commit, mostly one of the newest."""
        known = list(self.pair.commit_ids.items())
        newest = data.draw(st.integers(0, len(known) - 1), "how far back")
        (account, _), commit_id = known[-1 - newest]
        if confirm:
            self.pair.confirm(account, commit_id=commit_id)
        else:
            self.pair.cancel(account, commit_id=commit_id)

    @rule(data=st.data(), confirm=st.booleans())
    def settle_by_request_id(self, data: st.DataObject, confirm: bool) -> None:
        account = data.draw(st.sampled_from(strategies.ACCOUNTS), "account")
        request_id = data.draw(st.sampled_from(("id-1", "id-2", "id-3")), "request_id")
        act = self.pair.confirm if confirm else self.pair.cancel
        act(account, request_id=request_id)

    @precondition(lambda self: self.pair.commit_ids)
    @rule(data=st.data())
    def settle_in_the_wrong_account(self, data: st.DataObject) -> None:
        known = list(self.pair.commit_ids.items())
        (account, _), commit_id = data.draw(st.sampled_from(known), "commit")
        other = next(name for name in strategies.ACCOUNTS if name != account)
        assert self.pair.cancel(other, commit_id=commit_id) is None

    @rule(data=st.data())
    def check(self, data: st.DataObject) -> None:
        request = data.draw(strategies.commits(self.choices), "check")
        self.pair.check(strategies.check_of(request))

    @rule(data=st.data(), partly=st.booleans())
    def get_usage(self, data: st.DataObject, partly: bool) -> None:
        self.pair.get_usage(data.draw(strategies.attempts(whole=not partly), "template"))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.asked), "repeated")
        if isinstance(request, service_pb2.CommitRequest):
            self.pair.commit(request)
        else:
            self.pair.commit_batch(request)

    # ---- batches

    @rule(data=st.data(), check_first=st.booleans())
    def commit_batch(self, data: st.DataObject, check_first: bool) -> None:
        request = data.draw(strategies.batches(self.choices), "batch")
        if check_first:
            self.pair.check_batch(strategies.check_batch_of(request))
        response = self.pair.commit_batch(request)
        if response is not None and response.accepted_count and request.request_id:
            self.asked.append(request)

    @rule(data=st.data())
    def check_batch(self, data: st.DataObject) -> None:
        request = data.draw(strategies.batches(self.choices), "batch")
        self.pair.check_batch(strategies.check_batch_of(request))

    # ---- policies, time, restarts

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        world = data.draw(strategies.worlds(self.pool), "policies")
        self.pair.apply(world.policies, world.assignments)

    @precondition(lambda self: self.pair.policies)
    @rule(data=st.data())
    def change_a_maximum(self, data: st.DataObject) -> None:
        policies = []
        for policy in self.pair.policies:
            changed = policy_pb2.Policy()
            changed.CopyFrom(policy)
            for limit in changed.limits:
                if limit.HasField("cap"):
                    limit.cap.max_count = data.draw(st.integers(0, 5), "maximum")
                elif limit.HasField("pause"):
                    limit.pause.after_count = data.draw(st.integers(1, 5), "messages in a row")
            policies.append(changed)
        self.pair.apply(policies, self.pair.assignments)

    @rule(account=strategies.changed_accounts())
    def change_an_account(self, account: account_pb2.Account) -> None:
        self.pair.set_account(account)

    @rule(
        account=st.sampled_from(strategies.ACCOUNTS),
        people=strategies.people(),
        out=st.sampled_from((True, True, False)),
    )
    def opt(self, account: str, people: list[tuple[int, str]], out: bool) -> None:
        """People opt out, or in again."""
        self.pair.opt(account, people, out)

    @rule(by_ms=strategies.moves())
    def wait(self, by_ms: int) -> None:
        if self.pair.now_ms + by_ms < strategies.LAST_MS:
            self.pair.advance(by_ms)

    @rule(data=st.data())
    def wait_for_a_change(self, data: st.DataObject) -> None:
        """To where some message leaves a window, or one millisecond beside it."""
        changes = self.pair.changes_ahead()
        if changes:
            edge = data.draw(st.sampled_from(changes), "change")
            beside = data.draw(st.sampled_from((-1, 0, 0, 1)), "beside")
            self.pair.advance_to(max(self.pair.now_ms, edge + beside))

    @rule()
    def restart(self) -> None:
        self.pair.restart()

    # ---- the promise of retry_time

    @rule(data=st.data())
    def keep_the_promise(self, data: st.DataObject) -> None:
        """Asks copies of the service whose clocks run ahead of this one's."""
        driver = self.pair.driver
        request = strategies.check_of(data.draw(strategies.commits(self.choices), "check"))
        if not isinstance(driver, CoreDriver):
            return
        response = self.pair.check(request)
        if response is None or response.decision.outcome != DENIED:
            return
        copy = driver.fork()
        if response.decision.HasField("retry_time"):
            retry_ms = response.decision.retry_time.ToMilliseconds()
            copy.set_clock(retry_ms - 1)
            assert copy.check(request).decision.outcome == DENIED
            copy.set_clock(retry_ms)
            assert copy.check(request).decision.outcome == ALLOWED
        else:
            copy.set_clock(self.pair.now_ms + 400 * DAY_MS)
            assert copy.check(request).decision.outcome == DENIED

    @invariant()
    def ids_differ(self) -> None:
        if hasattr(self, "pair"):
            assert len(set(self.pair.commit_ids.values())) == len(self.pair.commit_ids)


TestMachine = Machine.TestCase
TestMachine.settings = examples(120, step_count=30)
