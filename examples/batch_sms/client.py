"""Sends a campaign to a list with a duplicate in it, under a daily limit given with the send."""

import os

import grpc
from google.protobuf import json_format

from limiter.v1 import decision_pb2, decision_service_pb2, decision_service_pb2_grpc

DAY = {"calendar": {"unit": "CALENDAR_UNIT_DAY", "timeZone": "UTC"}}
CAP = {"measure": "MEASURE_MESSAGES", "maxCount": 3, "per": ["DIMENSION_CAMPAIGN"], "window": DAY}
LIMIT = {"limitId": "campaign-a-day", "cap": CAP, "enforcement": "ENFORCEMENT_ENFORCED"}
NUMBERS = ["+4930001", "+4930002", "+4930001", "+4930003", "+4930004"]

with grpc.insecure_channel(os.environ.get("LIMITER_ADDRESS", "127.0.0.1:50051")) as channel:
    limiter = decision_service_pb2_grpc.DecisionServiceStub(channel)
    attempt = {"account": "texts", "campaign": "spring", "channel": "sms"}
    recipients = [{"contact": number, "address": number} for number in NUMBERS]
    batch = {"attempt": attempt, "recipients": recipients, "inlineLimits": [LIMIT]}
    request = json_format.ParseDict(batch, decision_service_pb2.CommitBatchRequest())
    request.exclude_duplicates = True
    response = limiter.CommitBatch(request, timeout=5)
    for number, result in zip(NUMBERS, response.results, strict=True):
        outcome = decision_pb2.Outcome.Name(result.decision.outcome)
        print(f"{number}: {'duplicate' if result.duplicate else outcome}")
    print(f"{response.accepted_count} of {len(NUMBERS)} go today")
