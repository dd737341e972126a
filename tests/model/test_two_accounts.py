"""Whatever one account does, the other's replies are the same: on the core, and on a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given

from tests.model.driver import CoreDriver, Driver
from tests.model.effort import examples
from tests.model.server_driver import ServerDriver, ServingLoop
from tests.model.two_accounts import Story, stories, the_other_makes_no_difference


@examples(120)
@given(stories(40))
def test_the_other_account_makes_no_difference(story: Story) -> None:
    the_other_makes_no_difference(CoreDriver, story)


@pytest.fixture(scope="module", params=["native", "grpcio"])
def loop(request: pytest.FixtureRequest) -> Iterator[ServingLoop]:
    loop = ServingLoop(request.param)
    yield loop
    loop.close()


@examples(6)
@given(stories(24))
def test_nor_does_it_on_a_server(loop: ServingLoop, story: Story) -> None:
    with contextlib.ExitStack() as running:

        def make(now_ms: int) -> Driver:
            driver = ServerDriver(loop, now_ms)
            running.callback(driver.close)
            return driver

        the_other_makes_no_difference(make, story)
