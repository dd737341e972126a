"""What many accounts cost a whole server: a call, a restart, images, and what memory is too small
for.

Servers are processes of their own. Those that begin with a population have the data folder of an
hour's traffic. What is compared is measured in turns, round by round, so that a disturbance of the
machine meets both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import grpc
import psutil
from google.protobuf import json_format

from benchmarks.end_to_end import prepare_folder
from benchmarks.journal import bench_folder
from benchmarks.workload import Population
from limiter import load
from limiter.load_server import own_server
from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
)

__all__ = [
    "Accounts",
    "Budget",
    "Images",
    "Restart",
    "compare_accounts",
    "compare_budget",
    "compare_images",
    "fill_request",
    "require_exact",
    "restart",
    "serving",
]

ROOT: Final = Path(__file__).resolve().parent.parent

# How long a server may take to recover its state and answer.
PATIENCE_S: Final = 900

# How long a client waits between two attempts to reach a server that is starting.
KNOCK_S: Final = 0.01

# How long nothing is written once a server has settled.
SETTLED_S: Final = 4.0

# Accounts whose counts are looked at one by one.
SAMPLE: Final = 200

# The rate at which latencies are compared, as a share of what the server can do.
RATE_SHARE: Final = 0.5


def assign_people(address: str, max_count: int = 20_000_000) -> None:
    """One cap of people in 24 hours on everything."""
    cap = {
        "measure": "MEASURE_CONTACTS",
        "maxCount": max_count,
        "window": {"rolling": "86400s"},
    }
    limit = {"limitId": "people", "cap": cap, "enforcement": "ENFORCEMENT_ENFORCED"}
    request = json_format.ParseDict(
        {
            "policies": [{"name": "policies/people", "limits": [limit]}],
            "assignments": [{"name": "assignments/all", "policy": "policies/people"}],
        },
        policy_service_pb2.ApplyPoliciesRequest(),
    )
    with grpc.insecure_channel(address) as channel:
        policy_service_pb2_grpc.PolicyServiceStub(channel).ApplyPolicies(request, timeout=30)


def environment() -> dict[str, str]:
    """That of a server, which finds the modules of this tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}


# ---------------------------------------------------------------- names, as a load has them


def account_name(number: int) -> str:
    """Of the account with this number."""
    return f"bench-{number:07}"


def contact_name(number: int) -> str:
    """Of the contact with this number, in every account."""
    return f"contact-{number:07}"


@cache
def _recipients(count: int) -> bytes:
    request = decision_service_pb2.CommitBatchRequest()
    for number in range(count):
        request.recipients.add(contact=contact_name(number))
    return request.SerializeToString()


def fill_request(account: int, contact_count: int) -> bytes:
    """A serialized CommitBatchRequest to the account's contacts, all of whom a load addresses."""
    head = decision_service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account=account_name(account), channel="sms")
    )
    return head.SerializeToString() + _recipients(contact_count)


# ---------------------------------------------------------------- a call


@dataclass(frozen=True, slots=True)
class Accounts:
    """What calls to few and to many accounts took, one value a round."""

    few_us: list[float]
    many_us: list[float]
    few_rates: list[float]
    many_rates: list[float]
    journal_bytes: float

    @property
    def time_ratio(self) -> float:
        """How many times the server's processor time a call takes with many."""
        return paired(self.many_us, self.few_us)

    @property
    def rate_ratio(self) -> float:
        """How many times the calls a second few accounts get."""
        return paired(self.few_rates, self.many_rates)


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median ratio of what was measured in the same round."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


def run_load(
    address: str, accounts: int, contacts: int, duration_s: float, rate: float = 0.0
) -> load.Measurement:
    """Unary Commits to all accounts alike, each of which was called before it is measured. Raises
    RuntimeError unless all were allowed."""
    plan = load.Plan(
        accounts=accounts,
        contacts=contacts,
        distribution="uniform",
        duration_s=duration_s,
        warmup_s=duration_s / 6,
        rate=rate,
    )
    measured = load.run(plan, address, lambda progress: None)
    if measured.failures or measured.denied or measured.server_us_per_decision is None:
        raise RuntimeError(f"the load was not all allowed, or the server not seen: {measured}")
    return measured


def allocated_bytes(folder: Path) -> int:
    """What the files of a folder take of the disk; sparse ones less than their size."""
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


def compare_accounts(few: int, many: int, duration_s: float, rounds: int) -> Accounts:
    """Unary Commits to a server that knows few accounts, and to one that knows many."""
    found = Accounts([], [], [], [], 0.0)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(bench_folder())) for _ in range(2)]
        addresses = [stack.enter_context(own_server(folder)) for folder in folders]
        for address in addresses:
            assign_people(address)
        bytes_before = allocated_bytes(folders[0])
        commits = 0
        for _ in range(rounds):
            small = run_load(addresses[0], few, 10, duration_s)
            large = run_load(addresses[1], many, 10, duration_s)
            commits += small.sent_in_all
            found.few_us.append(small.server_us_per_decision or 0.0)
            found.many_us.append(large.server_us_per_decision or 0.0)
            found.few_rates.append(small.decisions_per_s)
            found.many_rates.append(large.decisions_per_s)
        journalled = (allocated_bytes(folders[0]) - bytes_before) / commits
    return Accounts(found.few_us, found.many_us, found.few_rates, found.many_rates, journalled)


# ---------------------------------------------------------------- a restart


@dataclass(frozen=True, slots=True)
class Restart:
    """What came after kill -9: how long until the line that says where, until a decision, and how
    much of that the server worked."""

    ready_s: float
    decided_s: float
    cpu_s: float


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a data folder, killed with -9 when it is left."""
    command = ["serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder), *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "limiter.cli", *command],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if " serving on " not in ready:
                process.wait(PATIENCE_S)
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read()}")
            yield process, ready.split()[-1]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
            process.stdout.close()


def commit(address: str, account: str, contact: str) -> decision_service_pb2.CommitResponse:
    """One Commit, by a client of its own, which knocks until somebody answers."""
    request = decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account=account, contact=contact, channel="sms"),
        view=decision_pb2.VIEW_FULL,
    )
    until_s = time.monotonic() + PATIENCE_S
    while True:
        with grpc.insecure_channel(address) as channel:
            stub = decision_service_pb2_grpc.DecisionServiceStub(channel)
            try:
                return stub.Commit(request, timeout=PATIENCE_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > until_s:
                    raise
        time.sleep(KNOCK_S)


def require_used(reply: decision_service_pb2.CommitResponse, used: int) -> None:
    """Raises RuntimeError unless the attempt was allowed and so many people stand in its window."""
    decision = reply.decision
    counts = [status.used_count for status in decision.limit_statuses]
    if decision.outcome != decision_pb2.OUTCOME_ALLOWED or counts != [used]:
        raise RuntimeError(f"expected {used} people in the window: {reply}")


def settle(folder: Path) -> None:
    """Waits until images have not been written for a while: at first a server has much to write."""
    until_s = time.monotonic() + PATIENCE_S
    while time.time_ns() - last_write(folder) < SETTLED_S * 1_000_000_000:
        if time.monotonic() > until_s:
            raise RuntimeError(f"images are written without end in {folder}")
        time.sleep(SETTLED_S / 4)


def restart(population: Population) -> Restart:
    """Has a server with this population serve until its images are written, kills it, starts
    another one on its folder and asks it for a decision, which has to know what was acknowledged
    before."""
    account = population.account_count // 2
    inside = population.contact_count
    with bench_folder() as name:
        folder = Path(name) / "data"
        prepare_folder(folder, population, 0, fill_request)
        with serving(folder) as (_, address):
            first = commit(address, account_name(account), contact_name(inside))
            require_used(first, inside + 1)
            settle(folder / "images")
        begun_s = time.monotonic()
        with serving(folder) as (process, address):
            ready_s = time.monotonic() - begun_s
            second = commit(address, account_name(account), contact_name(inside + 1))
            decided_s = time.monotonic() - begun_s
            require_used(second, inside + 2)
            used = psutil.Process(process.pid).cpu_times()
    return Restart(ready_s, decided_s, used.user + used.system)


# ---------------------------------------------------------------- correctness


def require_exact(address: str, population: Population, sample_count: int, seed: int = 1) -> None:
    """Raises RuntimeError unless each of some random accounts counts whom it had, then one more,
    then that one no second time, others being asked in between."""
    sample = Random(seed).sample(
        range(population.account_count), min(sample_count, population.account_count)
    )
    inside = population.contact_count
    for _ in range(2):
        for account in sample:
            reply = commit(address, account_name(account), contact_name(inside))
            require_used(reply, inside + 1)


# ---------------------------------------------------------------- little memory


@dataclass(frozen=True, slots=True)
class Budget:
    """Commits a second with all the memory there is, and with little of it, one value a round."""

    full_rates: list[float]
    small_rates: list[float]

    @property
    def slower(self) -> float:
        """How many times as many go with all the memory."""
        return paired(self.full_rates, self.small_rates)


def compare_budget(
    population: Population, memory_bytes: int, duration_s: float, rounds: int
) -> Budget:
    """Unary Commits to all accounts alike of two servers with this population, one of which may
    keep so many bytes of it in memory. Raises RuntimeError unless that one counts exactly."""
    found = Budget([], [])
    with ExitStack() as stack:
        addresses = []
        for flags in ((), ("--memory", f"{memory_bytes}B")):
            folder = Path(stack.enter_context(bench_folder())) / "data"
            prepare_folder(folder, population, 0, fill_request)
            addresses.append(stack.enter_context(serving(folder, *flags))[1])
        for _ in range(rounds):
            for address, rates in zip(
                addresses, (found.full_rates, found.small_rates), strict=True
            ):
                measured = run_load(
                    address, population.account_count, population.contact_count, duration_s
                )
                rates.append(measured.decisions_per_s)
        require_exact(addresses[1], population, SAMPLE)
    return found


# ---------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class Images:
    """The p99 of commits at a steady rate, while images are written and while none are."""

    rate: float
    writing_ms: list[float]
    quiet_ms: list[float]

    @property
    def slower(self) -> float:
        """How many times the p99 while images are written."""
        return paired(self.writing_ms, self.quiet_ms)


def compare_images(few: int, many: int, duration_s: float, rounds: int) -> Images:
    """Unary Commits to few accounts, each of which has an image due every few dozen commits, and
    to many, none of which has, at the same rate on the same server."""
    with bench_folder() as name, own_server(Path(name)) as address:
        assign_people(address)
        store = Path(name) / "data" / "images"
        peak = run_load(address, few, 10, duration_s).decisions_per_s
        # Every account is called once before anything is measured.
        run_load(address, many, 10, duration_s)
        found = Images(peak * RATE_SHARE, [], [])
        for _ in range(rounds):
            before = last_write(store)
            writing = run_load(address, few, 10, duration_s, found.rate)
            require_written(store, before)
            quiet = run_load(address, many, 10, duration_s, found.rate)
            found.writing_ms.append(writing.quantiles_ms[99.0])
            found.quiet_ms.append(quiet.quantiles_ms[99.0])
    return found


def require_written(folder: Path, before_ns: int) -> None:
    """Raises RuntimeError unless something is written that was not by then: what is due comes a
    moment after the last call at the latest."""
    until_s = time.monotonic() + PATIENCE_S / 10
    while last_write(folder) == before_ns:
        if time.monotonic() > until_s:
            raise RuntimeError("no image was written while latencies were measured")
        time.sleep(SETTLED_S / 40)


def last_write(folder: Path) -> int:
    """When a file of the folder was last written, in nanoseconds."""
    return max(each.stat().st_mtime_ns for each in folder.rglob("*") if each.is_file())
