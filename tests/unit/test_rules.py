"""Each rule in a story of its own, on the core by itself; tests/model has them all at random."""

from __future__ import annotations

from google.protobuf import text_format

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import CoreDriver
from tests.model.strategies import single
from tests.model.windows import instant_of

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED

# A Monday.
NOON_MS = instant_of(2025, 3, 3, 12)

DAY_CAP = """cap {
  measure: MEASURE_MESSAGES
  max_count: 1
  window { rolling { seconds: 86400 } }
}"""


def limit(rule: str, limit_id: str = "rule", enforcement: str = "ENFORCED") -> policy_pb2.Limit:
    """A limit with this rule, in protobuf's text format."""
    text = f'limit_id: "{limit_id}" enforcement: ENFORCEMENT_{enforcement} {rule}'
    return text_format.Parse(text, policy_pb2.Limit())


class Story:
    """One service under these limits for everything, and an account that sends."""

    def __init__(self, *limits: policy_pb2.Limit, now_ms: int = NOON_MS) -> None:
        self.driver = CoreDriver(now_ms)
        world = single(limits)
        self.driver.apply(world.policies, world.assignments)

    def commit(self, at_ms: int | None = None, **fields: object) -> decision_pb2.Decision:
        """What is decided about an attempt to ana, at `at_ms` if that is given."""
        if at_ms is not None:
            self.driver.set_clock(at_ms)
        attempt = attempt_pb2.Attempt(account="acme", contact="ana")
        attempt.MergeFrom(attempt_pb2.Attempt(**fields))  # type: ignore[arg-type]
        return self.driver.commit(service_pb2.CommitRequest(attempt=attempt)).decision


# --- SHADOW ---------------------------------------------------------------------------------------


def test_a_shadow_limit_never_denies_and_shows_what_it_would_have_denied() -> None:
    story = Story(limit(DAY_CAP, enforcement="SHADOW"))
    assert not story.commit().limit_statuses[0].exceeded
    second = story.commit()
    assert second.outcome == ALLOWED
    (status,) = second.limit_statuses
    assert status.exceeded
    assert status.reason == decision_pb2.REASON_MESSAGE_CAP
    assert status.used_count == 2
    assert not second.HasField("binding_limit")
    assert not second.HasField("retry_time")
