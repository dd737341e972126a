"""The invariants on the core by itself; properties has their words."""

from __future__ import annotations

from hypothesis import given

from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import properties, strategies
from tests.model.driver import CoreDriver
from tests.model.effort import examples
from tests.model.properties import Story, Undoing, stories, undoings


@examples(60)
@given(stories(free=False))
def test_invariant_1_no_enforced_limit_is_ever_exceeded(story: Story) -> None:
    properties.no_enforced_limit_is_ever_exceeded(CoreDriver, story)


@examples(60)
@given(stories(free=False))
def test_invariant_2_a_denial_is_justified(story: Story) -> None:
    properties.a_denial_is_justified(CoreDriver, story)


@examples(40)
@given(stories())
def test_invariant_3_a_denied_commit_changes_no_counter(story: Story) -> None:
    properties.a_denied_commit_changes_no_counter(CoreDriver, story)


@examples(120)
@given(stories(), strategies.commits())
def test_invariant_4_retry_time_is_right(story: Story, request: service_pb2.CommitRequest) -> None:
    properties.retry_time_is_right(CoreDriver, story, request)


@examples(40)
@given(stories())
def test_invariant_5_a_check_says_what_the_commit_does(story: Story) -> None:
    properties.a_check_says_what_the_commit_does(CoreDriver, story)


@examples(40)
@given(stories())
def test_invariant_6_a_request_id_counts_once(story: Story) -> None:
    properties.a_request_id_counts_once(CoreDriver, story)


@examples(60)
@given(stories(), undoings())
def test_invariant_7_a_cancel_is_as_if_it_had_never_been(story: Story, undoing: Undoing) -> None:
    properties.a_cancel_is_as_if_it_had_never_been(CoreDriver, story, undoing)


@examples(40)
@given(stories(ids=True))
def test_invariant_8_a_restart_changes_nothing(story: Story) -> None:
    properties.a_restart_changes_nothing(CoreDriver, story)


@examples(40)
@given(stories(ids=True))
def test_invariant_9_accounts_never_see_each_other(story: Story) -> None:
    properties.accounts_never_see_each_other(CoreDriver, story)


@examples(60)
@given(stories(), strategies.batches())
def test_invariant_10_a_partial_batch_is_its_recipients_one_by_one(
    story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    properties.a_partial_batch_is_its_recipients_one_by_one(CoreDriver, story, batch)


@examples(120)
@given(stories(), strategies.batches())
def test_a_whole_batch_goes_or_nothing_does(
    story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    properties.a_whole_batch_goes_or_nothing_does(CoreDriver, story, batch)


@examples(40)
@given(stories(), strategies.batches())
def test_duplicates_are_left_out(story: Story, batch: service_pb2.CommitBatchRequest) -> None:
    properties.duplicates_are_left_out(CoreDriver, story, batch)
