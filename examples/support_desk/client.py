"""Checks before each message: what the agent's window would say, and whether Send is greyed out."""

import os

import grpc

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2, decision_service_pb2_grpc

with grpc.insecure_channel(os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")) as channel:
    limiter = decision_service_pb2_grpc.DecisionServiceStub(channel)
    attempt = attempt_pb2.Attempt(account="helpdesk", agent="kim", contact="customer-7")
    for _ in range(4):
        check = decision_service_pb2.CheckRequest(attempt=attempt)
        decision = limiter.Check(check, timeout=5).decision
        if decision.outcome == decision_pb2.OUTCOME_ALLOWED:
            left = decision.limit_statuses[0].remaining_count
            print(f"send: {left} left after this one" if left else "warning: this is the last one")
            limiter.Commit(decision_service_pb2.CommitRequest(attempt=attempt), timeout=5)
        else:
            wait_s = decision.retry_time.seconds - decision.decide_time.seconds
            reason = decision_pb2.Reason.Name(decision.reason)
            print(f"cannot send: {reason}, {wait_s // 3600} h {wait_s // 60 % 60} min to go")
