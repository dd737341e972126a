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

from limiter.simulation import DRAFT, HistorySimulation, PolicySet, Span, simulate_trace
from limiter.trace import TraceFile
from limiter.v1 import attempt_pb2, commitment_pb2, decision_pb2, policy_pb2, simulation_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.driver import CoreDriver, Driver, Fault
from tests.model.effort import examples
from tests.model.properties import Story, stories
from tests.model.strategies import World
from tests.model.windows import DAY_MS, HOUR_MS, MINUTE_MS

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
    recorded: int = 0

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
        assert found.recorded_count == self.recorded


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


# --------------------------------------------------------------------------- recorded history


@dataclass(frozen=True)
class Act:
    """Some time passes, then something happens: a request, or what becomes of one of the
    newest commits, which the number tells."""

    wait_ms: int
    request: service_pb2.CommitRequest | service_pb2.CommitBatchRequest | None = None
    undone: int = 0
    confirmed: bool = False


@dataclass(frozen=True)
class Life:
    """A start, limits on everything from then on, and what happens under them."""

    start_ms: int
    world: World
    acts: Sequence[Act]


@st.composite
def lives(draw: st.DrawFn, count: int = 40) -> Life:
    dice = strategies.Dice(draw)
    pool = draw(strategies.pools())
    limits = [
        strategies.make_limit(dice, f"limit-{number}", pool, plain=dice.one_in(2))
        for number in range(1 + dice.below(4))
    ]
    now_ms = start_ms = draw(strategies.starts())
    acts = []
    for _ in range(count // 2 + dice.below(count // 2)):
        # Mostly so little that limits fill up, and that what is recorded late still matters.
        wait_ms = dice.pick((0, 1, MINUTE_MS, MINUTE_MS, HOUR_MS, 6 * HOUR_MS))
        if dice.one_in(6):
            wait_ms = draw(strategies.moves())
        now_ms += wait_ms
        way = dice.below(8)
        if way == 7:
            acts.append(Act(wait_ms, undone=dice.below(5), confirmed=dice.one_in(3)))
        elif way == 6:
            batch = draw(strategies.batches())
            batch.atomicity = service_pb2.ATOMICITY_PARTIAL
            batch.request_id = ""
            for recipient in batch.recipients:
                recipient.request_id = ""
            acts.append(Act(wait_ms, batch))
        else:
            commit = draw(strategies.commits(whole=True if dice.below(4) else None))
            commit.request_id = ""
            if way >= 4:
                strategies.set_terms(dice, commit, now_ms)
            acts.append(Act(wait_ms, commit))
    return Life(start_ms, strategies.single(limits), acts)


class Living:
    """Lives a life, and adds up what the service says, by account."""

    def __init__(self, driver: Driver, life: Life) -> None:
        self._driver = driver
        self._commits: list[tuple[str, str]] = []
        self.expected: defaultdict[str, Expected] = defaultdict(Expected)
        now_ms = life.start_ms
        driver.apply(life.world.policies, life.world.assignments)
        for act in life.acts:
            now_ms += act.wait_ms
            driver.set_clock(now_ms)
            try:
                self._do(act)
            except Fault as fault:
                if fault.code not in {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"}:
                    raise

    def _do(self, act: Act) -> None:
        if isinstance(act.request, service_pb2.CommitRequest):
            self._commit(act.request)
        elif act.request is not None:
            self._commit_batch(act.request)
        elif self._commits:
            account, commit_id = self._commits[-1 - act.undone % len(self._commits)]
            if act.confirmed:
                self._driver.confirm(
                    commitment_pb2.ConfirmRequest(account=account, commit_id=commit_id)
                )
            else:
                self._driver.cancel(
                    commitment_pb2.CancelRequest(account=account, commit_id=commit_id)
                )

    def _commit(self, request: service_pb2.CommitRequest) -> None:
        request.view = decision_pb2.VIEW_FULL
        response = self._driver.commit(request)
        expected = self.expected[request.attempt.account]
        if request.mode == service_pb2.COMMIT_MODE_RECORD:
            expected.recorded += 1
        else:
            expected.add(request.attempt, response.decision)
        self._note(request.attempt.account, response.commit_id)

    def _commit_batch(self, request: service_pb2.CommitBatchRequest) -> None:
        request.view = decision_pb2.VIEW_FULL
        response = self._driver.commit_batch(request)
        for recipient, result in zip(request.recipients, response.results, strict=True):
            if not result.duplicate:
                attempt = attempt_pb2.Attempt(contact=recipient.contact)
                attempt.account = request.attempt.account
                self.expected[attempt.account].add(attempt, result.decision)
                self._note(attempt.account, result.commit_id)

    def _note(self, account: str, commit_id: str) -> None:
        if commit_id:
            self._commits.append((account, commit_id))


def simulated(
    driver: CoreDriver, draft: policy_pb2.Policy, account: str, span: Span | None = None
) -> simulation_pb2.SimulatePolicyResponse:
    """What a simulation of the account's history finds; under the draft's own name."""
    simulation = HistorySimulation(driver.core, draft, account, span=span)
    while not simulation.step():
        pass
    found = simulation.response()
    while not simulation.release():
        pass
    for row in found.rows:
        assert row.policy == DRAFT
        row.policy = draft.name
    return found


@examples(80)
@given(lives(), st.booleans())
def test_a_simulation_of_history_denies_what_was_denied(life: Life, restarted: bool) -> None:
    driver = CoreDriver(life.start_ms)
    living = Living(driver, life)
    if restarted:
        driver.restart()
    for account in strategies.ACCOUNTS:
        found = simulated(driver, life.world.policies[0], account)
        living.expected[account].compare(found)
        assert not found.HasField("counted_since_time")


def midnight_ms(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1000


@examples(40)
@given(lives(), st.integers(0, 20), st.integers(1, 20))
def test_a_span_of_days_is_reported_as_in_the_whole(life: Life, first: int, count: int) -> None:
    driver = CoreDriver(life.start_ms)
    Living(driver, life)
    draft = life.world.policies[0]
    for account in strategies.ACCOUNTS:
        whole = simulated(driver, draft, account)
        days = [day.day for day in whole.days][first : first + count]
        if not days:
            continue
        span = Span(midnight_ms(days[0]), midnight_ms(days[-1]) + DAY_MS)
        part = simulated(driver, draft, account, span)
        assert list(part.days) == [day for day in whole.days if day.day in days]
        assert list(part.rows) == [row for row in whole.rows if row.day in days]
        assert part.denied_count == sum(day.denied_count for day in part.days)
