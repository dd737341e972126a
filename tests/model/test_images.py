"""The invariants, and everything at once, where accounts leave memory before every call and a
restart begins with images; properties has the words."""

from __future__ import annotations

import random
from unittest import mock

import pytest
from google.protobuf import json_format
from hypothesis import given

from limiter import errors
from limiter.v1 import attempt_pb2, decision_service_pb2, policy_pb2
from tests.model import properties
from tests.model.driver import CoreDriver, Driver
from tests.model.effort import examples
from tests.model.image_driver import ImageDriver
from tests.model.properties import Story, Undoing, stories, undoings
from tests.model.test_machine import Machine


class ImageMachine(Machine):
    """A random machine, against the oracle."""

    def make_driver(self, now_ms: int) -> Driver:
        return ImageDriver(now_ms)


TestImageMachine = ImageMachine.TestCase
TestImageMachine.settings = examples(60, step_count=30)


@examples(60)
@given(stories(free=False))
def test_no_enforced_limit_is_ever_exceeded(story: Story) -> None:
    properties.no_enforced_limit_is_ever_exceeded(ImageDriver, story)


@examples(60)
@given(stories(ids=True))
def test_a_restart_changes_nothing(story: Story) -> None:
    properties.a_restart_changes_nothing(ImageDriver, story)


@examples(60)
@given(stories(ids=True))
def test_a_request_id_counts_once(story: Story) -> None:
    properties.a_request_id_counts_once(ImageDriver, story)


@examples(60)
@given(stories(), undoings())
def test_a_cancel_is_as_if_it_had_never_been(story: Story, undoing: Undoing) -> None:
    properties.a_cancel_is_as_if_it_had_never_been(ImageDriver, story, undoing)


def test_a_baseline_that_was_never_written_is_not_counted_on() -> None:
    """A write may fail when all of it has been made: the next one holds what it was to hold."""
    driver = ImageDriver(1_700_000_000_000)
    requests = [
        decision_service_pb2.CommitRequest(
            attempt=attempt_pb2.Attempt(account="acme", contact="ana"), request_id=f"id-{number}"
        )
        for number in range(2)
    ]
    first = driver.commit(requests[0])
    assert list(driver._baselines.take())
    second = driver.commit(requests[1])
    driver.take_baseline()
    driver.restart()
    for request, answered in zip(requests, (first, second), strict=True):
        again = driver.commit(request)
        assert again.replayed
        assert again.commit_id == answered.commit_id


def test_a_baseline_leaves_out_what_is_forgotten_while_it_is_written() -> None:
    hour_ms, start_ms = 3_600_000, 1_700_000_000_000
    driver = ImageDriver(start_ms)
    request = decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account="acme", contact="ana"), request_id="id-0"
    )
    driver.commit(request)
    driver.take_baseline()
    for number in (1, 2):
        driver.set_clock(start_ms + number * hour_ms)
        request.request_id = f"id-{number}"
        driver.commit(request)
    pieces = driver._baselines.take()
    next(pieces)
    # The first two are a day old by now.
    driver.set_clock(start_ms + 25 * hour_ms)
    request.request_id = "id-3"
    driver.commit(request)
    for records in pieces:
        driver._images.write(records)
    driver._images.write(driver._baselines.head())
    driver._baselines.is_written()
    driver.restart()
    for number in range(4):
        request.request_id = f"id-{number}"
        assert driver.commit(request).replayed == (number >= 2)


# Limits of every kind of counter, with keys that hold contacts and addresses.
_POLICY = {
    "name": "policies/all",
    "limits": [
        {
            "limit_id": "contacts",
            "enforcement": "ENFORCEMENT_ENFORCED",
            "cap": {
                "measure": "MEASURE_CONTACTS",
                "max_count": 40,
                "window": {"rolling": "60s"},
            },
        },
        {
            "limit_id": "addresses",
            "enforcement": "ENFORCEMENT_ENFORCED",
            "cap": {
                "measure": "MEASURE_ADDRESSES",
                "max_count": 400,
                "per": ["DIMENSION_CHANNEL"],
                "window": {"rolling": "90s"},
            },
        },
        {
            "limit_id": "messages",
            "enforcement": "ENFORCEMENT_ENFORCED",
            "cap": {
                "measure": "MEASURE_MESSAGES",
                "max_count": 2,
                "per": ["DIMENSION_CONTACT", "DIMENSION_CHANNEL"],
                "window": {"rolling": "30s"},
            },
        },
        {
            "limit_id": "pause",
            "enforcement": "ENFORCEMENT_ENFORCED",
            "pause": {"after_count": 5, "duration": "1s", "per": ["DIMENSION_ADDRESS"]},
        },
    ],
}


def test_whoever_is_counted_nowhere_loses_his_number_and_nothing_else() -> None:
    policy = json_format.ParseDict(_POLICY, policy_pb2.Policy())
    assignment = policy_pb2.Assignment(name="assignments/all", policy=policy.name)
    now_ms = 1_700_000_000_000
    plain, imaged = CoreDriver(now_ms), ImageDriver(now_ms)
    for driver in (plain, imaged):
        driver.apply([policy], [assignment])
    dice = random.Random(5)
    for step in range(3_000):
        now_ms += 120_000 if step % 700 == 0 else dice.choice([1, 10, 300, 2_000])
        crowd = 30 if step % 1_400 < 700 else 3_000
        request = decision_service_pb2.CommitRequest(
            attempt=attempt_pb2.Attempt(
                account=f"account-{dice.randrange(3)}",
                contact=f"contact-{dice.randrange(crowd)}",
                address=f"address-{dice.randrange(500)}",
                channel=dice.choice(["sms", "mail"]),
            )
        )
        for driver in (plain, imaged):
            driver.set_clock(now_ms)
        if step % 3 == 0:
            imaged.forget_numbers()
        assert imaged.commit(request) == plain.commit(request)
    imaged.churn()
    assert imaged.core.account_count == 0
    # A thousand people and more have been written to, a few dozen of them within the windows.
    assert max(imaged.image_sizes()) < 10_000


def test_a_start_goes_on_from_the_instant_by_which_images_were_written() -> None:
    """Whatever the journal knows, and before anybody is brought back."""
    driver = ImageDriver(1_700_000_000_000)
    request = decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account="acme", contact="ana")
    )
    driver.commit(request)
    driver.set_clock(driver.now_ms + 86_400_000)
    driver.write_all()
    for _ in range(2):
        driver.restart()
        assert driver.core.last_event_ms == driver.now_ms
        assert driver.core.account_count == 0


def test_whoever_could_not_be_read_is_asked_for_again() -> None:
    driver = ImageDriver(1_700_000_000_000)
    request = decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account="acme", contact="ana"), request_id="once"
    )
    driver.commit(request)
    driver.write_all()
    driver.restart()
    (account,) = driver._images.accounts()
    with (
        mock.patch.object(driver, "reading", side_effect=errors.Unavailable("A", "a disk fails")),
        pytest.raises(errors.Unavailable),
    ):
        driver._residence.bring_now(account)
    assert driver._residence.request(account) is not None
    assert driver.commit(request).replayed


def test_a_clock_that_is_set_back_brings_nobody_back_who_has_left() -> None:
    start_ms = 1_700_000_000_000
    driver = ImageDriver(start_ms)
    policy = policy_pb2.Policy(name="policies/one")
    limit = policy.limits.add(limit_id="one", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    limit.cap.measure = policy_pb2.MEASURE_CONTACTS
    limit.cap.max_count = 1
    limit.cap.window.rolling.FromSeconds(86_400)
    driver.apply([policy], [policy_pb2.Assignment(name="assignments/one", policy=policy.name)])
    request = decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account="acme", contact="first")
    )
    driver.commit(request)
    # Two days later he has left, which no event says, but an image.
    later_ms = start_ms + 2 * 86_400_000
    driver.set_clock(later_ms)
    driver.get_usage(decision_service_pb2.GetUsageRequest(attempt=request.attempt))
    driver.write_all()
    driver.restart()
    driver.now_ms = start_ms + 1
    request.attempt.contact = "second"
    reply = driver.commit(request)
    assert reply.decision.decide_time.ToMilliseconds() >= later_ms
