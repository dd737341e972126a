"""The server: puts the parts together, serves, mends and stops.

What flows in: a Config. What flows out: a running gRPC server on a data folder, until it is
stopped.

The steps of a start, each undone if a later one fails: the folder is locked, the port bound, the
journal replayed into a new core, the clock checked against it, and only then calls are answered.

The steps of a stop: health says NOT_SERVING; no new calls are taken; those under way are finished,
the streams ended after their last answers; what is pending is written and synced; the folder is let
go.

When a group cannot be written, memory is ahead of the disk by an unknown part of it. The server
then answers UNAVAILABLE, drops everything in memory, and tries to open the journal again until it
can be read and written; what is on disk then is the truth, and retries with their request_id find
it.

What always holds: the clock outlives the state, so time does not go back when the state is
recovered; calls reach the state only through an Engine that is replaced as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop

from limiter import (
    bounds,
    clock,
    errors,
    kinds,
    listening,
    logs,
    metrics_endpoint,
    recovery,
    traces,
    zones,
)
from limiter._activity import Activity
from limiter._hot import Decider
from limiter._hot_calls import HotCalls
from limiter._residence import Residence
from limiter._watch import notify
from limiter.alarms import Alarms
from limiter.grpc_wire import Faults
from limiter.history import first_position
from limiter.image_store import ImageStore
from limiter.journal import SequenceConflict
from limiter.lapsing import Lapses
from limiter.native import NativeServer
from limiter.observation import Held
from limiter.observing import Observing
from limiter.operator_key import make_operator_key
from limiter.people_store import PeopleStore
from limiter.restrictions import RestrictionKeeper, check_settings
from limiter.service import cold, decision, reflection, status
from limiter.service.authorization import Gate
from limiter.service.decision import DecisionService, Engine
from limiter.service.health import Health
from limiter.service.test_clock import TestClockServicer
from limiter.service.watching import Watching
from limiter.state import Keeping, State
from limiter.store import DataFolder
from limiter.tls import ServerFiles
from limiter.v1 import test_clock_service_pb2

__all__ = ["Config", "Server", "serve"]

_log: Final = logging.getLogger(__name__)

# One process serves one shard until a journal is shared by several.
_SHARD: Final = 0

# How often a journal that failed is tried again, and how seldom at last.
_MEND_DELAY_S: Final = 1.0
_MEND_DELAY_S_MAX: Final = 30.0

# How long the event loop may keep the interpreter while the journal's thread asks for it. Python's
# default of 5 ms is as long as writing a group takes.
_SWITCH_INTERVAL_S: Final = 0.0005

_TEST_CLOCK_SERVICE: Final = test_clock_service_pb2.DESCRIPTOR.services_by_name["TestClockService"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How to serve. Raises InvalidArgument for a value that cannot be.

    `listen` is HOST:PORT, port 0 for any free one. `clock` is `system` or `driven`; a driven one
    stands at `clock_start_ms` (milliseconds since 1970) at first, or where the journal ends, or at
    the present. `accept_clock` serves although the system clock seems wrong. `require_policy`
    denies where no policy is assigned. `require_keys` asks every caller for a key; where others can
    reach the server that goes without saying, unless it is `insecure` or knows them by their
    certificates. `tls_cert` and `tls_key` are PEM files and go together; clients must show a
    certificate of `tls_client_ca` if that is given. `journal_bytes_max` and `images_bytes_max`
    bound these on disk, `memory_bytes_max` what accounts take in memory (0: all there is); the
    journal is kept for `history_ms`, and a start scans about `baseline_lag_events_max` events of it
    at most.
    `restrictions_bytes_max` the restrictions log, which keeps what was denied for
    `restrictions_retention_ms`; 0 for no log. `metrics_port` is PORT (on this machine alone) or
    HOST:PORT, where metrics can be read; with `traces` calls have spans, sent as OpenTelemetry's
    environment variables say.
    """

    listen: str = "127.0.0.1:50051"
    data_dir: Path = Path("limiter-data")
    transport: str = "native"
    clock: str = "system"
    clock_start_ms: int | None = None
    accept_clock: bool = False
    require_policy: bool = False
    require_keys: bool = False
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    journal_bytes_max: int = 1 << 40
    images_bytes_max: int = 1 << 40
    memory_bytes_max: int = 0
    history_ms: int = bounds.HISTORY_MS_DEFAULT
    baseline_lag_events_max: int = bounds.BASELINE_LAG_EVENTS_MAX
    metrics_port: str = ""
    traces: bool = False
    restrictions_retention_ms: int = bounds.RESTRICTIONS_RETENTION_MS_DEFAULT
    restrictions_bytes_max: int = bounds.RESTRICTIONS_BYTES_DEFAULT

    def __post_init__(self) -> None:
        listening.parse(self.listen)
        if self.metrics_port:
            metrics_endpoint.parse(self.metrics_port)
        traces.wanted(self.traces)
        if self.transport not in {"native", "grpcio"}:
            raise errors.InvalidArgument.for_field("transport", "must be native or grpcio")
        if self.clock not in {"system", "driven"}:
            raise errors.InvalidArgument.for_field("clock", "must be system or driven")
        if self.clock_start_ms is not None:
            if self.clock != "driven":
                raise errors.InvalidArgument.for_field(
                    "clock_start", "needs a driven clock: --clock driven"
                )
            if not bounds.INSTANT_MS_MIN <= self.clock_start_ms <= bounds.INSTANT_MS_MAX:
                raise errors.InvalidArgument.for_field(
                    "clock_start", "must lie between the years 1970 and 2100"
                )
        if self.journal_bytes_max <= 0:
            raise errors.InvalidArgument.for_field("journal_bytes_max", "must be positive")
        if self.images_bytes_max <= 0:
            raise errors.InvalidArgument.for_field("images_bytes_max", "must be positive")
        if self.memory_bytes_max < 0:
            raise errors.InvalidArgument.for_field("memory", "must be positive, or 0 for all")
        if not bounds.HISTORY_MS_MIN <= self.history_ms <= bounds.HISTORY_MS_MAX:
            raise errors.InvalidArgument.for_field(
                "history",
                f"must lie between {bounds.HISTORY_MS_MIN // bounds.DAY_MS} and"
                f" {bounds.HISTORY_MS_MAX // bounds.DAY_MS} days",
            )
        check_settings(self.restrictions_retention_ms, self.restrictions_bytes_max)
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise errors.InvalidArgument.for_field(
                "tls_cert", "must be given too: the server shows it to its clients"
            )
        if self.tls_cert is not None and self.tls_key is None:
            raise errors.InvalidArgument.for_field(
                "tls_key", "must be given too: the key of the certificate"
            )

    @property
    def keeping(self) -> Keeping:
        """What is kept where."""
        return Keeping(self.memory_bytes_max, self.history_ms, self.baseline_lag_events_max)

    @property
    def tls(self) -> ServerFiles | None:
        """The files of TLS, None without it."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerFiles(self.tls_cert, self.tls_key, self.tls_client_ca)


class Server:
    """One server: `start`, then `stop`. Belongs to the event loop that it is started on."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._host, self._port = listening.parse(config.listen)
        self._gate = Gate(config.require_keys)
        self._folder: DataFolder | None = None
        self._server: grpc.aio.Server | NativeServer | None = None
        self._clock: clock.Clock | None = None
        self._state: State | None = None
        # Outlives the states: what a failed journal leaves to be logged is logged.
        self._restrictions = RestrictionKeeper(
            config.restrictions_retention_ms, config.restrictions_bytes_max
        )
        # By class; empty while there is no state.
        self._servicers: dict[type, object] = {}
        self._absence = errors.Unavailable("JOURNAL_UNAVAILABLE", "the server is starting")
        # Outlives the state: what was decided was decided.
        self._activity = Activity()
        self._watching = Watching()
        self._alarms: Alarms | None = None
        self._mending: asyncio.Task[None] | None = None
        # Set by whoever wants a start to end early; read by the thread that recovers.
        self._stopping = threading.Event()
        self._decisions: DecisionService | HotCalls = (
            HotCalls(Faults()) if config.transport == "native" else DecisionService()
        )
        served = (decision.SERVICE, *(each.service for each in cold.SERVICES))
        self._services = list(dict.fromkeys(service.full_name for service in served))
        if config.clock == "driven":
            self._services.append(_TEST_CLOCK_SERVICE.full_name)
        self._health = Health(self._services)
        self._observing = Observing(
            config.metrics_port, traces.wanted(config.traces), self._health, self._activity
        )
        self._observing.observation.watchers = self._watching

    @property
    def address(self) -> str:
        """Where the server listens, as HOST:PORT with the real port."""
        return listening.join(self._host, self._port)

    @property
    def port(self) -> int:
        """The port that the server listens on; the real one once it is started."""
        return self._port

    @property
    def state(self) -> State | None:
        """What calls are answered from; None while there is none."""
        return self._state

    @property
    def warning(self) -> str:
        """What an operator should know about who can do what here, if anything."""
        if not self._gate.demanded and not self._knows_its_clients():
            return (
                "neither client certificates nor keys are in use: whoever reaches "
                f"{self.address} may decide, commit and change policies"
            )
        if self._gate.demanded and self._config.tls is None:
            return (
                "TLS is not in use: keys travel in clear text, and whoever can listen to the "
                f"traffic of {self.address} can use them"
            )
        return ""

    async def start(self) -> None:
        """Returns once calls are answered.

        Raises FailedPrecondition (folder or port in use, a clock that cannot be right or could be
        moved by others), DataLoss (a damaged journal) and Unavailable (stopped).
        """
        try:
            await self._start()
        except BaseException:
            await self._clean_up()
            raise

    def interrupt(self) -> None:
        """Has a start that is under way end soon, with Unavailable."""
        self._stopping.set()

    async def stop(self) -> None:
        """Drains, syncs and lets go of everything. Idempotent.

        Raises Unavailable when what was pending could not be written.
        """
        self._stopping.set()
        if self._server is None:
            return
        _log.info("stopping")
        await self._health.drain()
        self._decisions.drain()
        self._watching.drain()
        await self._server.stop(bounds.DRAIN_MS_MAX / 1000)
        self._server = None
        await self._clean_up()
        _log.info("stopped")

    async def _start(self) -> None:
        addresses = await listening.resolve(self._host, self._port)
        self._check_exposure(addresses)
        self._folder = DataFolder(self._config.data_dir, f"starting on {self._config.listen}")
        self._observing.prepare()
        self._server = self._make_server()
        self._port = listening.bind(self._port_adder(self._server), addresses)
        self._folder.set_holder(f"listening on {self.address}")
        # Before the journal is replayed: a long start can be watched.
        await self._observing.start()
        await self._attach(await self._open())
        await self._server.start()
        await self._health.set_serving(True)

    def _check_exposure(self, addresses: Sequence[listening.Address]) -> None:
        exposed = [str(address) for address in addresses if not address.is_loopback]
        if exposed and self._config.clock == "driven":
            raise errors.FailedPrecondition(
                "CLOCK_EXPOSED",
                f"{exposed[0]} can be reached from other machines, which could move a driven "
                "clock: listen on a loopback address such as 127.0.0.1",
            )
        if exposed and not self._config.insecure and not self._knows_its_clients():
            self._gate.demanded = True

    def _knows_its_clients(self) -> bool:
        """Whether nobody gets in who has not shown who they are."""
        return self._config.tls_client_ca is not None

    def _port_adder(self, server: grpc.aio.Server | NativeServer) -> Callable[[str], int]:
        """The server's method that binds an address, with TLS or without."""
        files = self._config.tls
        if files is None:
            return server.add_insecure_port
        if isinstance(server, NativeServer):
            context = files.context()
            return lambda address: server.add_secure_port(address, context)
        credentials = files.credentials()
        return lambda address: server.add_secure_port(address, credentials)

    def _make_server(self) -> grpc.aio.Server | NativeServer:
        """A server with all services, which find the state when they are called."""
        server: grpc.aio.Server | NativeServer
        if isinstance(self._decisions, HotCalls):
            server = NativeServer(self._decisions)
        else:
            server = grpc.aio.server(
                options=(
                    listening.NO_PORT_SHARING,
                    ("grpc.max_receive_message_length", bounds.MESSAGE_BYTES_MAX),
                    # A reply is bounded by its request. One that is made is sent: what it tells is
                    # done already.
                    ("grpc.max_send_message_length", -1),
                    ("grpc.max_concurrent_streams", bounds.CONCURRENT_CALLS_MAX),
                ),
                maximum_concurrent_rpcs=bounds.CONCURRENT_CALLS_MAX,
            )
            hot = self._decisions.handlers()
            self._register(server, decision.SERVICE, hot)
        for each in cold.SERVICES:
            find = partial(self._current, each.servicer)
            made = status.handlers(find, each.service, each.servicer, self._gate)
            self._register(server, each.service, made)
        if self._config.clock == "driven":
            test_clock = status.handlers(
                self._current_test_clock, _TEST_CLOCK_SERVICE, TestClockServicer, self._gate
            )
            self._register(server, _TEST_CLOCK_SERVICE, test_clock)
        self._health.add_to(server)
        names = (*self._services, "grpc.health.v1.Health", reflection.NAME)
        reflection.add_reflection(server, names, self._gate)
        self._observing.attach_transport(server, self._decisions)
        return server

    def _register(
        self,
        server: grpc.aio.Server | NativeServer,
        service: Any,
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]],
    ) -> None:
        """Registers methods of a service, given its descriptor."""
        assert set(handlers) <= {method.name for method in service.methods}
        observed = self._observing.handlers(service.full_name, handlers)
        server.add_registered_method_handlers(service.full_name, observed)

    def _current(self, servicer: type) -> object:
        """The servicer of this class that works on the state. Raises Unavailable without one."""
        found = self._servicers.get(servicer)
        if found is None:
            raise self._absence.with_traceback(None)
        return found

    def _current_test_clock(self) -> TestClockServicer:
        assert isinstance(self._clock, clock.DrivenClock)
        return TestClockServicer(self._clock)

    async def _open(self) -> State:
        """Opens the stores and recovers what they hold; the clock too, the first time."""
        assert self._folder is not None
        with contextlib.ExitStack() as opened:
            journal, digest_key = self._folder.open(
                shard=_SHARD, quota_bytes=self._config.journal_bytes_max
            )
            opened.callback(journal.close)
            images = ImageStore(
                self._folder.images_path,
                shard=_SHARD,
                mark=journal.mark,
                quota_bytes=self._config.images_bytes_max,
            )
            opened.callback(images.close)
            self._restrictions.open(self._folder.restrictions_path, digest_key)
            people = PeopleStore(self._folder.people_path, digest_key)
            opened.callback(people.close)
            state = State(
                journal,
                images,
                digest_key,
                self._restrictions.log,
                people=people,
                shard=_SHARD,
            )
            begun_s = time.monotonic()
            recovered = await self._recovered(state)
            self._observing.recovered(recovered, time.monotonic() - begun_s)
            if self._clock is None:
                self._clock = _make_clock(self._config, state.core.last_event_ms)
                self._alarms = Alarms(self._clock)
            self._restrictions.start(first_position(recovered.tail + 1), self._clock.now_ms)
            # From here on the state closes them.
            opened.pop_all()
        state.begin(
            recovered,
            self._config.keeping,
            self._clock,
            self._lose,
            self._observing.observation,
        )
        return state

    async def _recovered(self, state: State) -> recovery.Recovered:
        """Recovers the state in a thread, which has ended when this returns, whatever happens."""
        recovering = asyncio.ensure_future(asyncio.to_thread(state.recover, self._stopping))
        try:
            return await asyncio.shield(recovering)
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait((recovering,))
            raise

    async def _attach(self, state: State) -> None:
        """Answers calls from this state."""
        assert self._clock is not None
        assert self._alarms is not None
        self._state = state
        await self._make_first_key(state)
        decider = Decider(
            state.core,
            kinds.compile_inline,
            zones.zone,
            self._config.require_policy,
            self._activity,
        )
        self._gate.attach(state.keys, self._clock.now_ms)
        gate = self._gate if self._gate.demanded else None
        self._decisions.attach(
            Engine(decider, state.core, state.committer, self._clock, gate, state.arrivals)
        )
        parts = cold.Parts(
            policies=state.policies,
            keys=state.keys,
            revisions=state.revisions,
            core=state.core,
            people=state.people,
            shard=_SHARD,
            journal=state.journal,
            committer=state.committer,
            rebuilding=state.rebuilding,
            clock=self._clock,
            restrictions=self._restrictions.log,
            require_policy=self._config.require_policy,
            watching=self._watching,
            activity=self._activity,
            usage=partial(_usage, decider, state.residence),
        )
        self._watching.attach(state.core, decider, self._clock, self._alarms)
        state.lapses = Lapses(state.core, state.committer, self._clock, self._alarms)
        notify(state.core, self._watching.changed, state.lapses.look)
        state.lapses.look()
        self._servicers = {each.servicer: each.make(parts) for each in cold.SERVICES}
        held = Held(
            state.core, state.journal, state.policies, state.imaging, self._restrictions.log
        )
        self._observing.attach_state(held, self._clock)

    async def _make_first_key(self, state: State) -> None:
        """Where keys are asked for and nobody could make one, makes one and says where it is."""
        assert self._clock is not None
        if not self._gate.demanded:
            return
        path = make_operator_key(state.keys, self._config.data_dir, self._clock.now_ms())
        if path is not None:
            await state.committer.wait()
            _log.warning("an operator's key, which may do everything, is in %s", path)

    def _lose(self, failure: errors.Unavailable) -> None:
        """A group could not be written: from this moment on nothing in memory counts."""
        state, self._state = self._state, None
        assert state is not None
        self._decisions.detach(failure)
        self._gate.detach(failure)
        self._observing.detach_state(has_failed=True)
        self._watching.detach()
        notify(state.core, None, None)
        self._servicers = {}
        self._absence = failure
        _log.critical("journal failed: %s", failure.message)
        self._mending = asyncio.get_running_loop().create_task(self._mend(state, failure))

    async def _mend(self, broken: State, failure: errors.Unavailable) -> None:
        """Tries to open the journal again until it can be read and written."""
        await self._health.set_serving(False)
        with contextlib.suppress(errors.Unavailable):
            await _to_its_end(broken.close())
        if isinstance(failure.__cause__, SequenceConflict):
            _log.critical("another process writes to the journal: this one stays out of service")
            return
        delay_s = _MEND_DELAY_S
        while True:
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MEND_DELAY_S_MAX)
            try:
                state = await self._open()
            except (errors.LimiterError, OSError) as error:
                _log.error("journal still unavailable: %s", error)
                continue
            except Exception:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                _log.exception("journal still unavailable")
                continue
            await self._attach(state)
            await self._health.set_serving(True)
            _log.warning("journal available again")
            return

    async def _clean_up(self) -> None:
        """Lets go of whatever there is, in the order opposite to that of the start."""
        if self._mending is not None:
            self._mending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._mending
            self._mending = None
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        await self._watching.close()
        if self._alarms is not None:
            self._alarms.close()
            self._alarms = None
        state, self._state = self._state, None
        self._observing.detach_state()
        try:
            if state is not None:
                await state.close()
        finally:
            await self._observing.stop()
            await self._restrictions.close()
            if self._folder is not None:
                self._folder.close()
                self._folder = None


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does the work whole, even if whoever waits for it is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def _usage(decider: Decider, residence: Residence, request: bytes, now_ms: int) -> bytes:
    """What GetUsage says of a template, whose account is brought into memory if need be."""
    try:
        return decider.get_usage(request, now_ms)
    except errors.Away as away:
        residence.bring_now(away.account_id)
        return decider.get_usage(request, now_ms)


def _make_clock(config: Config, last_event_ms: int) -> clock.Clock:
    """The clock that the flags ask for, checked against where the journal ends (0: nowhere)."""
    wall_ms = time.time_ns() // 1_000_000
    if config.clock == "system":
        clock.check_start(wall_ms, last_event_ms, config.accept_clock)
        return clock.SystemClock(not_before_ms=last_event_ms)
    start_ms = config.clock_start_ms
    if start_ms is None:
        start_ms = last_event_ms or wall_ms
    if start_ms < last_event_ms:
        raise errors.FailedPrecondition(
            "CLOCK_BACKWARD",
            f"the driven clock cannot start at {clock.format_instant(start_ms)}: the journal goes "
            f"up to {clock.format_instant(last_event_ms)}",
        )
    return clock.DrivenClock(start_ms)


def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then drains, syncs and returns.

    Prints one line with its address to standard output once it serves; the log goes to standard
    error. Raises LimiterError when it cannot start, or could not write what was pending.
    """
    logs.configure(sys.stderr)
    _allow_files()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(config))


def _allow_files() -> None:
    """As many open files as may be: each client is one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.tell_of_loop)
    stopped = asyncio.Event()
    server = Server(config)

    def stop(name: str) -> None:
        _log.info("received %s", name)
        server.interrupt()
        stopped.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop, each.name)
    try:
        await server.start()
    except errors.Unavailable:
        if stopped.is_set():
            return
        raise
    # What there is by now stays. To look for garbage among it would hold the event loop for
    # milliseconds, time and again.
    gc.collect()
    gc.freeze()
    if server.warning:
        _log.warning("%s", server.warning)
    # The one line on standard output: programs wait for it.
    print(f"limiter serving on {server.address}", flush=True)
    await stopped.wait()
    await server.stop()
