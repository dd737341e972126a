"""What is told to a monitoring system: every metric by name, and the page that it reads.

What flows in: a reading, the values of the metrics at one moment. What flows out: Prometheus' text
form of it, or OpenMetrics' where that is asked for.

What always holds: a metric that is not in the table is not told; a label has few values, all of
them from this program, and never names an account, a contact or anything else that a caller sent.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

__all__ = ["DESCRIPTIONS", "Description", "Distribution", "Kind", "Reading", "page"]


class Kind(enum.Enum):
    """What a metric is, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Description:
    """One metric: its name as it is queried, its labels, and what it tells."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Distribution(NamedTuple):
    """A histogram's value: the largest value of each class, the count of each and of what is larger
    than all, and the sum of all values; seconds, bytes or whatever the name says."""

    limits: Sequence[float]
    counts: Sequence[int]
    total: float


# By name: the values of each metric, each with the values of its labels.
Reading = Mapping[str, Sequence[tuple[tuple[str, ...], float | Distribution]]]

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

DESCRIPTIONS: Final = (
    Description("limiter_build_info", _GAUGE, "The version that runs; always 1.", ("version",)),
    Description("limiter_serving", _GAUGE, "Whether calls are answered: what health says."),
    Description(
        "limiter_decisions_total",
        _COUNTER,
        "Decisions, by what asked for them, outcome and reason: the kind of limit that denies. "
        "Each recipient of a batch has one.",
        ("operation", "outcome", "reason"),
    ),
    Description(
        "limiter_replays_total",
        _COUNTER,
        "Repeats of a request_id that were answered as before, counting nothing.",
        ("operation",),
    ),
    Description(
        "limiter_call_duration_seconds",
        _HISTOGRAM,
        "From the last byte of a request to its reply, the wait for the disk included; of each "
        "message in a CommitStream.",
        ("method",),
    ),
    Description("limiter_calls_in_flight", _GAUGE, "Calls that are under way, streams among them."),
    Description("limiter_streams", _GAUGE, "CommitStreams that are open."),
    Description("limiter_watchers", _GAUGE, "Callers who watch usage."),
    Description(
        "limiter_errors_total",
        _COUNTER,
        "Calls that ended with an error, by status code and reason; denials are none.",
        ("code", "reason"),
    ),
    Description("limiter_connections", _GAUGE, "Clients that are connected (native transport)."),
    Description(
        "limiter_connections_refused_total",
        _COUNTER,
        "Connections that were closed because there were too many (native transport).",
    ),
    Description(
        "limiter_floods_refused_total",
        _COUNTER,
        "Connections that were ended for too many control frames (native transport).",
    ),
    Description(
        "limiter_journal_group_events",
        _HISTOGRAM,
        "Events that were written to the disk together.",
    ),
    Description(
        "limiter_journal_append_duration_seconds",
        _HISTOGRAM,
        "Writing and syncing one group of events.",
    ),
    Description("limiter_journal_pending_events", _GAUGE, "Events that wait for the next group."),
    Description("limiter_journal_pending_bytes", _GAUGE, "Their size."),
    Description("limiter_journal_bytes", _GAUGE, "The journal on disk."),
    Description("limiter_journal_quota_bytes", _GAUGE, "What it may take."),
    Description(
        "limiter_image_lag_events",
        _GAUGE,
        "Events of the journal that a start would scan: those behind the newest baseline.",
    ),
    Description("limiter_images_bytes", _GAUGE, "The images on disk."),
    Description(
        "limiter_account_memory_bytes", _GAUGE, "About what the accounts in memory take there."
    ),
    Description(
        "limiter_arrivals_total", _COUNTER, "Accounts that calls had to be brought into memory for."
    ),
    Description("limiter_journal_map_bytes", _GAUGE, "The address space that is set aside for it."),
    Description(
        "limiter_journal_failures_total",
        _COUNTER,
        "Groups that could not be written; each takes the server out of service.",
    ),
    Description(
        "limiter_recoveries_total",
        _COUNTER,
        "Times that the journal was opened and replayed, the start among them.",
    ),
    Description("limiter_recovery_duration_seconds", _GAUGE, "How long the newest of them took."),
    Description("limiter_recovered_events", _GAUGE, "Events that it replayed."),
    Description("limiter_accounts", _GAUGE, "Accounts in memory."),
    Description(
        "limiter_names",
        _GAUGE,
        "Names in memory: accounts, resources, campaigns, agents and the like.",
    ),
    Description("limiter_request_ids", _GAUGE, "Request ids that are remembered."),
    Description("limiter_held_commits", _GAUGE, "Commits that are held."),
    Description("limiter_undone_commits", _GAUGE, "Cancelled and lapsed commits remembered."),
    Description("limiter_restrictions_bytes", _GAUGE, "The log of denied attempts on disk."),
    Description(
        "limiter_restrictions_dropped_total",
        _COUNTER,
        "Denied attempts that the log could not keep, and only counts.",
    ),
    Description("limiter_policy_revision", _GAUGE, "The revision of the policies."),
    Description(
        "limiter_event_loop_lag_seconds",
        _HISTOGRAM,
        "How late the event loop looks at what is due, to a millisecond.",
    ),
    Description(
        "limiter_clock_offset_seconds",
        _GAUGE,
        "The clock of the decisions less the machine's: what a step of that left to be slewed.",
    ),
    Description(
        "limiter_clock_steps_total",
        _COUNTER,
        "Steps of the machine's clock that were seen while serving.",
        ("direction",),
    ),
)

_BY_NAME: Final = {description.name: description for description in DESCRIPTIONS}


class _Collector:
    """Gives prometheus_client one reading."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """The families of the reading, in the order of the table."""
        assert set(self._reading) <= set(_BY_NAME)
        for description in DESCRIPTIONS:
            values = self._reading.get(description.name)
            if values is not None:
                yield _family(description, values)


def page(reading: Reading, accept: str = "") -> tuple[bytes, str]:
    """The page for a reading, in the form that an `Accept` header asks for, and its content type.

    What the system says of the process (`process_…`) is read meanwhile and stands beside it.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(reading))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _family(
    description: Description, values: Sequence[tuple[tuple[str, ...], float | Distribution]]
) -> Metric:
    name, text, labels = description.name, description.help, description.labels
    if description.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for label_values, value in values:
            assert isinstance(value, Distribution)
            histogram.add_metric(label_values, _buckets(value), value.total)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if description.kind is Kind.COUNTER:
        family = CounterMetricFamily(name, text, labels=labels)
    else:
        family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        assert not isinstance(value, Distribution)
        family.add_metric(label_values, value)
    return family


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    """Prometheus' buckets, each with all that is not larger."""
    buckets: list[tuple[str, float]] = []
    seen = 0
    names = [*(repr(float(limit)) for limit in value.limits), "+Inf"]
    for name, count in zip(names, value.counts, strict=True):
        seen += count
        buckets.append((name, seen))
    return buckets
