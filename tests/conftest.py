"""What all tests share: hypothesis profiles, one printed seed for everything random, and what a
test has to tell at the end of a run.

HYPOTHESIS_PROFILE chooses a profile: `dev` (default), `ci`, whose examples are the same in every
run, so that a change is judged and not the dice, or `torture`, which looks for new ones for long. A
run prints its seed; `--hypothesis-seed=N` repeats it, for tests that use the `rng` fixture too.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, settings

_COMMON = settings(print_blob=True, deadline=None)
settings.register_profile("dev", _COMMON, max_examples=100)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True)
settings.register_profile(
    "torture", _COMMON, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow]
)
_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
settings.load_profile(_PROFILE)

# The property under which a test tells something.
_TOLD = "told"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draws the seed of this run unless one is given; worker processes get the same one."""
    if config.option.hypothesis_seed is None:
        dice = random.Random(0) if _PROFILE == "ci" else random.SystemRandom()
        config.option.hypothesis_seed = dice.randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    """The seed, so that a failure can be repeated."""
    return f"seed: repeat this run with --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers from the seed of the run and the name of the test."""
    name = zlib.crc32(request.node.nodeid.encode())
    return random.Random(f"{request.config.option.hypothesis_seed}:{name}")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Has a line stand in the summary of the run: what was measured or counted."""
    return partial(record_property, _TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what the tests had to tell."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, line in report.user_properties:
                    if name == _TOLD:
                        terminalreporter.write_line(line)
