"""A connection follows the pages of a list, on a channel whose other end is the test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc_testing
import pytest

from limiter.cli.connection import PAGE_SIZE, Connection
from limiter.v1 import policy_pb2, policy_service_pb2

SERVICE = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"]
PARENTS = ["", "accounts/acme"]
OK = ((), grpc.StatusCode.OK, "")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def channel() -> grpc_testing.Channel:
    return grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())


def test_all_pages_of_all_parents_are_one_list(
    pool: ThreadPoolExecutor, channel: grpc_testing.Channel
) -> None:
    listed = pool.submit(Connection(channel, timeout_s=60).list_policies, PARENTS)
    method = SERVICE.methods_by_name["ListPolicies"]
    pages = [("", "", ["a", "b"], "next"), ("", "next", ["c"], ""), (PARENTS[1], "", [], "")]
    for parent, token, names, next_token in pages:
        _, request, call = channel.take_unary_unary(method)
        assert request == policy_service_pb2.ListPoliciesRequest(
            parent=parent, page_size=PAGE_SIZE, page_token=token
        )
        policies = [policy_pb2.Policy(name=name) for name in names]
        page = policy_service_pb2.ListPoliciesResponse(
            policies=policies, next_page_token=next_token
        )
        call.terminate(page, *OK)
    assert [policy.name for policy in listed.result(60).policies] == ["a", "b", "c"]


def test_a_page_that_fails_ends_the_list(
    pool: ThreadPoolExecutor, channel: grpc_testing.Channel
) -> None:
    listed = pool.submit(Connection(channel, timeout_s=60).list_assignments, PARENTS)
    method = SERVICE.methods_by_name["ListAssignments"]
    _, _, call = channel.take_unary_unary(method)
    page = policy_service_pb2.ListAssignmentsResponse(next_page_token="next")
    call.terminate(page, *OK)
    _, request, call = channel.take_unary_unary(method)
    assert request.page_token == "next"
    call.terminate(None, (), grpc.StatusCode.UNAVAILABLE, "gone")
    with pytest.raises(grpc.RpcError):
        listed.result(60)
