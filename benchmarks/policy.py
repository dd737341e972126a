"""Policy resolution: what a change of policy costs, and the first decision after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from benchmarks.core import many_limits
from benchmarks.workload import (
    START_MS,
    Engine,
    Figure,
    account_name,
    assign,
    commit_request,
    contact_name,
    timed,
)
from limiter import model, resolution

__all__ = ["Resolve", "figures"]


def policy_of(limit_count: int, policy_id: str) -> model.Policy:
    """A policy for all accounts."""
    name = model.child_name("", "policies", policy_id)
    return model.Policy(name, "", tuple(many_limits(limit_count)))


def assigned(account_count: int) -> Engine:
    """An engine where every account has a policy of its own, and one more for a campaign."""
    engine = Engine.make()
    assign(engine.store, many_limits(2), START_MS)
    narrow = [policy_of(count, f"narrow-{count}") for count in range(1, 11)]
    draft = engine.store.draft()
    for policy in narrow:
        draft.put_policy(policy, "policy")
    for number in range(account_count):
        account = account_name(number)
        for assignment_id, scope in (
            ("own", model.Scope(account)),
            ("spring", model.Scope(account, campaign="spring")),
        ):
            policy = narrow[(number + len(assignment_id)) % len(narrow)]
            name = model.child_name(account, "assignments", assignment_id)
            assignment = model.Assignment(name, policy.name, scope, mandatory=False)
            draft.put_assignment(assignment, "assignment")
    engine.store.commit(engine.store.prepare(draft, START_MS))
    return engine


def once_ns(function: Callable[[], object], rounds: int) -> float:
    """The mean time of a call."""
    begun_ns = time.thread_time_ns()
    for _ in range(rounds):
        function()
    return (time.thread_time_ns() - begun_ns) / rounds


class Resolve:
    """With this many accounts that have assignments of their own."""

    params: ClassVar = [[10, 1_000, 20_000]]
    param_names: ClassVar = ["accounts"]
    timeout = 600
    rounds = 20
    request_count = 1_000
    unit = "us"

    def setup(self, account_count: int) -> None:
        self.engine = assigned(account_count)
        self.account_count = account_count
        self.revision = 0
        self.requests = [
            commit_request(account_name(number), contact_name(number, 0))
            for number in range(min(account_count, self.request_count))
        ]

    def change(self) -> None:
        """Edits the policy of everything, which all accounts then ask for again."""
        self.revision += 1
        policy = model.Policy(
            model.child_name("", "policies", "benchmark"),
            f"revision {self.revision}",
            tuple(many_limits(2)),
        )
        draft = self.engine.store.draft()
        draft.put_policy(policy, "policy")
        self.engine.store.commit(self.engine.store.prepare(draft, START_MS))

    def track_compile(self, account_count: int) -> float:
        policy = policy_of(32, "compiled")
        return once_ns(lambda: resolution.compile_policy(policy), self.rounds) / 1_000

    def track_change(self, account_count: int) -> float:
        return once_ns(self.change, self.rounds) / 1_000

    def decide(self) -> float:
        """Microseconds of each of 1,000 commits, no two to the same account."""
        commit = self.engine.decider.commit
        timing = timed(lambda one: commit(one, START_MS), self.requests, lambda reply: reply[0])
        return timing.ns_per_item / 1_000

    def track_first_decision(self, account_count: int) -> float:
        self.change()
        return self.decide()

    def track_next_decision(self, account_count: int) -> float:
        self.decide()
        return self.decide()


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shrinks the number of accounts."""
    for accounts in Resolve.params[0]:
        count = max(2, int(accounts * scale))
        suite = Resolve()
        suite.setup(count)
        yield Figure(f"decision, {count:,} bound accounts", suite.track_next_decision(count), "us")
        yield Figure(
            f"the first after a change, {count:,}", suite.track_first_decision(count), "us"
        )
        yield Figure(f"change of a policy, {count:,}", suite.track_change(count), "us")
    yield Figure("compilation of a policy of 32 limits", Resolve().track_compile(0), "us")
