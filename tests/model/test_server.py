"""The invariants, and everything at once, on a running server; properties has the words.

A server of its own for each example is dear, so the examples are few: what is tested here is that
nothing is lost between the core, which test_invariants covers, and the wire and the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis.stateful import run_state_machine_as_test

from limiter.v1 import decision_service_pb2 as service_pb2
from limiter.v1 import simulation_pb2
from tests.model import properties, strategies
from tests.model.driver import Driver
from tests.model.effort import examples
from tests.model.properties import MakeDriver, Story, Undoing, stories, undoings
from tests.model.server_driver import ServerDriver, ServingLoop
from tests.model.test_machine import Machine
from tests.model.test_simulation import Life, Living, lives

ONE_PLAIN = stories(free=False, step_count=12)
ANY = stories(step_count=12)
WITH_IDS = stories(ids=True, step_count=12)


@pytest.fixture(scope="module", params=["native", "grpcio"])
def loop(request: pytest.FixtureRequest) -> Iterator[ServingLoop]:
    loop = ServingLoop(request.param)
    yield loop
    loop.close()


@contextlib.contextmanager
def servers(loop: ServingLoop) -> Iterator[MakeDriver]:
    """Makes servers, and stops those that an example has left running."""
    with contextlib.ExitStack() as running:

        def make(now_ms: int) -> Driver:
            driver = ServerDriver(loop, now_ms)
            running.callback(driver.close)
            return driver

        yield make


@examples(4)
@given(ONE_PLAIN)
def test_invariant_1_no_enforced_limit_is_ever_exceeded(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.no_enforced_limit_is_ever_exceeded(make, story)


@examples(4)
@given(ONE_PLAIN)
def test_invariant_2_a_denial_is_justified(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.a_denial_is_justified(make, story)


@examples(3)
@given(ANY)
def test_invariant_3_a_denied_commit_changes_no_counter(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.a_denied_commit_changes_no_counter(make, story)


@examples(5)
@given(ANY, strategies.commits())
def test_invariant_4_retry_time_is_right(
    loop: ServingLoop, story: Story, request: service_pb2.CommitRequest
) -> None:
    with servers(loop) as make:
        properties.retry_time_is_right(make, story, request)


@examples(4)
@given(ANY)
def test_invariant_5_a_check_says_what_the_commit_does(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.a_check_says_what_the_commit_does(make, story)


@examples(4)
@given(ANY)
def test_invariant_6_a_request_id_counts_once(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.a_request_id_counts_once(make, story)


@examples(4)
@given(ANY, undoings())
def test_invariant_7_a_cancel_is_as_if_it_had_never_been(
    loop: ServingLoop, story: Story, undoing: Undoing
) -> None:
    with servers(loop) as make:
        properties.a_cancel_is_as_if_it_had_never_been(make, story, undoing)


@examples(4)
@given(WITH_IDS)
def test_invariant_8_a_restart_changes_nothing(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.a_restart_changes_nothing(make, story)


@examples(3)
@given(WITH_IDS)
def test_invariant_9_accounts_never_see_each_other(loop: ServingLoop, story: Story) -> None:
    with servers(loop) as make:
        properties.accounts_never_see_each_other(make, story)


@examples(4)
@given(ANY, strategies.batches())
def test_invariant_10_a_partial_batch_is_its_recipients_one_by_one(
    loop: ServingLoop, story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    with servers(loop) as make:
        properties.a_partial_batch_is_its_recipients_one_by_one(make, story, batch)


@examples(4)
@given(ANY, strategies.batches())
def test_a_whole_batch_goes_or_nothing_does(
    loop: ServingLoop, story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    with servers(loop) as make:
        properties.a_whole_batch_goes_or_nothing_does(make, story, batch)


@examples(4)
@given(lives(24))
def test_a_simulation_denies_what_the_server_denied(loop: ServingLoop, life: Life) -> None:
    driver = ServerDriver(loop, life.start_ms)
    with contextlib.closing(driver):
        living = Living(driver, life)
        driver.restart()
        for account in strategies.ACCOUNTS:
            request = simulation_pb2.SimulatePolicyRequest(
                policy=life.world.policies[0], account=account
            )
            found = driver.simulate(request)
            for row in found.rows:
                row.policy = life.world.policies[0].name
            living.expected[account].compare(found)


def test_everything_at_once(loop: ServingLoop) -> None:
    """The state machine of test_machine."""

    class OnServer(Machine):
        def make_driver(self, now_ms: int) -> Driver:
            return ServerDriver(loop, now_ms)

    run_state_machine_as_test(OnServer, settings=examples(6, step_count=25))
