"""How long the event loop of a server is held, by the kind of work: `make loop-lag`.

A server runs in a process of its own with a probe on its loop: a callback that is due in every turn
of the loop, so that the time between two of its calls is what the rest of that turn took. That is
told in two measures: by the clock, in which the loop may have been kept from the processor or
waited for the interpreter, and by the processor time of the loop's own thread, which is what the
turn did. A turn may serve many clients, one after the other; of one client it is one call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.journal import bench_folder
from limiter import bounds
from limiter.server import Config, Server
from limiter.v1 import (
    attempt_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    plan_pb2,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
    restriction_pb2,
    simulation_pb2,
)

__all__ = ["Holds", "main", "measured"]

HELD_NS: Final = 1_000_000

ACCOUNT: Final = "lag"
OPTIONS: Final = (("grpc.max_receive_message_length", -1),)


# ---------------------------------------------------------------- inside the server


class Probe:
    """Times the turns of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_probing = False
        # Arrays, so that the probe makes no work for the collector of garbage.
        self.wall_ns = array("q")
        self.thread_ns = array("q")
        self._wall_seen_ns = self._thread_seen_ns = 0

    def begin(self) -> None:
        """Forgets what there was and times turns from now on."""
        self.wall_ns, self.thread_ns = array("q"), array("q")
        self._is_probing = True
        self._wall_seen_ns, self._thread_seen_ns = time.monotonic_ns(), time.thread_time_ns()
        self._loop.call_soon(self._look)

    def end(self) -> None:
        """`wall_ns` and `thread_ns` are the times of the turns since the beginning."""
        self._is_probing = False

    def _look(self) -> None:
        if not self._is_probing:
            return
        wall_ns, thread_ns = time.monotonic_ns(), time.thread_time_ns()
        self.wall_ns.append(wall_ns - self._wall_seen_ns)
        self.thread_ns.append(thread_ns - self._thread_seen_ns)
        self._wall_seen_ns, self._thread_seen_ns = wall_ns, thread_ns
        self._loop.call_soon(self._look)


async def _serve(folder: Path) -> None:
    """Serves, and probes between `begin` and `end` on standard input, whose answer is a line."""
    loop = asyncio.get_running_loop()
    server = Server(Config(listen="127.0.0.1:0", data_dir=folder, metrics_port="127.0.0.1:0"))
    await server.start()
    probe = Probe(loop)
    over = asyncio.Event()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(probe.begin if line == "begin\n" else tell)
        loop.call_soon_threadsafe(over.set)

    def tell() -> None:
        if not probe.wall_ns:
            # The work was over before the loop came round once.
            loop.call_soon(tell)
            return
        probe.end()
        told = {"turns": len(probe.wall_ns)}
        for name, spent in (("wall", probe.wall_ns), ("thread", probe.thread_ns)):
            told[f"{name}_max_ns"] = max(spent, default=0)
            told[f"{name}_held"] = sum(each > HELD_NS for each in spent)
        print(json.dumps(told), flush=True)

    threading.Thread(target=read, daemon=True).start()
    print(server.address, flush=True)
    await over.wait()
    await server.stop()


# ---------------------------------------------------------------- outside


@dataclass(frozen=True, slots=True)
class Holds:
    """What one kind of work did to the loop: turns in all, those over a millisecond by the clock
    and by the thread's time, and the longest of each in ms."""

    work: str
    seconds: float
    turn_count: int
    wall_held_count: int
    wall_ms_max: float
    thread_held_count: int
    thread_ms_max: float


class Driver:
    """A server with a probe, and its clients. `scale` shrinks what is asked of it."""

    def __init__(self, address: str, process: subprocess.Popen[str], scale: float) -> None:
        self._process = process
        self._scale = scale
        self.channel = grpc.insecure_channel(address, OPTIONS)
        self.decisions = decision_service_pb2_grpc.DecisionServiceStub(self.channel)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self._next = 0

    def several(self, count: int) -> int:
        """So many, at this scale."""
        return max(1, int(count * self._scale))

    def attempt(self) -> attempt_pb2.Attempt:
        """An attempt to somebody new."""
        self._next += 1
        return attempt_pb2.Attempt(account=ACCOUNT, contact=f"c{self._next}", campaign="x")

    def probe(self, name: str, work: Callable[[], object]) -> Holds:
        """Does some work and tells what it did to the loop."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()
        begun_s = time.monotonic()
        work()
        seconds = time.monotonic() - begun_s
        self._process.stdin.write("end\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return Holds(
            name,
            seconds,
            told["turns"],
            told["wall_held"],
            told["wall_max_ns"] / 1e6,
            told["thread_held"],
            told["thread_max_ns"] / 1e6,
        )

    # --- kinds of work ----------------------------------------------------------------------------

    def commits(self) -> None:
        """Commits, many at once."""
        pending = [
            self.decisions.Commit.future(decision_service_pb2.CommitRequest(attempt=self.attempt()))
            for _ in range(self.several(5_000))
        ]
        for each in pending:
            each.result()

    def batches(self, recipient_count: int, *, whole: bool = False) -> Callable[[], None]:
        """A few batches of so many recipients, one after the other."""

        def work() -> None:
            for _ in range(3):
                request = decision_service_pb2.CommitBatchRequest(
                    attempt=attempt_pb2.Attempt(account=ACCOUNT),
                    atomicity=(
                        decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
                        if whole
                        else decision_service_pb2.ATOMICITY_PARTIAL
                    ),
                    recipients=[
                        decision_service_pb2.Recipient(contact=self.attempt().contact)
                        for _ in range(self.several(recipient_count))
                    ],
                )
                self.decisions.CommitBatch(request)

        return work

    def stream(self) -> None:
        """A CommitStream as fast as it goes."""
        requests = (
            decision_service_pb2.CommitRequest(attempt=self.attempt())
            for _ in range(self.several(20_000))
        )
        for _ in self.decisions.CommitStream(requests):
            pass

    def policies_of_many_limits(self) -> None:
        """One revision of many policies, and a page of them."""
        request = policy_service_pb2.ApplyPoliciesRequest()
        for number in range(self.several(500)):
            policy = request.policies.add(name=f"policies/many-{number}")
            policy.limits.append(cap(10**6, bounds.HOUR_MS))
        self.policies.ApplyPolicies(request)
        self.policies.ListPolicies(policy_service_pb2.ListPoliciesRequest(page_size=500))

    def new_kind(self) -> None:
        """A limit of a new kind, and the rebuild of its counter from what was sent."""
        request = policy_service_pb2.ApplyPoliciesRequest()
        request.policies.add(name="policies/new").limits.append(cap(10**8, 7 * bounds.DAY_MS))
        request.assignments.add(name="assignments/new", policy="policies/new", mandatory=True)
        self.policies.ApplyPolicies(request)
        # The account learns of it when it is asked for next.
        self.decisions.Check(decision_service_pb2.CheckRequest(attempt=self.attempt()))
        time.sleep(2 * self._scale)

    def plan(self) -> None:
        """When each of many may be written to."""
        recipients = [
            plan_pb2.PlanRecipient(contact=f"p{number}")
            for number in range(self.several(bounds.BATCH_RECIPIENTS_MAX))
        ]
        self.decisions.Plan(
            plan_pb2.PlanRequest(
                attempt=attempt_pb2.Attempt(account=ACCOUNT), recipients=recipients
            )
        )

    def restrictions(self) -> None:
        """Pages of the log of denied attempts."""
        for _ in range(3):
            self.decisions.ListRestrictions(
                restriction_pb2.ListRestrictionsRequest(account=ACCOUNT, page_size=1_000)
            )

    def simulation(self) -> None:
        """A draft replayed over all that was sent."""
        policy = policy_pb2.Policy(limits=[cap(100, bounds.DAY_MS)])
        self.policies.SimulatePolicy(
            simulation_pb2.SimulatePolicyRequest(policy=policy, account=ACCOUNT)
        )

    def scrapes(self, url: str) -> Callable[[], None]:
        """Readings of the metrics."""

        def work() -> None:
            for _ in range(self.several(20)):
                with urllib.request.urlopen(url) as page:
                    page.read()

        return work


def cap(max_count: int, window_ms: int) -> policy_pb2.Limit:
    """A cap on contacts in a rolling window."""
    limit = policy_pb2.Limit(
        limit_id="people",
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
        cap=policy_pb2.Cap(measure=policy_pb2.MEASURE_CONTACTS, max_count=max_count),
    )
    limit.cap.window.rolling.FromMilliseconds(window_ms)
    return limit


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status of a call that failed; the types do not say that it has one."""
    call: Any = error
    code: grpc.StatusCode = call.code()
    return code


@contextmanager
def driven(scale: float) -> Iterator[tuple[Driver, str]]:
    """A server with a probe, and the URL of its metrics."""
    with bench_folder() as folder, open(Path(folder) / "log", "w+") as log:  # noqa: PTH123
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loop_lag", "--serve", str(Path(folder) / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            text = (Path(folder) / "log").read_text()
            driver = Driver(address, process, scale)
            yield driver, text.split("metrics are at ")[1].split('"')[0]
            driver.channel.close()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()


def measured(scale: float = 1.0) -> Iterator[Holds]:
    """What each kind of work does to the loop, in turn, without what the server does not serve."""
    with driven(scale) as (driver, url):
        request = policy_service_pb2.ApplyPoliciesRequest()
        request.policies.add(name="policies/people").limits.append(cap(200_000, bounds.DAY_MS))
        request.assignments.add(name="assignments/people", policy="policies/people")
        driver.policies.ApplyPolicies(request)
        works: list[tuple[str, Callable[[], object]]] = [
            ("nothing", lambda: time.sleep(scale)),
            ("Commits, many at once", driver.commits),
            ("CommitStream", driver.stream),
            ("CommitBatch of 1,000", driver.batches(1_000)),
            ("CommitBatch of 10,000", driver.batches(10_000)),
            ("CommitBatch of 10,000, all or nothing", driver.batches(10_000, whole=True)),
            ("ApplyPolicies of 500, a page of 500", driver.policies_of_many_limits),
            ("a kind that is new", driver.new_kind),
            ("Plan of 10,000", driver.plan),
            ("SimulatePolicy", driver.simulation),
            ("ListRestrictions", driver.restrictions),
            ("readings of the metrics", driver.scrapes(url)),
        ]
        for name, work in works:
            try:
                yield driver.probe(name, work)
            except grpc.RpcError as error:
                if code_of(error) is not grpc.StatusCode.UNIMPLEMENTED:
                    raise


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="0.01 for a smoke test")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        import uvloop

        from limiter import logs

        logs.configure(sys.stderr)
        sys.setswitchinterval(0.0005)
        uvloop.run(_serve(arguments.serve))
        return
    table = Table(title="Turns of the event loop")
    for heading in ("work", "seconds", "turns", "over 1 ms", "longest", "over 1 ms", "longest"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for holds in measured(arguments.scale):
        table.add_row(
            holds.work,
            f"{holds.seconds:.1f}",
            f"{holds.turn_count:,}",
            f"{holds.wall_held_count:,}",
            f"{holds.wall_ms_max:.1f} ms",
            f"{holds.thread_held_count:,}",
            f"{holds.thread_ms_max:.1f} ms",
        )
    console = Console()
    console.print(table)
    console.print("The first pair by the clock, the second by the processor time of the loop.")


if __name__ == "__main__":
    main()
