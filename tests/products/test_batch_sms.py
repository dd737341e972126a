"""4. Batches of text messages, each with its daily limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    account_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration.access_requests import bearer
from tests.integration.process import START_MS
from tests.integration.requests import commit_request, fault_of
from tests.products.account import HOUR_S, Account
from tests.products.keyed import Keyed, Metadata
from tests.products.table import ROWS, Row

BY_CAMPAIGN = ROWS["a daily limit given with each send, for each campaign's name"]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
LIMITS = (BY_CAMPAIGN.limit(),)


def numbers(*values: int) -> list[decision_service_pb2.Recipient]:
    """Recipients, each by a number of his own."""
    return [
        decision_service_pb2.Recipient(contact=f"+49{value}", address=f"+49{value}")
        for value in values
    ]


def ends(method: Any, request: Message, metadata: Metadata) -> grpc.StatusCode:
    """What a call that fails ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, metadata=metadata)
    return fault_of(caught.value).code


def outcomes(response: decision_service_pb2.CommitBatchResponse) -> list[bool]:
    return [result.decision.outcome == decision_pb2.OUTCOME_ALLOWED for result in response.results]


@pytest.mark.shows(BY_CAMPAIGN.what)
def test_a_daily_limit_with_each_send(account: Account) -> None:
    first = account.batch(*numbers(1, 2), limits=LIMITS, campaign="spring")
    second = account.batch(*numbers(3, 4), limits=LIMITS, campaign="spring")
    other = account.batch(*numbers(3, 4), limits=LIMITS, campaign="autumn")
    assert (outcomes(first), outcomes(second)) == ([True, True], [True, False])
    assert outcomes(other) == [True, True]
    # A send may bring another maximum: it is the same count.
    more = (BY_CAMPAIGN.limit(cap={**BY_CAMPAIGN.fields["cap"], "maxCount": 5}),)
    third = account.batch(*numbers(5, 6, 7), limits=more, campaign="spring")
    assert outcomes(third) == [True, True, False]


@pytest.mark.shows("it is reset at midnight UTC")
def test_it_is_reset_at_midnight(account: Account) -> None:
    full = account.batch(*numbers(1, 2, 3, 4), limits=LIMITS, campaign="spring")
    denied = full.results[3].decision
    assert account.after_noon(denied.retry_time) == 12 * HOUR_S
    account.at(12 * HOUR_S - 0.001)
    assert outcomes(account.batch(*numbers(5), limits=LIMITS, campaign="spring")) == [False]
    account.at(12 * HOUR_S)
    assert outcomes(account.batch(*numbers(5), limits=LIMITS, campaign="spring")) == [True]


@pytest.mark.shows("messages over it are rejected, not queued")
def test_rejected_not_queued(account: Account) -> None:
    response = account.batch(*numbers(1, 2, 3, 4, 5), limits=LIMITS, campaign="spring")
    assert outcomes(response) == [True, True, True, False, False]
    assert (response.accepted_count, response.denied_count) == (3, 2)
    assert response.results[4].decision.reason == decision_pb2.REASON_MESSAGE_CAP
    assert not response.results[4].commit_id
    # The next day starts from nothing.
    account.at(12 * HOUR_S)
    response = account.batch(*numbers(6, 7, 8), limits=LIMITS, campaign="spring")
    assert outcomes(response) == [True, True, True]


@pytest.mark.shows("or the whole send is")
def test_the_whole_send(account: Account) -> None:
    request = decision_service_pb2.CommitBatchRequest(
        atomicity=decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
    )
    response = account.batch(
        *numbers(1, 2, 3, 4), limits=LIMITS, request=request, campaign="spring"
    )
    assert outcomes(response) == [False] * 4
    reasons = {result.decision.reason for result in response.results}
    assert reasons <= {decision_pb2.REASON_BATCH_REJECTED, decision_pb2.REASON_MESSAGE_CAP}
    response = account.batch(*numbers(1, 2, 3), limits=LIMITS, request=request, campaign="spring")
    assert outcomes(response) == [True] * 3


@pytest.mark.shows("a limit's first use counts what went before it")
def test_a_limits_first_use(account: Account) -> None:
    account.batch(*numbers(1, 2), campaign="spring")
    response = account.batch(*numbers(3, 4), limits=LIMITS, campaign="spring")
    assert outcomes(response) == [True, False]


@pytest.mark.shows("API keys with permissions")
def test_keys_with_permissions(tmp_path: Path) -> None:
    with Keyed(tmp_path / "data") as keyed:
        sender = keyed.key("texts", permissions=[access_pb2.PERMISSION_DECISIONS_COMMIT])
        reader = keyed.key(
            "texts", permissions=[access_pb2.PERMISSION_USAGE_READ], api_key_id="reader"
        )
        decisions = keyed.server.decisions
        commit = commit_request("texts", "ada")
        usage = decision_service_pb2.GetUsageRequest(attempt=commit.attempt)
        decisions.Commit(commit, metadata=sender)
        decisions.GetUsage(usage, metadata=reader)
        assert ends(decisions.Commit, commit, reader) is PERMISSION_DENIED
        assert ends(decisions.GetUsage, usage, sender) is PERMISSION_DENIED
        assert ends(decisions.Commit, commit_request("bank", "ada"), sender) is PERMISSION_DENIED
        assert ends(decisions.Commit, commit, bearer("lk_wrong")) is UNAUTHENTICATED
        assert ends(decisions.Commit, commit, ()) is UNAUTHENTICATED


@pytest.mark.shows("a key expires, is replaced and revoked")
def test_keys_end(tmp_path: Path) -> None:
    with Keyed(tmp_path / "data") as keyed:
        commit = commit_request("texts", "ada")
        decisions, access = keyed.server.decisions, keyed.access
        first = keyed.key("texts", role=access_pb2.ROLE_SENDER, api_key_id="long")
        rotate = access_service_pb2.RotateApiKeyRequest(name="apiKeys/long")
        second = bearer(access.RotateApiKey(rotate, metadata=keyed.operator).secret)
        assert ends(decisions.Commit, commit, first) is UNAUTHENTICATED
        decisions.Commit(commit, metadata=second)
        revoke = access_service_pb2.RevokeApiKeyRequest(name="apiKeys/long")
        access.RevokeApiKey(revoke, metadata=keyed.operator)
        assert ends(decisions.Commit, commit, second) is UNAUTHENTICATED
        expires = Timestamp(seconds=START_MS // 1_000 + HOUR_S)
        short = keyed.key("texts", role=access_pb2.ROLE_SENDER, expire_time=expires)
        decisions.Commit(commit, metadata=short)
        clock = test_clock_service_pb2.SetTestClockRequest(current_time=expires)
        keyed.server.test_clock.Set(clock, metadata=keyed.operator)
        assert ends(decisions.Commit, commit, short) is UNAUTHENTICATED


@pytest.mark.shows("duplicates are left out on request")
def test_duplicates(account: Account) -> None:
    request = decision_service_pb2.CommitBatchRequest(exclude_duplicates=True)
    response = account.batch(*numbers(1, 2, 1, 3), limits=LIMITS, request=request, campaign="s")
    assert [result.duplicate for result in response.results] == [False, False, True, False]
    assert (response.accepted_count, response.duplicate_count) == (3, 1)
    every = account.batch(*numbers(1, 1, 1, 1), limits=LIMITS, campaign="t")
    assert outcomes(every) == [True, True, True, False]


@pytest.mark.shows("who has opted out is left out on request")
def test_opted_out(account: Account) -> None:
    account.server.policies.AddSuppressions(
        policy_service_pb2.AddSuppressionsRequest(
            parent=account.parent, suppressions=[account_pb2.Suppression(address="+492")]
        )
    )
    denied = account.batch(*numbers(1, 2), limits=LIMITS, campaign="s")
    assert outcomes(denied) == [True, False]
    request = decision_service_pb2.CommitBatchRequest(exclude_opt_outs=True)
    response = account.batch(*numbers(1, 2, 3), limits=LIMITS, request=request, campaign="s")
    assert outcomes(response) == [True, False, True]
    assert not response.results[1].HasField("decision")
    assert (response.accepted_count, response.opted_out_count) == (2, 1)


@pytest.mark.shows("a send that is repeated goes once")
def test_a_repeated_send(account: Account, row: Row) -> None:
    assert row.spans == ("request_id",)
    request = decision_service_pb2.CommitBatchRequest(request_id="send-1")
    first, again = (
        account.batch(*numbers(1, 2), limits=LIMITS, request=request, campaign="s")
        for _ in range(2)
    )
    assert [result.replayed for result in again.results] == [True, True]
    ids = [[result.commit_id for result in each.results] for each in (first, again)]
    assert ids[0] == ids[1]
    assert outcomes(account.batch(*numbers(3, 4), limits=LIMITS, campaign="s")) == [True, False]
