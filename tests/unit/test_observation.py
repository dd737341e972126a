"""What is told of a server: the page of metrics, and what goes into it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from limiter import bounds, faults_told, metrics
from limiter._activity import Activity
from limiter.observation import Observation


@dataclass
class Health:
    is_serving: bool = True


def samples(page: bytes) -> dict[str, float]:
    """The samples of a page, by name and labels."""
    return {
        sample.name
        + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_a_server_that_has_just_begun_tells_what_it_knows() -> None:
    found = samples(metrics.page(Observation(Health(is_serving=False), Activity()).reading())[0])
    assert found["limiter_serving"] == 0
    assert found["limiter_recoveries_total"] == 0
    assert "limiter_errors_total code=RESOURCE_EXHAUSTED reason=OVERLOADED" in found
    assert "limiter_accounts" not in found
    assert "limiter_connections" not in found
    assert found["process_resident_memory_bytes"] > 0


def test_what_is_told_is_counted() -> None:
    observation = Observation(Health(), Activity())
    observation.group_written(7, 3_000_000)
    observation.group_written(1_000_000, 60_000_000_000)
    observation.call_answered("limiter.v1.PolicyService/GetPolicy", 200_000)
    times = observation.observe_hot(("a/First", "a/Second"))
    times.record(1_000_000, 1)
    found = samples(metrics.page(observation.reading())[0])
    assert found["limiter_journal_group_events_count"] == 2
    assert found["limiter_journal_group_events_sum"] == 1_000_007
    assert found["limiter_journal_group_events_bucket le=5.0"] == 0
    assert found["limiter_journal_group_events_bucket le=10.0"] == 1
    assert found["limiter_journal_group_events_bucket le=100000.0"] == 1
    assert found["limiter_journal_group_events_bucket le=+Inf"] == 2
    assert found["limiter_journal_append_duration_seconds_sum"] == pytest.approx(60.003)
    duration = "limiter_call_duration_seconds"
    assert found[f"{duration}_count method=limiter.v1.PolicyService/GetPolicy"] == 1
    assert found[f"{duration}_count method=a/First"] == 0
    assert found[f"{duration}_sum method=a/Second"] == pytest.approx(0.001)
    assert found[f"{duration}_bucket le=0.0005 method=a/Second"] == 0
    assert found[f"{duration}_bucket le=0.001 method=a/Second"] == 1


def test_steps_of_the_clock_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    observation = Observation(Health(), Activity())
    step_ns = bounds.CLOCK_STEP_MS_MIN * 1_000_000
    for moved_ns in (0, step_ns - 1, 1 - step_ns):
        observation.clocks_compared(moved_ns)
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        observation.clocks_compared(step_ns)
        observation.clocks_compared(-3_600_000_000_000)
        observation.clocks_compared(-step_ns)
    found = samples(metrics.page(observation.reading())[0])
    assert found["limiter_clock_steps_total direction=forward"] == 1
    assert found["limiter_clock_steps_total direction=backward"] == 2
    # A clock that stands is stepped each time it is looked at: that is no reason to fill the log.
    assert [vars(record)["step_ms"] for record in caplog.records] == [bounds.CLOCK_STEP_MS_MIN]


async def test_the_event_loop_is_looked_at() -> None:
    observation = Observation(Health(), Activity())
    looking = asyncio.get_running_loop().create_task(observation.look())
    count = 0.0
    async with asyncio.timeout(30):
        while count < 2:
            await asyncio.sleep(0.05)
            found = samples(metrics.page(observation.reading())[0])
            count = found["limiter_event_loop_lag_seconds_count"]
    looking.cancel()


def test_reasons_without_end_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "FAULT_REASONS_MAX", len(faults_told.counts()) + 2)
    for number in range(10):
        faults_told.count("ABORTED", f"TEST_REASON_{number}")
    found = faults_told.counts()
    assert found["ABORTED", "TEST_REASON_0"] == 1
    assert found["ABORTED", "OTHER"] == 8


def test_descriptions_are_in_form() -> None:
    names = [description.name for description in metrics.DESCRIPTIONS]
    assert len(set(names)) == len(names)
    for description in metrics.DESCRIPTIONS:
        assert description.name.startswith("limiter_")
        assert description.name.endswith("_total") == (description.kind is metrics.Kind.COUNTER), (
            description.name
        )
        assert description.help.endswith(".")
        # Nothing that a caller sends is among them.
        assert set(description.labels) <= {
            "code", "direction", "method", "operation", "outcome", "reason", "version",
        }  # fmt: skip


def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    reading = Observation(Health(), Activity()).reading()
    page, content_type = metrics.page(reading, "application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")
    assert metrics.page(reading)[1].startswith("text/plain")
