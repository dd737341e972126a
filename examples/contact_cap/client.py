"""Writes to one person after the other until the account's 200 people of the day are used up."""

import os

import grpc

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2, decision_service_pb2_grpc

with grpc.insecure_channel(os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")) as channel:
    limiter = decision_service_pb2_grpc.DecisionServiceStub(channel)
    for number in range(1, 202):
        attempt = attempt_pb2.Attempt(account="network", contact=f"person-{number}")
        request = decision_service_pb2.CommitRequest(attempt=attempt, request_id=f"hello-{number}")
        decision = limiter.Commit(request, timeout=5).decision
        if decision.outcome != decision_pb2.OUTCOME_ALLOWED:
            print(f"person-{number}: {decision_pb2.Reason.Name(decision.reason)},")
            print(f"not before {decision.retry_time.ToJsonString()}")
