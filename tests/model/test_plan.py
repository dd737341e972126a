"""Plans against the oracle's: every instant, every reason, for random policies and pasts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limiter.v1 import account_pb2, plan_pb2
from tests.model import planning, strategies
from tests.model.driver import CoreDriver
from tests.model.effort import examples
from tests.model.properties import Story, stories


@examples(150)
@given(
    planning.pasts(stories()),
    planning.plan_requests(),
    st.none() | strategies.changed_accounts(),
    st.just([]) | strategies.people(),
)
def test_a_plan_is_the_naive_one(
    story: Story,
    request: plan_pb2.PlanRequest,
    account: account_pb2.Account | None,
    people: list[tuple[int, str]],
) -> None:
    driver = CoreDriver(story.start_ms)
    pair = story.play(driver)
    if account is not None:
        pair.set_account(account)
    pair.opt(request.attempt.account, people, out=True)
    plan = planning.a_plan_is_the_naive_one(pair, request)
    planning.a_plan_changes_nothing(pair, request)
    if plan is not None:
        planning.a_plan_can_be_sent_as_it_is(driver.fork(), request, plan)
    driver.close()


@examples(150)
@given(planning.pasts(stories(free=False)), planning.plan_requests())
def test_a_plan_under_a_few_limits_is_the_naive_one(
    story: Story, request: plan_pb2.PlanRequest
) -> None:
    driver = CoreDriver(story.start_ms)
    pair = story.play(driver)
    plan = planning.a_plan_is_the_naive_one(pair, request)
    if plan is not None:
        planning.a_plan_can_be_sent_as_it_is(driver.fork(), request, plan)
    driver.close()
