"""What a load is made of: latencies in classes, numbers by a distribution, plans, messages."""

from __future__ import annotations

import dataclasses
import io
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from limiter import errors, load, load_server
from limiter._load_histogram import Histogram
from limiter._load_population import Population
from limiter.cli import bench_report, plots
from limiter.cli.errors import CommandError


def test_quantiles_are_within_a_hundredth_and_never_too_low() -> None:
    random = Random(20270115)
    values = sorted(int(10 ** random.uniform(0, 10)) for _ in range(5_000))
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    for share in (0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = values[math.ceil(share * len(values)) - 1]
        assert exact <= histogram.quantile_ns(share) <= exact * 1.01 + 1
    assert histogram.max_ns == values[-1]
    assert sum(count for _, count in histogram.classes()) == histogram.count == len(values)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 257, 511, 512, 2**40, 2**63 - 1])
def test_a_single_latency_is_every_quantile(value: int) -> None:
    histogram = Histogram()
    histogram.record(value)
    assert histogram.quantile_ns(0.5) == histogram.quantile_ns(1.0) == value


def test_a_cleared_histogram_knows_nothing() -> None:
    histogram = Histogram()
    histogram.record(-5)
    assert histogram.classes() == [(0, 1)]
    histogram.clear()
    assert (histogram.count, histogram.max_ns, histogram.quantile_ns(0.5)) == (0, 0, 0)


def drawn(size: int, exponent: float, count: int, seed: int = 7) -> Counter[int]:
    population = Population(size, exponent, seed)
    return Counter(population.next() for _ in range(count))


def test_uniform_numbers_are_equally_frequent() -> None:
    counts = drawn(10, 0.0, 100_000)
    assert set(counts) == set(range(10))
    assert all(9_500 < count < 10_500 for count in counts.values())


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_zipf_numbers_have_their_shares(size: int) -> None:
    count = 200_000
    counts = drawn(size, 1.0, count)
    total = sum(1 / rank for rank in range(1, size + 1))
    for number in range(min(size, 7)):
        expected = count / total / (number + 1)
        assert abs(counts[number] - expected) < 6 * math.sqrt(expected) + 1
    assert max(counts) < size


def test_a_seed_gives_the_same_numbers() -> None:
    assert drawn(50, 1.0, 100) == drawn(50, 1.0, 100)
    assert drawn(50, 1.0, 100) != drawn(50, 1.0, 100, seed=8)
    with pytest.raises(ValueError, match="size"):
        Population(0, 1.0, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accounts", 0),
        ("contacts", 10_000_001),
        ("batch_size", 10_001),
        ("depth", 0),
        ("connections", 0),
        ("streams", 1_001),
        ("check_share", 1.5),
        ("rate", -1.0),
        ("duration_s", 0.0),
        ("warmup_s", -0.1),
        ("call_count", -1),
        ("seed", -1),
        ("mode", "burst"),
        ("distribution", "normal"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        load.Plan(**{field: value})
    assert [each.field for each in refused.value.violations] == [field]


def test_a_stream_takes_no_checks() -> None:
    with pytest.raises(errors.InvalidArgument, match="stream"):
        load.Plan(mode="stream", check_share=0.5)


def measurement(**changes: Any) -> load.Measurement:
    plain = load.Measurement(
        address="127.0.0.1:1",
        duration_s=2.0,
        calls=100,
        allowed=60,
        denied=40,
        failures={},
        first_failure=None,
        lost_connections=0,
        unsent=0,
        quantiles_ms=dict.fromkeys(load.QUANTILES, 1.5),
        max_ms=3.0,
        server_cpu_s=0.001,
        sent_in_all=100,
        work=2**63,
        samples=[load.Sample(1.0, 50.0), load.Sample(2.0, 50.0)],
        classes=[(1_000_000, 99), (3_000_000, 1)],
    )
    return dataclasses.replace(plain, **changes)


def printed(*measured: load.Measurement) -> str:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(bench_report.table(load.Plan(), measured))
    return console.export_text()


def test_the_table_tells_what_was_measured() -> None:
    text = printed(measurement())
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines(text)}
    assert rows["decisions"] == "50/s"
    assert rows["denied"] == "40%"
    assert rows["latency p99.9"] == "1.50 ms"
    assert rows["server's processor time"] == "10 us a decision"
    assert "100,000 accounts of 100 contacts (zipf)" in text


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("│")]


def test_failures_are_told_and_unknown_figures_are_called_so() -> None:
    failed = measurement(
        failures={"NO_ANSWER": 3, "UNAVAILABLE": 4}, first_failure="[gone]", server_cpu_s=None
    )
    text = printed(failed)
    assert "failed: UNAVAILABLE" in text
    assert "said first: [gone]" in text
    assert "unknown" in text


def test_two_servers_are_compared() -> None:
    first, second = measurement(), measurement(address="127.0.0.1:2", allowed=10, denied=40)
    cells = [line.split("│") for line in lines(printed(first, second))]
    ratios = {row[1].strip(): row[4].strip() for row in cells}
    assert ratios["decisions"] == "2.00"
    assert ratios["latency p50"] == "1.00"
    told = bench_report.as_json(load.Plan(), [first, second])
    assert told["ratios"]["decisions"] == pytest.approx(2.0)
    assert told["servers"][0]["work"] == "8000000000000000"
    assert told["servers"][0]["latency_ms"]["p99.9"] == 1.5


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "load.png"
    bench_report.draw(load.Plan(), [measurement(), measurement(address="127.0.0.1:2")], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CommandError, match="cannot write the plot"):
        bench_report.draw(load.Plan(), [measurement()], tmp_path / "no" / "load.png")


def test_without_matplotlib_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plots.require_matplotlib()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CommandError) as refused:
        plots.require_matplotlib()
    assert "limiter[plot]" in refused.value.lines[1]


def test_a_process_that_is_not_there_has_no_time() -> None:
    assert load_server.cpu_s(None) is None
    assert load_server.cpu_s(2**22 + 1) is None
    assert load_server.listening_process(1) is None
