"""Tells the story of all clients: a policy, commits up to its limit, a batch, a stream, two errors.

The account is the first argument; LIMITER_ADDRESS names the server.
"""

import os
import sys
import threading
from collections.abc import Iterator
from typing import cast

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
)

TIMEOUT_S = 10


def word(outcome: decision_pb2.Outcome.ValueType) -> str:
    """`OUTCOME_ALLOWED` as "ALLOWED"."""
    return decision_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_")


def make_policy(channel: grpc.Channel, account: str) -> None:
    """Three people in any 24 hours, applied as one set: doing it again changes nothing."""
    cap = {"measure": "MEASURE_CONTACTS", "maxCount": 3, "window": {"rolling": "86400s"}}
    limit = {"limitId": "people-a-day", "cap": cap, "enforcement": "ENFORCEMENT_ENFORCED"}
    policy = {"name": f"accounts/{account}/policies/story", "limits": [limit]}
    assignment = {
        "name": f"accounts/{account}/assignments/story",
        "policy": policy["name"],
        "scope": {"account": account},
    }
    request = json_format.ParseDict(
        {"policies": [policy], "assignments": [assignment]},
        policy_service_pb2.ApplyPoliciesRequest(),
    )
    policies = policy_service_pb2_grpc.PolicyServiceStub(channel)
    policies.ApplyPolicies(request, timeout=TIMEOUT_S)
    print("policy: 3 people in any 24 hours")


class Story:
    """What one account does after its policy is in place."""

    def __init__(self, channel: grpc.Channel, account: str) -> None:
        self._stub = decision_service_pb2_grpc.DecisionServiceStub(channel)
        self._account = account

    def commit(self, contact: str) -> decision_service_pb2.CommitRequest:
        """The request; its id makes it safe to repeat."""
        attempt = attempt_pb2.Attempt(account=self._account, contact=contact)
        return decision_service_pb2.CommitRequest(attempt=attempt, request_id=f"hello-{contact}")

    def fill(self) -> None:
        """Commits until the limit says no, then one again under the same request id."""
        for contact in ("ada", "grace", "edsger", "barbara"):
            decision = self._stub.Commit(self.commit(contact), timeout=TIMEOUT_S).decision
            if decision.outcome == decision_pb2.OUTCOME_ALLOWED:
                print(f"{contact}: ALLOWED, {decision.limit_statuses[0].remaining_count} left")
            else:
                limit, retry = decision.binding_limit.limit_id, decision.retry_time.ToJsonString()
                print(f"{contact}: {word(decision.outcome)} by {limit}, not before {retry}")
        again = self._stub.Commit(self.commit("grace"), timeout=TIMEOUT_S)
        replayed = "replayed" if again.replayed else "counted twice"
        print(f"grace again: {word(again.decision.outcome)}, {replayed}")

    def batch(self) -> None:
        """Four recipients at one instant, one of them twice."""
        request = decision_service_pb2.CommitBatchRequest(exclude_duplicates=True)
        request.attempt.account = self._account
        for contact in ("ada", "barbara", "donald", "ada"):
            request.recipients.add(contact=contact)
        reply = self._stub.CommitBatch(request, timeout=TIMEOUT_S)
        counts = f"{reply.accepted_count} accepted, {reply.denied_count} denied"
        print(f"batch: {counts}, {reply.duplicate_count} duplicate")

    def stream(self) -> None:
        """Replies come in the order of the requests."""
        contacts = ("ada", "barbara", "grace")
        replies = self._stub.CommitStream(map(self.commit, contacts), timeout=TIMEOUT_S)
        words = [
            f"{contact} {word(reply.decision.outcome)}"
            for contact, reply in zip(contacts, replies, strict=True)
        ]
        print(f"stream: {', '.join(words)}")

    def mistake(self) -> None:
        """An error says which field breaks a rule."""
        try:
            self._stub.Commit(self.commit(""), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            status = rpc_status.from_call(cast(grpc.Call, error))
            for detail in status.details if status else ():
                detail.Unpack(info)
                detail.Unpack(bad)
            print(f"error: {error.code().name} {info.reason}, {bad.field_violations[0].field}")

    def deadline(self) -> None:
        """A stream that is never written to is never answered: the deadline ends it."""
        is_over = threading.Event()

        def silence() -> Iterator[decision_service_pb2.CommitRequest]:
            is_over.wait()
            yield from ()

        try:
            next(self._stub.CommitStream(silence(), timeout=0.2))
        except grpc.RpcError as error:
            print(f"deadline: {error.code().name}")
        finally:
            is_over.set()


def main() -> None:
    """The whole story, on one connection."""
    address = os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")
    account = sys.argv[1] if len(sys.argv) > 1 else "story"
    with grpc.insecure_channel(address) as channel:
        make_policy(channel, account)
        story = Story(channel, account)
        story.fill()
        story.batch()
        story.stream()
        story.mistake()
        story.deadline()


if __name__ == "__main__":
    main()
