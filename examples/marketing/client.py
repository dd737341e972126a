"""Sends one recipient newsletters until a limit says stop, then an invoice and a product recall."""

import os

import grpc

from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2, decision_service_pb2_grpc

with grpc.insecure_channel(os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")) as channel:
    limiter = decision_service_pb2_grpc.DecisionServiceStub(channel)
    sends = [("marketing", "news")] * 3 + [("transactional", "invoice"), ("marketing", "recall")]
    for category, campaign in sends:
        attempt = attempt_pb2.Attempt(
            account="shop", contact="ada", address="ada@example.org", resource="web",
            channel="email", campaign=campaign, category=category,
        )  # fmt: skip
        request = decision_service_pb2.CommitRequest(attempt=attempt)
        decision = limiter.Commit(request, timeout=5).decision
        outcome = decision_pb2.Outcome.Name(decision.outcome)
        print(f"{category} {campaign}: {outcome} {decision.binding_limit.limit_id}".rstrip())
