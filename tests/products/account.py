"""One account of a running server, as its product sees it: policies, sends, and its time."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration.process import ServerProcess
from tests.integration.requests import commit_request

__all__ = ["DAY_S", "HOUR_S", "WEEK_S", "Account", "allowed"]

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
WEEK_S: Final = 7 * DAY_S

# 1970-01-05 was the first Monday.
_FIRST_MONDAY_S: Final = 4 * DAY_S


def allowed(response: decision_service_pb2.CommitResponse) -> bool:
    """Whether a commit was allowed."""
    return response.decision.outcome == decision_pb2.OUTCOME_ALLOWED


class Account:
    """An account `name`, on a Monday at noon UTC. Instants and durations are seconds."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self.server = server
        self.name = name
        empty = test_clock_service_pb2.GetTestClockRequest()
        now_s = server.test_clock.Get(empty).current_time.ToMilliseconds() // 1_000
        week = (now_s - _FIRST_MONDAY_S) // WEEK_S + 1
        self.noon_s = _FIRST_MONDAY_S + week * WEEK_S + 12 * HOUR_S
        self.wait_until(self.noon_s)

    # ------------------------------------------------------------ time

    def wait_until(self, instant_s: float) -> None:
        """Moves the time of the server on to an instant."""
        request = test_clock_service_pb2.SetTestClockRequest()
        request.current_time.FromMilliseconds(round(instant_s * 1_000))
        self.server.test_clock.Set(request)

    def at(self, after_noon_s: float) -> None:
        """Moves the time of the server on to so many seconds after Monday noon."""
        self.wait_until(self.noon_s + after_noon_s)

    def after_noon(self, instant: Timestamp) -> float:
        """How many seconds after Monday noon an instant is."""
        return instant.ToMilliseconds() / 1_000 - self.noon_s

    # ------------------------------------------------------------ policies

    def assign(
        self,
        *limits: policy_pb2.Limit,
        policy_id: str = "own",
        mandatory: bool = False,
        **scope: str,
    ) -> policy_pb2.Policy:
        """Makes a policy of the account and puts it on the account, or a narrower scope."""
        policy = self.server.policies.CreatePolicy(
            policy_service_pb2.CreatePolicyRequest(
                parent=self.parent, policy_id=policy_id, policy=policy_pb2.Policy(limits=limits)
            )
        )
        self.put(policy.name, policy_id, mandatory=mandatory, **scope)
        return policy

    def put(
        self, policy: str, assignment_id: str, *, mandatory: bool = False, **scope: str
    ) -> policy_pb2.Assignment:
        """Puts a policy on the account, or a narrower scope."""
        return self.server.policies.CreateAssignment(
            policy_service_pb2.CreateAssignmentRequest(
                parent=self.parent,
                assignment_id=assignment_id,
                assignment=policy_pb2.Assignment(
                    policy=policy,
                    mandatory=mandatory,
                    scope=policy_pb2.Scope(account=self.name, **scope),
                ),
            )
        )

    def change(self, policy: policy_pb2.Policy, *limits: policy_pb2.Limit) -> None:
        """Gives a policy other limits."""
        self.server.policies.UpdatePolicy(
            policy_service_pb2.UpdatePolicyRequest(
                policy=policy_pb2.Policy(name=policy.name, limits=limits),
                update_mask=FieldMask(paths=["limits"]),
            )
        )

    @property
    def parent(self) -> str:
        return f"accounts/{self.name}"

    # ------------------------------------------------------------ sends

    def attempt(self, contact: str = "", **fields: Any) -> attempt_pb2.Attempt:
        """An attempt of the account."""
        return attempt_pb2.Attempt(account=self.name, contact=contact, **fields)

    def commit(self, contact: str = "ada", **fields: Any) -> decision_service_pb2.CommitResponse:
        """Commits; `fields` are those of the request or of the attempt."""
        return self.server.decisions.Commit(commit_request(self.name, contact, **fields))

    def goes(self, contact: str = "ada", **fields: Any) -> bool:
        """Whether a commit is allowed."""
        return allowed(self.commit(contact, **fields))

    def check(self, contact: str = "ada", **fields: Any) -> decision_pb2.Decision:
        """What a commit would say now."""
        request = decision_service_pb2.CheckRequest(attempt=self.attempt(contact, **fields))
        return self.server.decisions.Check(request).decision

    def usage(self, contact: str = "", **fields: Any) -> list[decision_pb2.LimitStatus]:
        """How the limits stand."""
        request = decision_service_pb2.GetUsageRequest(attempt=self.attempt(contact, **fields))
        return list(self.server.decisions.GetUsage(request).limit_statuses)

    def batch(
        self,
        *recipients: decision_service_pb2.Recipient,
        limits: tuple[policy_pb2.Limit, ...] = (),
        request: decision_service_pb2.CommitBatchRequest | None = None,
        **fields: str,
    ) -> decision_service_pb2.CommitBatchResponse:
        """Commits a batch; `request` has its flags, `fields` what all attempts share."""
        whole = decision_service_pb2.CommitBatchRequest(
            attempt=self.attempt(**fields), recipients=recipients, inline_limits=limits
        )
        if request is not None:
            whole.MergeFrom(request)
        return self.server.decisions.CommitBatch(whole)
