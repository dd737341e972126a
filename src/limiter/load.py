"""A load on a server: what is asked, how fast, for how long, and what was measured.

In: a Plan and the address of a server. Out: a Measurement. The calls themselves are made by
`limiter._load`; here connections are opened, time is kept and counts are read.

The steps of a run: all connections are opened; the load warms up, at least until every account was
addressed once (unless by batches), so that none is new any more; it is measured; it stops, and what
is under way is waited for. Latencies are those of all calls that began while it was measured,
however late their answers; the rate is that of the answers within the time.

What always holds: every call that was sent is accounted for as allowed, denied or failed, and a
run in which the counts do not agree raises.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import grpc
import uvloop

from limiter import bounds, errors, listening, load_server
from limiter._load import Load, LoadConnection
from limiter._load_population import Population
from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2

__all__ = ["QUANTILES", "Measurement", "Plan", "Progress", "Sample", "run"]

# What of a distribution is told, in percent.
QUANTILES: Final = (50.0, 90.0, 99.0, 99.9)

# The exponent of Zipf's law: the second is asked for half as often as the first.
_ZIPF_EXPONENT: Final = 1.0

_SERVICE: Final = "/limiter.v1.DecisionService/"

# How often counts are read, and how often calls that are due at a rate are sent.
_SAMPLE_INTERVAL_S: Final = 0.1
_PACE_INTERVAL_S: Final = 0.001

# How long answers to what is under way are waited for at the end.
_DRAIN_S: Final = 15.0

# How long warming up may take beyond its own time until every account was addressed.
_TOUCH_S: Final = 300.0

# Digits of an account's and a contact's number, and so how many there can be.
_NUMBER_DIGITS: Final = 7
_NUMBER_MAX: Final = 10**_NUMBER_DIGITS

_MODES: Final = ("unary", "stream", "batch")
_DISTRIBUTIONS: Final = ("zipf", "uniform")

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "accounts": (1, _NUMBER_MAX),
    "contacts": (1, _NUMBER_MAX),
    "check_share": (0, 1),
    "batch_size": (1, bounds.BATCH_RECIPIENTS_MAX),
    "depth": (1, bounds.STREAM_WINDOW_MAX),
    "connections": (1, bounds.CONNECTIONS_MAX),
    "streams": (1, bounds.CONNECTION_STREAMS_MAX),
    "rate": (0, 10**8),
    "duration_s": (0, 86_400),
    "warmup_s": (0, 86_400),
    "call_count": (0, 2**53),
    "seed": (0, 2**53),
}

_STATUS_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked. Raises InvalidArgument for a value that cannot be.

    `accounts` accounts with `contacts` contacts each are addressed by `distribution` (zipf or
    uniform); they are called `account_prefix` and a number. `check_share` of the calls are Checks,
    the rest Commits. `mode` is unary, stream (CommitStream, `depth` of it under way at once) or
    batch (`batch_size` recipients a call). `rate` is calls a second, 0 as fast as answers come. As
    many calls as `call_count` says, unless it is 0, are measured without warming up, and end it
    before `duration_s`. The same `seed` asks for the same accounts and contacts.
    """

    accounts: int = 100_000
    contacts: int = 100
    distribution: str = "zipf"
    check_share: float = 0.0
    mode: str = "unary"
    batch_size: int = 1_000
    depth: int = 64
    request_ids: bool = False
    connections: int = 32
    streams: int = 16
    rate: float = 0.0
    duration_s: float = 10.0
    warmup_s: float = 2.0
    call_count: int = 0
    seed: int = 1
    account_prefix: str = "bench"

    def __post_init__(self) -> None:
        for name, (value_min, value_max) in _RANGES.items():
            if not value_min <= getattr(self, name) <= value_max:
                raise _wrong(name, f"must be from {value_min:,} to {value_max:,}")
        if not bounds.ACCOUNT_PATTERN.fullmatch(self.account_prefix + "-" + "0" * _NUMBER_DIGITS):
            raise _wrong("account_prefix", "must begin an account id and leave room for a number")
        if self.distribution not in _DISTRIBUTIONS:
            raise _wrong("distribution", f"must be one of {', '.join(_DISTRIBUTIONS)}")
        if self.mode not in _MODES:
            raise _wrong("mode", f"must be one of {', '.join(_MODES)}")
        if self.mode == "stream" and self.check_share:
            raise _wrong("check_share", "must be 0 in mode stream: a stream takes commits only")
        if not self.duration_s:
            raise _wrong("duration_s", "must be above 0")

    @property
    def decisions_per_call(self) -> int:
        """Recipients of one call."""
        return self.batch_size if self.mode == "batch" else 1


def _wrong(name: str, rule: str) -> errors.InvalidArgument:
    return errors.InvalidArgument.for_field(name, rule)


@dataclass(frozen=True, slots=True)
class Sample:
    """Decisions within one short interval that ended `at_s` after measuring began."""

    at_s: float
    decisions_per_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `share` of its phase, with what was measured lately."""

    phase: str
    share: float
    decisions_per_s: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a run has measured.

    `quantiles_ms` are latencies by percent, from when a call was due; `classes` the whole
    distribution as (largest latency in ns, count). `failures` are calls by the name of their
    status, NO_ANSWER for those without any, `first_failure` what the first of them said. `unsent`
    calls were due at the rate and not sent. `server_cpu_s` is None where it cannot be seen. `work`
    stands for who was asked for, in order.
    """

    address: str
    duration_s: float
    calls: int
    allowed: int
    denied: int
    failures: dict[str, int]
    first_failure: str | None
    lost_connections: int
    unsent: int
    quantiles_ms: dict[float, float]
    max_ms: float
    server_cpu_s: float | None
    sent_in_all: int
    work: int
    samples: list[Sample] = field(default_factory=list)
    classes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def decisions(self) -> int:
        """Attempts that were decided."""
        return self.allowed + self.denied

    @property
    def decisions_per_s(self) -> float:
        """Their rate."""
        return self.decisions / self.duration_s

    @property
    def denied_share(self) -> float:
        """The part of them that was denied."""
        return self.denied / self.decisions if self.decisions else 0.0

    @property
    def server_us_per_decision(self) -> float | None:
        """Processor time of the server for one of them, in microseconds."""
        if self.server_cpu_s is None or not self.decisions:
            return None
        return self.server_cpu_s * 1e6 / self.decisions

    @property
    def failed(self) -> int:
        """Calls that were not decided."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a load has counted up to a moment."""

    at_s: float
    answered: int
    allowed: int
    denied: int
    failures: dict[int, int]
    cpu_s: float | None

    @classmethod
    def of(cls, load: Load, process: int | None) -> _Counts:
        """Those of now."""
        return cls(
            time.monotonic(),
            load.answered,
            load.allowed,
            load.denied,
            load.failures,
            load_server.cpu_s(process),
        )


def run(plan: Plan, address: str, report: Callable[[Progress], None]) -> Measurement:
    """Puts the load on the server at `address` and measures; blocks. `report` hears how far it is.

    Raises InvalidArgument for an address that is none, and Unavailable when nobody listens there or
    all connections are lost.
    """
    host, port = listening.parse(address)
    return uvloop.run(_Run(plan, host, port, report).measure())


class _Run:
    """One run against one server."""

    def __init__(
        self, plan: Plan, host: str, port: int, report: Callable[[Progress], None]
    ) -> None:
        self._plan = plan
        self._host = host
        self._port = port
        self._report = report
        self._load = _make_load(plan, listening.join(host, port))
        self._samples: list[Sample] = []
        self._process = load_server.listening_process(port)
        # So many calls may take no longer than this.
        self._interval_s = _PACE_INTERVAL_S if plan.call_count else _SAMPLE_INTERVAL_S

    async def measure(self) -> Measurement:
        """All the steps."""
        load = self._load
        await self._connect()
        before = _Counts.of(load, self._process)
        load.start()
        pacing = asyncio.create_task(self._pace())
        try:
            if not self._plan.call_count:
                await self._warm_up()
                load.latencies.clear()
                before = _Counts.of(load, self._process)
            await self._measured(before)
            after = _Counts.of(load, self._process)
        finally:
            load.stop()
            pacing.cancel()
        unsent = self._unsent()
        await self._drain()
        return self._result(before, after, unsent)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for _ in range(self._plan.connections):
                await loop.create_connection(
                    lambda: cast("asyncio.BaseProtocol", LoadConnection(self._load)),
                    self._host,
                    self._port,
                )
        except OSError as error:
            address = listening.join(self._host, self._port)
            raise errors.Unavailable(
                "NO_SERVER", f"cannot connect to {address}: {error}"
            ) from error

    async def _pace(self) -> None:
        """Sends what is due at the rate; without one, answers make calls by themselves."""
        while self._plan.rate:
            self._load.pump()
            await asyncio.sleep(_PACE_INTERVAL_S)

    async def _warm_up(self) -> None:
        begun_s = time.monotonic()
        before = _Counts.of(self._load, None)
        while True:
            took_s = time.monotonic() - begun_s
            is_warm = took_s >= self._plan.warmup_s and self._load.touched_all
            if is_warm or took_s > self._plan.warmup_s + _TOUCH_S or self._is_over():
                return
            await asyncio.sleep(_SAMPLE_INTERVAL_S)
            before = self._tell("warming up", took_s / max(self._plan.warmup_s, 0.001), before)

    async def _measured(self, begun: _Counts) -> None:
        before = begun
        while (took_s := time.monotonic() - begun.at_s) < self._plan.duration_s:
            if self._is_over():
                return
            await asyncio.sleep(min(self._interval_s, self._plan.duration_s - took_s))
            now = self._tell("measuring", took_s / self._plan.duration_s, before)
            self._samples.append(Sample(now.at_s - begun.at_s, _rate(before, now)))
            before = now

    def _is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        load = self._load
        if load.lost >= self._plan.connections:
            return True
        return 0 < self._plan.call_count <= load.sent and load.answered == load.sent

    def _tell(self, phase: str, share: float, before: _Counts) -> _Counts:
        now = _Counts.of(self._load, None)
        p99_ms = self._load.latencies.quantile_ns(0.99) / 1e6
        self._report(Progress(phase, min(share, 1.0), _rate(before, now), p99_ms))
        return now

    def _unsent(self) -> int:
        """Calls that are due by now and were not sent."""
        return self._load.overdue if self._plan.rate else 0

    async def _drain(self) -> None:
        load = self._load
        deadline_s = time.monotonic() + _DRAIN_S
        # Answers are counted where they come, without an event for each.
        while load.answered < load.sent and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_PACE_INTERVAL_S)
        load.abandon()

    def _result(self, before: _Counts, after: _Counts, unsent: int) -> Measurement:
        load = self._load
        failed = sum(load.failures.values())
        decided = (load.answered - failed) * self._plan.decisions_per_call
        if load.answered != load.sent or load.allowed + load.denied != decided:
            raise AssertionError(
                f"{load.sent} calls were sent and {load.answered} answered, {failed} of them"
                f" failed, but {load.allowed} + {load.denied} attempts were decided"
            )
        if load.lost >= self._plan.connections:
            raise errors.Unavailable(
                "CONNECTIONS_LOST",
                f"the server closed all connections ({load.first_failure or 'without a word'})",
            )
        # Answers that came after the end count where they failed, so that none is overlooked.
        failures = {
            _STATUS_NAMES.get(status, "NO_ANSWER"): count - before.failures.get(status, 0)
            for status, count in load.failures.items()
            if count > before.failures.get(status, 0)
        }
        latencies = load.latencies
        return Measurement(
            address=listening.join(self._host, self._port),
            duration_s=after.at_s - before.at_s,
            calls=after.answered - before.answered,
            allowed=after.allowed - before.allowed,
            denied=after.denied - before.denied,
            failures=failures,
            first_failure=load.first_failure if failures else None,
            lost_connections=load.lost,
            unsent=unsent,
            quantiles_ms={
                percent: latencies.quantile_ns(percent / 100) / 1e6 for percent in QUANTILES
            },
            max_ms=latencies.max_ns / 1e6,
            server_cpu_s=None
            if before.cpu_s is None or after.cpu_s is None
            else after.cpu_s - before.cpu_s,
            sent_in_all=load.sent,
            work=load.work,
            samples=self._samples,
            classes=latencies.classes(),
        )


def _rate(before: _Counts, now: _Counts) -> float:
    """Decisions a second between two moments."""
    decided = now.allowed + now.denied - before.allowed - before.denied
    return decided / max(now.at_s - before.at_s, 1e-9)


def _make_load(plan: Plan, authority: str) -> Load:
    batching = plan.mode == "batch"
    suffix = {"unary": "", "batch": "Batch", "stream": "Stream"}[plan.mode]
    commit = (f"{_SERVICE}Commit{suffix}".encode(), *_message(plan, is_check=False))
    check = (f"{_SERVICE}Check{suffix}".encode(), *_message(plan, is_check=True))
    exponent = _ZIPF_EXPONENT if plan.distribution == "zipf" else 0.0
    return Load(
        commit=commit if plan.check_share < 1 else None,
        check=check if plan.check_share > 0 else None,
        check_share=plan.check_share,
        accounts=Population(plan.accounts, exponent, plan.seed),
        # Numbers of its own: the same ones would tie contacts to accounts.
        contacts=Population(plan.contacts, exponent, plan.seed ^ 0x5DEECE66D),
        authority=authority.encode(),
        batching=batching,
        streaming=plan.mode == "stream",
        stream_count=plan.streams,
        depth=plan.depth if plan.mode == "stream" else 1,
        rate=plan.rate,
        sent_max=plan.call_count,
        # Not from the seed: a second run on the same server must not repeat the first one's ids.
        first_id=int.from_bytes(os.urandom(8), "little"),
    )


def _message(plan: Plan, *, is_check: bool) -> tuple[bytes, dict[str, int]]:
    """A framed request with places for the numbers of its account and contacts and of its id."""
    zeros = "0" * _NUMBER_DIGITS
    contact = f"contact-{zeros}"
    attempt = attempt_pb2.Attempt(account=f"{plan.account_prefix}-{zeros}", channel="sms")
    request: (
        decision_service_pb2.CheckRequest
        | decision_service_pb2.CommitRequest
        | decision_service_pb2.CheckBatchRequest
        | decision_service_pb2.CommitBatchRequest
    )
    basic = decision_pb2.VIEW_BASIC
    if plan.mode == "batch":
        kinds = decision_service_pb2
        request = kinds.CheckBatchRequest() if is_check else kinds.CommitBatchRequest()
        for _ in range(plan.batch_size):
            request.recipients.add(contact=contact)
    else:
        attempt.contact = contact
        kinds = decision_service_pb2
        request = kinds.CheckRequest() if is_check else kinds.CommitRequest()
    request.attempt.CopyFrom(attempt)
    request.view = basic
    if plan.request_ids and isinstance(
        request, (decision_service_pb2.CommitRequest, decision_service_pb2.CommitBatchRequest)
    ):
        request.request_id = "id-" + "0" * 16
    data = request.SerializeToString()
    message = b"\0" + len(data).to_bytes(4, "big") + data
    return message, _places(message, plan.account_prefix)


def _places(message: bytes, account_prefix: str) -> dict[str, int]:
    """Where the digits stand that are written anew for each call."""
    contacts = _all_of(message, b"contact-")
    ids = _all_of(message, b"id-")
    return {
        "account": _all_of(message, f"{account_prefix}-".encode())[0],
        "contact": contacts[0],
        "contact_stride": contacts[1] - contacts[0] if len(contacts) > 1 else 0,
        "contact_count": len(contacts),
        "request_id": ids[0] if ids else 0,
    }


def _all_of(message: bytes, mark: bytes) -> Sequence[int]:
    """The offsets behind each occurrence of a mark."""
    found = []
    at = message.find(mark)
    while at >= 0:
        found.append(at + len(mark))
        at = message.find(mark, at + len(mark))
    return found
