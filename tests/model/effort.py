"""How many random examples the property tests try.

By default few enough for everyday; with LIMITER_TORTURE=1, or in hypothesis's profile `torture`,
twenty times as many.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

TORTURE: Final = (
    os.environ.get("LIMITER_TORTURE", "") not in ("", "0")
    or os.environ.get("HYPOTHESIS_PROFILE") == "torture"
)
TIMES: Final = 20 if TORTURE else 1


def examples(count: int, step_count: int = 50) -> settings:
    """Settings for a test that tries `count` examples, of up to `step_count` steps if it is a
    state machine."""
    return settings(
        max_examples=count * TIMES,
        stateful_step_count=step_count,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
        deadline=None,
    )
