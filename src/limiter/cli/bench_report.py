"""What a load has measured: as a table, as JSON, as a plot.

In: Measurements of `limiter.load`, one for each server. Out: what people and programs read. Where
there are two, the second column of the table is followed by how they compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from limiter.cli import plots
from limiter.load import Measurement, Plan

_PLOT_HEIGHT_INCHES = 4.0

# One call in so many takes longer, and what percent do not.
_PERCENT_TICKS = {1: "0", 10: "90", 100: "99", 1_000: "99.9", 10_000: "99.99", 100_000: "99.999"}


def table(plan: Plan, measured: Sequence[Measurement]) -> RenderableType:
    """The plan; one row a figure, one column a server; how the first compares with the second."""
    shown = Table()
    shown.add_column("figure")
    for each in measured:
        shown.add_column(each.address, justify="right")
    if len(measured) == 2:
        shown.add_column("first / second", justify="right")
    for name, unit, values in _rows(measured):
        cells = ["unknown" if value is None else _number(value, unit) for value in values]
        if len(measured) == 2:
            cells.append(_ratio(values))
        shown.add_row(name, *cells)
    said: list[RenderableType] = []
    for index, each in enumerate(measured):
        for status, count in sorted(each.failures.items()):
            cells = [""] * len(measured)
            cells[index] = f"{count:,}"
            shown.add_row(f"failed: {status}", *cells)
        if each.first_failure:
            said.append(Text(f"{each.address} said first: {each.first_failure}"))
    return Group(Text(in_words(plan)), shown, *said)


def in_words(plan: Plan) -> str:
    """A plan in one line."""
    pace = f"{plan.rate:,.0f} calls/s" if plan.rate else "as fast as answers come"
    batches = f"batches of {plan.batch_size:,}"
    kind = {"unary": "unary calls", "stream": "CommitStream", "batch": batches}
    ids = ", request ids" if plan.request_ids else ""
    return (
        f"{kind[plan.mode]}, {plan.check_share:.0%} Checks{ids}, {pace}; {plan.accounts:,} "
        f"accounts of {plan.contacts:,} contacts ({plan.distribution}); {plan.connections} "
        f"connections x {plan.streams} streams"
    )


def _rows(
    measured: Sequence[Measurement],
) -> list[tuple[str, str, list[float | None]]]:
    """Name, unit and value for each server."""
    rows: list[tuple[str, str, list[float | None]]] = [
        ("decisions", "/s", [each.decisions_per_s for each in measured]),
        ("denied", "%", [100 * each.denied_share for each in measured]),
    ]
    for percent in measured[0].quantiles_ms:
        values: list[float | None] = [each.quantiles_ms[percent] for each in measured]
        rows.append((f"latency p{percent:g}", "ms", values))
    rows.append(("longest", "ms", [each.max_ms for each in measured]))
    used = [each.server_us_per_decision for each in measured]
    rows.append(("server's processor time", "us a decision", used))
    if any(each.unsent for each in measured):
        rows.append(("due, but not sent", "calls", [float(each.unsent) for each in measured]))
    rows.append(("failed", "calls", [float(each.failed) for each in measured]))
    if any(each.lost_connections for each in measured):
        lost: list[float | None] = [float(each.lost_connections) for each in measured]
        rows.append(("lost", "connections", lost))
    return rows


def _number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value >= 1_000 or value == int(value) else f"{value:.2f}"
    return f"{text}{unit}" if unit in {"/s", "%"} else f"{text} {unit}"


def _ratio(values: Sequence[float | None]) -> str:
    first, second = values
    return f"{first / second:.2f}" if first is not None and second else ""


def as_json(plan: Plan, measured: Sequence[Measurement]) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "plan": dataclasses.asdict(plan),
        "servers": [
            {
                **{
                    name: value
                    for name, value in dataclasses.asdict(each).items()
                    if name not in {"samples", "classes", "quantiles_ms", "work"}
                },
                "decisions": each.decisions,
                "decisions_per_s": each.decisions_per_s,
                "denied_share": each.denied_share,
                "server_us_per_decision": each.server_us_per_decision,
                "latency_ms": {f"p{percent:g}": ms for percent, ms in each.quantiles_ms.items()},
                # 64 bits are more than a number of JSON holds.
                "work": f"{each.work:016x}",
                "samples": [dataclasses.asdict(sample) for sample in each.samples],
            }
            for each in measured
        ],
        "ratios": {
            name: values[0] / values[1]
            for name, _, values in _rows(measured)
            if len(measured) == 2 and values[0] is not None and values[1]
        },
    }


def draw(plan: Plan, measured: Sequence[Measurement], path: Path) -> None:
    """Latencies by percentile on the left, decisions a second over time on the right."""
    figure = plots.figure(_PLOT_HEIGHT_INCHES)
    figure.suptitle(in_words(plan), fontsize=8)
    latencies, throughput = figure.subplots(1, 2)
    for each in measured:
        seen = 0
        total = sum(count for _, count in each.classes)
        shares: list[float] = []
        values: list[float] = []
        for latency_ns, count in each.classes:
            seen += count
            # The last one would lie at infinity.
            shares.append(1 / max(1 - seen / total, 1 / total))
            values.append(latency_ns / 1e6)
        latencies.plot(shares, values, label=each.address, linewidth=1.2)
        throughput.plot(
            [sample.at_s for sample in each.samples],
            [sample.decisions_per_s for sample in each.samples],
            label=each.address,
            linewidth=1.2,
        )
    latencies.set_xscale("log")
    latencies.set_xticks(list(_PERCENT_TICKS), list(_PERCENT_TICKS.values()))
    latencies.set_xlabel("percent of calls within")
    latencies.set_ylabel("latency, ms")
    throughput.set_xlabel("seconds")
    throughput.set_ylabel("decisions a second")
    throughput.yaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}")
    for axes in (latencies, throughput):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(measured) > 1:
            axes.legend(fontsize=8)
    plots.save(figure, path)
