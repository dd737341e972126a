"""The benchmarks at smoke size: they run, do the work that they say, and the same each time."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import (
    core,
    end_to_end,
    fairness,
    instructions,
    journal,
    loop_lag,
    policy,
    report,
    rivals,
    scale,
    scale_journal,
    scale_memory,
    scale_serving,
    simulation,
    speed,
    wire,
    workload,
)
from benchmarks.workload import Engine, Figure, Population
from limiter.v1 import decision_pb2, decision_service_pb2

MODULES = (
    wire,
    core,
    policy,
    simulation,
    journal,
    instructions,
    end_to_end,
    scale_memory,
    scale_journal,
)

# For each suite: a parameter and the attributes that make it small.
SMOKE: dict[type, tuple[tuple[Any, ...], dict[str, Any]]] = {
    wire.Decode: (("CommitRequest",), {"byte_count": 5_000}),
    wire.Encode: (("denied, BASIC",), {"rounds": 10}),
    core.Decide: (("tiny",), {"decision_count": 50, "populations": {"tiny": Population(5, 10)}}),
    core.Limits: ((4,), {"decision_count": 50}),
    core.Batch: ((100,), {"recipient_count": 300}),
    policy.Resolve: ((3,), {"rounds": 2}),
    simulation.Simulate: (
        ("tiny",),
        {"attempt_count": 100, "populations": {"tiny": Population(5, 10)}},
    ),
    journal.Commit: ((3,), {"events_per_caller": 3}),
    journal.Append: ((5,), {"group_count": 3}),
    instructions.Commit: ((50,), {}),
    scale_memory.Memory: (("1000000 x 10", "recipients"), {"scale": 0.0001}),
    scale_journal.JournalBytes: (
        (True,),
        {"population": Population(10, 10), "commit_count": 300},
    ),
    end_to_end.Commits: ((20,), {"call_count": 20, "rounds": 1}),
    end_to_end.Batches: ((), {"batch_count": 3}),
}


def suites() -> Iterator[type]:
    """Every class of the suites that asv would run."""
    for module in MODULES:
        for _, found in inspect.getmembers(module, inspect.isclass):
            own = found.__module__ == module.__name__
            if own and any(name.startswith(("track_", "time_")) for name in dir(found)):
                yield found


def test_every_suite_has_a_smoke_size() -> None:
    assert set(suites()) == set(SMOKE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SMOKE, ids=lambda suite: suite.__qualname__)
def test_suites_run_as_asv_runs_them(suite: type) -> None:
    parameters, settings = SMOKE[suite]
    benchmark: Any = suite()
    for setting, value in settings.items():
        assert hasattr(benchmark, setting)
        setattr(benchmark, setting, value)
    # asv sets up anew for each benchmark of a suite; once is enough here.
    if hasattr(benchmark, "setup"):
        try:
            benchmark.setup(*parameters)
        except NotImplementedError as absent:
            pytest.skip(str(absent))
    try:
        for name in dir(suite):
            if name.startswith(("track_", "time_")):
                measured = getattr(benchmark, name)(*parameters)
                assert math.isfinite(measured)
                assert measured > 0
    finally:
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*parameters)


def test_asv_finds_the_suites() -> None:
    folder = Path(workload.__file__).parent
    settings = json.loads((folder / "asv.conf.json").read_text())
    assert (folder / settings["benchmark_dir"]).resolve() == folder.resolve()
    assert (folder / settings["repo"] / "pyproject.toml").exists()


def outcomes(engine: Engine, requests: list[bytes]) -> list[int]:
    replies = [engine.decider.commit(request, core.NOW_MS)[0] for request in requests]
    return [
        decision_service_pb2.CommitResponse.FromString(reply).decision.outcome for reply in replies
    ]


def test_populations_are_what_they_say() -> None:
    """Whoever is inside passes a full limit, whoever is new does not."""
    engine = core.filled(Population(3, 200))
    inside = [
        workload.commit_request(
            workload.account_name(account), workload.contact_name(account, contact)
        )
        for account in range(3)
        for contact in (0, 99, 199)
    ]
    outside = [
        workload.commit_request(workload.account_name(account), workload.contact_name(account, 200))
        for account in range(3)
    ]
    assert engine.core.account_count == 3
    assert set(outcomes(engine, inside)) == {decision_pb2.OUTCOME_ALLOWED}
    assert set(outcomes(engine, outside)) == {decision_pb2.OUTCOME_DENIED}


def test_runs_repeat_exactly() -> None:
    population = Population(20, 150)

    def digest(filled: Population) -> str:
        requests = workload.mixed_requests(population, 400)
        return core.commit_all(core.filled(filled), requests).digest

    assert digest(population) == digest(population)
    assert digest(population) != digest(Population(20, 149))


def test_digests_depend_on_the_replies_and_their_order() -> None:
    digests = {
        workload.digest_of(replies)
        for replies in ([], [b"ab"], [b"a", b"b"], [b"b", b"a"], [b"", b"ab"])
    }
    assert len(digests) == 5


def test_timing_visits_every_item_once() -> None:
    seen: list[int] = []

    def visit(item: int) -> bytes:
        seen.append(item)
        return str(item).encode()

    timing = workload.timed(visit, range(23), bytes)
    assert seen == list(range(23))
    assert timing.digest == workload.digest_of(str(item).encode() for item in range(23))


def test_the_report_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--only", "wire", "--scale", "0.0001"]) == 0
    printed = capsys.readouterr().out
    assert "decode CommitRequest" in printed
    assert "≤ 150 ns" in printed
    assert report.main(["--only", "wire", "--scale", "0.0001", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]["wire"]
    assert {figure["unit"] for figure in figures} == {"ns"}


def test_a_ratio_below_one_is_a_missed_target() -> None:
    slow = Figure("slow", 300.0, "ns", 150.0)
    few = Figure("few", 100_000.0, "decisions/s", 300_000.0, at_most=False)
    enough = Figure("enough", 0.84, "x", 0.70, at_most=False)
    assert slow.ratio == pytest.approx(0.5)
    assert few.ratio == pytest.approx(1 / 3)
    assert enough.ratio == pytest.approx(1.2)
    assert Figure("free", 1.0, "ns").ratio is None
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report.tabulate({"suite": [slow, few, enough]}, "machine"))
    printed = console.export_text()
    assert [line.split("│")[4].strip() for line in printed.splitlines() if "0.50" in line] == [
        "0.50"
    ]


def test_commits_whose_instructions_are_counted_count() -> None:
    assert instructions.commit_repeatedly(30) == 30


def test_speed_runs_without_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smoke run of everything of ours; the rivals are absent, and their rows say so."""

    def absent(name: str) -> str:
        raise rivals.Absent(f"{name} is not installed")

    monkeypatch.setattr(rivals, "program", absent)
    figures = {figure.name: figure for figure in speed.figures(0.01)}
    assert figures["durable Commit, bench"].value > 0
    assert figures["p99 at half the peak rate"].value > 0
    assert figures["CommitBatch of 1,000"].value > 0
    assert figures["Commit (bench) / Redis INCR"].missing == "redis-server is not installed"
    assert figures["durable Commit, h2load"].missing == "h2load is not installed"
    missing = report.columns_of(figures["nghttpd, 5-byte file, h2load"])
    assert missing == ("not measured", "", "", "nghttpd is not installed")


def test_rivals_are_measured_where_they_are_installed() -> None:
    try:
        with rivals.nghttpd() as url:
            assert rivals.h2load(url, 1_000) > 0
        with rivals.redis_server() as port:
            assert rivals.redis_increments(port, 1_000) > 0
    except rivals.Absent as absent:
        pytest.skip(str(absent))
    assert rivals.syncs_per_s(0.05) > 0


@pytest.mark.parametrize(
    ("population", "caps", "bytes_max"),
    [
        (Population(1, 300_000), "people", scale.LARGE_BYTES),
        (Population(500, 200), "people", scale.LARGE_BYTES),
        (Population(3_000, 10), "people", scale.SMALL_BYTES),
        (Population(3_000, 10), "recipients", 600.0),
    ],
)
def test_contacts_take_little_memory(population: Population, caps: str, bytes_max: float) -> None:
    """What malloc gives out hangs on the work alone, so that a regression shows anywhere."""
    found = scale_memory.footprint(population, caps)
    assert found.contact_count == population.pair_count
    # A digest and the position of the newest event are 24 bytes by themselves.
    assert 24 < found.given_bytes <= bytes_max


@pytest.mark.parametrize("is_full", [False, True])
def test_commits_take_little_of_the_journal(is_full: bool) -> None:
    fields = scale_memory.Fields(is_full)
    taken = scale_journal.journal_bytes(Population(50, 10), fields, 500)
    assert 16 < taken <= scale.JOURNAL_BYTES


@pytest.mark.timeout(300)
def test_the_scale_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--scale", "0.0001", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert list(parts) == list(scale.PARTS)
    rows = [row["figure"] for part in parts.values() for row in part]
    assert all(math.isfinite(row["value"]) and not row["missing"] for row in rows)
    targets = [row["target"] for row in rows if row["target"] is not None]
    assert targets.count(scale.LARGE_BYTES) == 2
    assert {scale.SMALL_BYTES, scale.JOURNAL_BYTES, scale.RESTART_S, scale.SLOWER} < set(targets)
    assert scale.main(["--only", "journal", "--scale", "0.0001"]) == 0
    printed = capsys.readouterr().out
    assert "≤ 96.0 bytes" in printed
    assert "third product" in printed


def test_a_server_of_the_scale_counts_exactly(tmp_path: Path) -> None:
    """What is asked of accounts that do not fit into memory, of some that do."""
    population = Population(20, 3)
    end_to_end.prepare_folder(tmp_path / "data", population, 0, scale_serving.fill_request)
    with scale_serving.serving(tmp_path / "data") as (_, address):
        scale_serving.require_exact(address, population, 5)
        with pytest.raises(RuntimeError, match="expected 6 people"):
            scale_serving.require_exact(address, Population(20, 5), 5)


def test_the_loop_is_watched_under_every_kind_of_work() -> None:
    held = {each.work: each for each in loop_lag.measured(0.002)}
    assert {"nothing", "Commits, many at once", "CommitStream", "CommitBatch of 1,000"} <= set(held)
    for each in held.values():
        assert each.turn_count > 0
        assert 0 < each.thread_ms_max
        assert 0 < each.wall_ms_max <= each.seconds * 1_000 + 1_000
        assert each.thread_held_count <= each.turn_count


@pytest.mark.timeout(300)
def test_fairness_at_smoke_size() -> None:
    alone, flooded = fairness.measured(0.3, 1, "denials, 64 connections")
    assert alone.flood == "nothing"
    assert alone.flood_per_s == [0.0]
    assert flooded.flood_per_s[0] > 0
    for row in (alone, flooded):
        assert 0 < row.p50_ms[0] <= row.p99_ms[0] <= row.max_ms[0]
