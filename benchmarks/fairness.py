"""What one account's flood does to another account's latencies: `make fairness`.

A server of its own, and two clients in processes of their own: the quiet one commits for its
account at a low, even rate, and the flood asks as fast as answers come, for another account. The
quiet one's latencies are taken alone and under each kind of flood in turn, several times over, so
that a disturbance of the machine meets all; the figures are medians over the rounds. The quiet
client runs at a higher priority where that is allowed: what is measured is the server, not how the
machine shares its processors between clients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from benchmarks.journal import bench_folder
from limiter import load
from limiter.load_server import own_server
from limiter.v1 import policy_service_pb2, policy_service_pb2_grpc

__all__ = ["FLOODS", "Row", "main", "measured"]

ROUNDS: Final = 3
SECONDS: Final = 5.0

# By how much the quiet one's p99 may grow.
RATIO_MAX: Final = 3.0

# Priorities as `nice` counts them.
QUIET_NICENESS: Final = -10

QUIET: Final[dict[str, Any]] = {
    "account_prefix": "quiet",
    "accounts": 1,
    "contacts": 1_000,
    "connections": 2,
    "streams": 8,
    "rate": 300.0,
}

# How a flood asks; None stands for no flood.
FLOODS: Final[dict[str, dict[str, Any] | None]] = {
    "nothing": None,
    "Commits, 64 connections": {"connections": 64, "streams": 16},
    "Commits, 1,000 at once on each of 4": {"connections": 4, "streams": 1_000},
    "denials, 64 connections": {"account_prefix": "stopped", "connections": 64, "streams": 16},
    "CommitStreams": {"mode": "stream", "connections": 8, "streams": 8, "depth": 256},
    "denials by CommitStream": {
        "account_prefix": "stopped",
        "mode": "stream",
        "connections": 8,
        "streams": 8,
        "depth": 256,
    },
    "batches of 1,000": {"mode": "batch", "batch_size": 1_000, "connections": 8, "streams": 2},
    "batches of 10,000": {"mode": "batch", "batch_size": 10_000, "connections": 4, "streams": 2},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of flood did: the quiet one's quantiles in ms, its calls that failed, and the
    flood's decisions a second, each of several rounds."""

    flood: str
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    max_ms: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    flood_per_s: list[float] = field(default_factory=list)


def assign_limits(address: str) -> None:
    """Limits that nobody reaches, and one that stops an account."""

    def limits(max_count: int) -> list[dict[str, Any]]:
        return [
            {
                "limitId": limit_id,
                "cap": {
                    "measure": measure,
                    "maxCount": max_count,
                    "window": {"rolling": "86400s"},
                },
                "enforcement": "ENFORCEMENT_ENFORCED",
            }
            for limit_id, measure in (
                ("people", "MEASURE_CONTACTS"),
                ("messages", "MEASURE_MESSAGES"),
            )
        ]

    request = json_format.ParseDict(
        {
            "policies": [
                {"name": "policies/roomy", "limits": limits(10**9)},
                {"name": "policies/none", "limits": limits(0)},
            ],
            "assignments": [
                {"name": "assignments/all", "policy": "policies/roomy"},
                {
                    "name": "accounts/stopped-0000000/assignments/none",
                    "policy": "policies/none",
                    "scope": {"account": "stopped-0000000"},
                },
            ],
        },
        policy_service_pb2.ApplyPoliciesRequest(),
    )
    with grpc.insecure_channel(address) as channel:
        policy_service_pb2_grpc.PolicyServiceStub(channel).ApplyPolicies(request, timeout=30)


@contextmanager
def client(address: str, plan: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A load in a process of its own; what it measured is one line of its standard output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fairness", "--client", json.dumps([address, plan])],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a client measured. Raises RuntimeError if it failed."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a client ended with {process.wait()}")
    measurement: dict[str, Any] = json.loads(line)
    return measurement


def one_run(address: str, row: Row, flood: dict[str, Any] | None, seconds: float) -> None:
    """The quiet one beside one flood, which begins before and ends after."""
    quiet = {**QUIET, "duration_s": seconds, "warmup_s": seconds / 10}
    if flood is None:
        with client(address, quiet) as quiet_client:
            note(row, told(quiet_client))
        row.flood_per_s.append(0.0)
        return
    plan = {
        "account_prefix": "flood",
        "accounts": 1,
        "contacts": 100_000,
        "duration_s": 3 * seconds,
        "warmup_s": 0.0,
        **flood,
    }
    with client(address, plan) as flood_client:
        time.sleep(1 + seconds / 10)
        with client(address, quiet) as quiet_client:
            note(row, told(quiet_client))
        measurement = told(flood_client)
        row.flood_per_s.append(
            (measurement["allowed"] + measurement["denied"]) / measurement["duration_s"]
        )


def note(row: Row, measurement: Mapping[str, Any]) -> None:
    """Adds what the quiet one measured."""
    quantiles_ms = measurement["quantiles_ms"]
    row.p50_ms.append(quantiles_ms["50.0"])
    row.p99_ms.append(quantiles_ms["99.0"])
    row.max_ms.append(measurement["max_ms"])
    row.failed.append(sum(measurement["failures"].values()) + measurement["unsent"])


def measured(seconds: float, rounds: int, only: str = "") -> list[Row]:
    """All floods, round by round; of those whose name contains `only`, if that is given."""
    floods = {name: each for name, each in FLOODS.items() if each is None or only in name}
    rows = {name: Row(name) for name in floods}
    with bench_folder() as folder, own_server(Path(folder)) as address:
        assign_limits(address)
        for _ in range(rounds):
            for name, flood in floods.items():
                one_run(address, rows[name], flood, seconds)
    return list(rows.values())


def serve_client(settings: str) -> None:
    """Puts one load on a server and prints what it measured."""
    address, plan = json.loads(settings)
    if plan["account_prefix"] == QUIET["account_prefix"]:
        try:
            os.nice(QUIET_NICENESS)
        except PermissionError:
            print("the quiet client has no priority: its figures hold its waits", file=sys.stderr)
    measurement = load.run(load.Plan(**plan), address, lambda progress: None)
    print(json.dumps(asdict(measurement)), flush=True)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="floods whose name contains this")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client is not None:
        serve_client(arguments.client)
        return
    rows = measured(arguments.seconds, arguments.rounds, arguments.only)
    table = Table(title="Another account's Commits under one account's flood")
    for heading in ("flood", "p50", "p99", "p99 / alone", "longest", "failed", "flood"):
        table.add_column(heading, justify="left" if heading == "flood" else "right")
    alone_ms = median(rows[0].p99_ms)
    for row in rows:
        ratio = median(row.p99_ms) / alone_ms
        table.add_row(
            row.flood,
            f"{median(row.p50_ms):.2f} ms",
            f"{median(row.p99_ms):.2f} ms",
            f"{ratio:.2f}" if ratio <= RATIO_MAX else f"[red]{ratio:.2f}[/red]",
            f"{median(row.max_ms):.1f} ms",
            f"{sum(row.failed):,}",
            f"{median(row.flood_per_s):,.0f}/s",
        )
    console = Console()
    console.print(table)
    console.print(f"The aim: at most {RATIO_MAX:g} times the p99 alone.")


if __name__ == "__main__":
    main()
