"""Sends by hand, then from the queue, and shows how far the account is on its way to the goal."""

import os

import grpc

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2, decision_service_pb2_grpc

with grpc.insecure_channel(os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")) as channel:
    limiter = decision_service_pb2_grpc.DecisionServiceStub(channel)
    for account in ("studio-berlin", "studio-rolling"):
        for source in ("manual", "manual", "queue"):
            attempt = attempt_pb2.Attempt(account=account, contact="fan-1", source=source)
            request = decision_service_pb2.CommitRequest(attempt=attempt)
            decision = limiter.Commit(request, timeout=5).decision
            goal = decision.limit_statuses[0]
            outcome = decision_pb2.Outcome.Name(decision.outcome)
            print(f"{account} {source}: {outcome}, goal {goal.used_count}/{goal.max_count}")
            if decision.HasField("retry_time"):
                print(f"the queue may go on at {decision.retry_time.ToJsonString()}")
