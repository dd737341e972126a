"""A simulation denies what a service denied that lived through the same attempts."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter.simulation import PolicySet, simulate_trace
from limiter.trace import TraceFile
from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2, simulation_pb2
from tests.model.driver import CoreDriver, Driver, Fault
from tests.model.effort import examples
from tests.model.properties import Story, stories
from tests.model.strategies import World

FIELDS = [each.name for each in attempt_pb2.Attempt.DESCRIPTOR.fields]

# Policy, limit, account and day.
Key = tuple[str, str, str, str]


@dataclass
class Expected:
    """What a live service said, added up as a simulation does it."""

    attempts: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    exceeded: Counter[Key] = field(default_factory=Counter)
    binding: Counter[Key] = field(default_factory=Counter)
    contacts: defaultdict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    not_evaluated: int = 0

    def add(self, attempt: attempt_pb2.Attempt, decision: decision_pb2.Decision) -> None:
        """One decision, given in full."""
        day = f"{datetime.fromtimestamp(decision.decide_time.seconds, UTC):%Y-%m-%d}"
        self.attempts[day] += 1
        self.denied[day] += decision.outcome == decision_pb2.OUTCOME_DENIED
        self.not_evaluated += any(
            status.reason == decision_pb2.REASON_NOT_EVALUATED for status in decision.limit_statuses
        )
        for status in decision.limit_statuses:
            key = (status.policy, status.limit_id, attempt.account, day)
            if status.exceeded and status.enforcement != policy_pb2.ENFORCEMENT_GOAL:
                self.exceeded[key] += 1
                self.contacts[key].add(attempt.contact)
        if decision.HasField("binding_limit"):
            limit = decision.binding_limit
            self.binding[limit.policy, limit.limit_id, attempt.account, day] += 1

    def compare(self, found: simulation_pb2.SimulatePolicyResponse) -> None:
        """Fails unless a simulation has found the same."""
        rows = {(row.policy, row.limit_id, row.account, row.day): row for row in found.rows}
        assert len(rows) == len(found.rows)
        assert {key: row.denied_count for key, row in rows.items()} == self.exceeded
        assert {k: row.binding_count for k, row in rows.items() if row.binding_count} == dict(
            self.binding
        )
        assert {key: row.denied_contact_count for key, row in rows.items()} == {
            key: len(contacts) for key, contacts in self.contacts.items()
        }
        assert {day.day: day.attempt_count for day in found.days} == self.attempts
        assert {day.day: day.denied_count for day in found.days} == dict(self.denied)
        assert found.attempt_count == self.attempts.total()
        assert found.denied_count == self.denied.total()
        assert found.allowed_count == found.attempt_count - found.denied_count
        assert found.not_evaluated_count == self.not_evaluated


@dataclass
class Lived:
    """What a story made of a service: the attempts that it decided, and what it said."""

    attempts: list[tuple[int, attempt_pb2.Attempt]] = field(default_factory=list)
    expected: Expected = field(default_factory=Expected)


def live(driver: Driver, story: Story) -> Lived:
    """Plays a story. What lacks a field that it needs is refused, and has never been decided."""
    lived = Lived()
    now_ms = story.start_ms
    driver.apply(story.world.policies, story.world.assignments)
    for step in story.steps:
        now_ms += step.wait_ms
        driver.set_clock(now_ms)
        step.request.view = decision_pb2.VIEW_FULL
        try:
            response = driver.commit(step.request)
        except Fault as fault:
            if fault.reason != "MISSING_FIELD":
                raise
            continue
        lived.attempts.append((now_ms, step.request.attempt))
        lived.expected.add(step.request.attempt, response.decision)
    return lived


def written(attempts: Sequence[tuple[int, attempt_pb2.Attempt]], path: Path) -> TraceFile:
    """The attempts as a trace."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["time", *FIELDS])
    for number, (time_ms, attempt) in enumerate(attempts):
        seconds, rest_ms = divmod(time_ms, 1000)
        instant = f"{seconds}.{rest_ms:03}"
        if number % 2:
            instant = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ms:03}Z"
        rows.writerow([instant, *(getattr(attempt, name) or "" for name in FIELDS)])
    path.write_text(text.getvalue())
    return TraceFile(str(path))


def policies_of(world: World) -> PolicySet:
    return PolicySet(world.policies, world.assignments)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulation") / "trace.csv"


@examples(60)
@given(stories(step_count=30), st.booleans())
def test_a_simulation_denies_what_was_denied(path: Path, story: Story, backward: bool) -> None:
    assume(story.world.assignments)
    lived = live(CoreDriver(story.start_ms), story)
    if backward:
        # Those of one instant stay as they are.
        lived.attempts.sort(key=lambda each: -each[0])
    lived.expected.compare(simulate_trace(policies_of(story.world), written(lived.attempts, path)))


@examples(20)
@given(stories(free=False, step_count=30))
def test_a_single_policy_is_for_everybody(path: Path, story: Story) -> None:
    lived = live(CoreDriver(story.start_ms), story)
    found = simulate_trace(PolicySet(story.world.policies), written(lived.attempts, path))
    lived.expected.compare(found)
