"""The simulated server process: the real parts of a server, put together as `limiter.server` does.

In flow calls; out flow replies, once they may leave. What is real: the core and its decider, the
hot service of grpc.aio with its admission, group commit, recovery, history, policies, the lapsing
of holds, alarms, rebuilding, and the clock. What is simulated: the transport (calls come as bytes
and leave as bytes), the writer's thread, the disk and the two clocks of the machine.

What always holds, or a part is at fault: a reply that tells of a commit, an undo or an edit leaves
after the group that it is in is durable; a group that failed makes the process drop its state and
recover from the disk; what it then stands at is what the journal holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import EOF

from limiter import bounds, errors, kinds, recovery, zones
from limiter._commitments import Commitments
from limiter._core import Core
from limiter._hot import Decider
from limiter._residence import Residence
from limiter._suppressions import Suppressions
from limiter._watch import notify
from limiter.alarms import Alarms
from limiter.baseline import Baselines
from limiter.clock import check_start
from limiter.history import History, first_position, group_of
from limiter.imaging import Imaging
from limiter.journal import FIRST_SEQUENCE, GroupCommitter, Journal, SequenceConflict
from limiter.keys import KeyStore
from limiter.lapsing import Lapses
from limiter.policy import PolicyStore
from limiter.rebuilding import Rebuilding
from limiter.residence import Arrivals
from limiter.service import commitment, decision
from limiter.service.decision import DecisionService, Engine
from limiter.service.revisions import Revisions
from limiter.trimming import Trimming
from limiter.v1 import commitment_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import DIGEST_KEY, apply_to, opt_in, opted_out_of, set_account_in
from tests.simulation.calls import Account, Apply, Opt, Outcome, Refused, Request
from tests.simulation.disk import Disk, DiskWriter
from tests.simulation.images import HISTORY_MS, Keeping, SimulatedImages
from tests.simulation.machine import Machine, WatchedClock, may_start
from tests.simulation.schedule import SECOND_US, ProcessLoop, Schedule
from tests.simulation.witness import Witness, fault_of

MEND_DELAY_S = 1.0
MEND_DELAY_S_MAX = 30.0


class Surroundings(Protocol):
    """What a process finds where it runs."""

    schedule: Schedule
    disk: Disk
    images: SimulatedImages
    keeping: Keeping | None
    machine: Machine
    witness: Witness
    dice: random.Random

    def broken(self, fault: BaseException) -> None:
        """Something does not hold: the history ends here."""

    def recovered(self, process: Process, tail: int) -> None:
        """A process stands where the journal ends, at that group."""

    def tell(self, text: str) -> None:
        """A line for the trace."""


class Ended(Exception):
    """A call of the hot service ended with a status."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


class Context:
    """What the hot service sees of a call."""

    async def abort(
        self, code: grpc.StatusCode, message: str, trailing: tuple[tuple[str, bytes], ...]
    ) -> NoReturn:
        status = status_pb2.Status.FromString(trailing[0][1])
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            detail.Unpack(info)
        raise Ended(Refused(code.name, info.reason, message))


class StreamContext(Context):
    """What the hot service sees of a CommitStream whose client sends `requests` one by one."""

    def __init__(
        self,
        requests: Sequence[service_pb2.CommitRequest],
        dice: random.Random,
        written: Callable[[int, Outcome], None],
    ) -> None:
        self._requests = requests
        self._dice = dice
        self._written = written
        self._read_count = self.written_count = 0

    async def read(self) -> object:
        await asyncio.sleep(self._dice.randrange(2_000) / SECOND_US)
        if self._read_count == len(self._requests):
            return EOF
        self._read_count += 1
        return self._requests[self._read_count - 1].SerializeToString()

    async def write(self, reply: bytes) -> None:
        index = self.written_count
        self.written_count += 1
        self._written(index, service_pb2.CommitResponse.FromString(reply))


class WatchedDecider:
    """The real decider, whose every answer the witness hears of. Satisfies
    `limiter.service.decision.Decider`."""

    def __init__(self, decider: decision.Decider, place: Surroundings) -> None:
        self.real = decider
        self._place = place

    def check(self, request: bytes, now_ms: int, guard: object) -> bytes:
        return cast(bytes, self._decide("check", service_pb2.CheckRequest, request, now_ms))

    def commit(self, request: bytes, now_ms: int, guard: object) -> tuple[bytes, bool]:
        answer = self._decide("commit", service_pb2.CommitRequest, request, now_ms)
        return cast(tuple[bytes, bool], answer)

    def check_batch(self, request: bytes, now_ms: int, guard: object) -> bytes:
        asked = service_pb2.CheckBatchRequest
        return cast(bytes, self._decide("check_batch", asked, request, now_ms))

    def commit_batch(self, request: bytes, now_ms: int, guard: object) -> tuple[bytes, bool]:
        asked = service_pb2.CommitBatchRequest
        return cast(tuple[bytes, bool], self._decide("commit_batch", asked, request, now_ms))

    def get_usage(self, request: bytes, now_ms: int, guard: object) -> bytes:
        reply = self.real.get_usage(request, now_ms, None)
        self._compare(
            now_ms,
            service_pb2.GetUsageResponse.FromString(reply),
            lambda: self._place.witness.get_usage(
                service_pb2.GetUsageRequest.FromString(request).attempt
            ),
        )
        return reply

    def usage_now(self, request: bytes, now_ms: int) -> bytes:
        """The usage, without the witness."""
        return self.real.get_usage(request, now_ms, None)

    def _decide(self, method: str, asked: type[Message], request: bytes, now_ms: int) -> object:
        compare = getattr(self._place.witness, method)
        try:
            answer = getattr(self.real, method)(request, now_ms, None)
        except errors.LimiterError as error:
            if not self._place.witness.overlooks(error, self._place.disk):
                fault = fault_of(error)
                self._compare(now_ms, fault, lambda: compare(asked.FromString(request)))
            raise
        reply = answer[0] if isinstance(answer, tuple) else answer
        response = _RESPONSES[method].FromString(reply)
        self._compare(now_ms, response, lambda: compare(asked.FromString(request)))
        return answer

    def _compare(self, now_ms: int, outcome: object, compare: Callable[[], object]) -> None:
        witness = self._place.witness
        if witness.looks_away(self._place.disk):
            return
        try:
            witness.at(max(now_ms, witness.now_ms), outcome)
            compare()
        except Exception as fault:  # noqa: BLE001 - the service would hide it
            self._place.broken(fault)


_RESPONSES: dict[str, type[Message]] = {
    "check": service_pb2.CheckResponse,
    "commit": service_pb2.CommitResponse,
    "check_batch": service_pb2.CheckBatchResponse,
    "commit_batch": service_pb2.CommitBatchResponse,
}


class WatchedSource:
    """Where groups are taken from; the witness remembers what each of them ends with."""

    def __init__(self, history: History, witness: Witness, tail: int) -> None:
        self._history = history
        self._witness = witness
        self.tail = tail

    def take_group(self) -> tuple[int, bytes, int] | None:
        taken = self._history.take_group()
        if taken is not None:
            self.tail = taken[0]
            self._witness.taken(self.tail)
        return taken


@dataclass
class Opened:
    """What a journal, and images beside it, have come to."""

    journal: Journal
    core: Core
    policies: PolicyStore
    history: History
    baselines: Baselines
    residence: Residence
    recovered: recovery.Recovered


@dataclass
class State:
    """Everything that stands on one opening of the journal, and falls with it."""

    opened: Opened
    source: WatchedSource
    committer: GroupCommitter
    decider: WatchedDecider
    commitments: Commitments
    suppressions: Suppressions
    rebuilding: Rebuilding
    lapses: Lapses
    # Where there are images.
    arrivals: Arrivals | None = None
    imaging: Imaging | None = None

    @property
    def core(self) -> Core:
        return self.opened.core

    @property
    def policies(self) -> PolicyStore:
        return self.opened.policies

    @property
    def last_group(self) -> int:
        """The group that everything up to now is in, once it is written."""
        return self.source.tail + bool(self.core.pending_bytes)


class CannotStart(Exception):
    """The process has ended without serving, for that reason."""

    def __init__(self, error: errors.LimiterError) -> None:
        super().__init__(error.message)
        self.reason = error.reason


class Process:
    """One server, from its start until it ends or is killed."""

    def __init__(self, place: Surroundings, *, accept_clock: bool) -> None:
        self._place = place
        self._accept_clock = accept_clock
        # Whatever is not asked of it here it does not have.
        self.loop = ProcessLoop(  # type: ignore[abstract]
            place.schedule, place.dice, place.broken
        )
        self._writers: list[DiskWriter] = []
        self._service = DecisionService()
        self._clock: WatchedClock | None = None
        self._alarms: Alarms | None = None
        self.state: State | None = None
        self._absence = errors.Unavailable("JOURNAL_UNAVAILABLE", "the server is starting")
        # What is under way, lest it be taken for garbage.
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    # ---- its life

    @property
    def serves(self) -> bool:
        """Whether calls are answered from a state."""
        return self.state is not None and not self._is_draining and not self.loop.is_dead

    def start(self) -> None:
        """Serves from now on. Raises CannotStart."""
        with self.loop.running():
            try:
                self._attach(self._open())
            except errors.LimiterError as error:
                self.loop.kill()
                raise CannotStart(error) from error

    def kill(self) -> None:
        """It dies on the spot."""
        self.loop.kill()
        for writer in self._writers:
            writer.kill()

    def stop(self, then: Callable[[], None]) -> None:
        """Drains, writes what is pending and ends; `then` is called at the end."""
        self._is_draining = True
        self._service.drain()
        self._go(self._stop(then))

    async def _stop(self, then: Callable[[], None]) -> None:
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        state, self.state = self.state, None
        if state is not None:
            try:
                await self._close(state)
            except errors.Unavailable as error:
                self._place.tell(f"what was pending could not be written: {error}")
        self.loop.kill()
        self._place.schedule.after(0, then)

    def _go(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._place.broken(fault)

    # ---- its state, as in limiter.server

    # Defects are put in here.

    def make_decider(self, core: Core) -> decision.Decider:
        return Decider(core, kinds.compile_inline, zones.zone)

    def make_journal(self, disk: Disk) -> Journal:
        return disk

    def recover(
        self,
        journal: Journal,
        replayer: recovery.Replayer,
        restore: recovery.OnRevision,
        first: int,
    ) -> recovery.Recovered:
        return recovery.recover(journal, 0, replayer, restore, first=first)

    def _open(self) -> Opened:
        disk = self._place.disk
        disk.open()
        policies = PolicyStore()
        core = Core(DIGEST_KEY, policies.bind, kinds.define_kind)
        revisions = Revisions(core, policies, KeyStore())
        journal = self.make_journal(disk)
        history = History(core, journal, 0)
        core.recall_from(history)
        policies.rely_on_history(history.begins_ms)
        images = self._place.images
        baselines = Baselines(core, revisions, images)
        residence = Residence(core, images, history, threading.Event)
        restored = baselines.restore()
        recovered = self.recover(
            journal,
            baselines.core if restored else core,
            revisions.restore,
            baselines.core.group if restored else FIRST_SEQUENCE,
        )
        residence.keep_from(first_position(journal.head(0)))
        if restored:
            residence.hold_again()
        core.rebuild.finish()
        disk.check_writable()
        if self._clock is None:
            self._clock = self._start_clock(core.last_event_ms)
            self._alarms = Alarms(self._clock)
        return Opened(journal, core, policies, history, baselines, residence, recovered)

    def _start_clock(self, last_event_ms: int) -> WatchedClock:
        machine = self._place.machine
        wall_ms = machine.wall_us // 1_000
        may = self._accept_clock or may_start(wall_ms, last_event_ms)
        try:
            check_start(wall_ms, last_event_ms, self._accept_clock)
        except errors.FailedPrecondition:
            assert not may, f"refuses to start at {wall_ms} after {last_event_ms}"
            raise
        assert may, f"starts at {wall_ms} after {last_event_ms}"
        return WatchedClock(self._place.schedule, machine, last_event_ms, self._place.broken)

    def _attach(self, opened: Opened) -> None:
        core, recovered = opened.core, opened.recovered
        place = self._place
        assert self._clock is not None
        assert self._alarms is not None
        writer = DiskWriter(place.schedule, place.disk, self.loop, place.dice)
        self._writers.append(writer)
        source = WatchedSource(opened.history, place.witness, recovered.tail)
        committer = GroupCommitter(
            opened.journal,
            source,
            shard=0,
            tail=recovered.tail,
            tail_checksum=recovered.tail_checksum,
            on_failure=self._lose,
            writer=writer,
        )
        decider = WatchedDecider(self.make_decider(core), place)
        lapses = Lapses(core, committer, self._clock, self._alarms)
        self.state = State(
            opened,
            source,
            committer,
            decider,
            Commitments(core),
            Suppressions(core),
            Rebuilding(core, opened.policies),
            lapses,
        )
        arrivals = self._keep_images(self.state, opened)
        self._service.attach(Engine(decider, core, committer, self._clock, arrivals=arrivals))
        notify(core, None, lapses.look)
        lapses.look()
        place.recovered(self, recovered.tail)

    def _keep_images(self, state: State, opened: Opened) -> Arrivals | None:
        """Has images written, and accounts leave memory and come back; what brings one back."""
        place, keeping = self._place, self._place.keeping
        assert self._clock is not None
        if keeping is None:
            return None
        state.arrivals = Arrivals(opened.residence, place.images, opened.history)
        quota_bytes = place.images.quota_bytes
        state.imaging = Imaging(
            opened.core,
            state.arrivals,
            place.images,
            opened.baselines,
            committer=state.committer,
            clock=self._clock,
            trimming=Trimming(opened.journal, 0, opened.history, HISTORY_MS, quota_bytes),
            memory_bytes=keeping.memory_bytes,
            lag_events_max=keeping.lag_events_max,
        )
        return state.arrivals

    def _lose(self, failure: errors.Unavailable) -> None:
        state, self.state = self.state, None
        if state is None:
            # It was stopping.
            return
        self._service.detach(failure)
        notify(state.core, None, None)
        self._absence = failure
        self._place.tell(f"the journal has failed: {failure}")
        self._go(self._mend(state, failure))

    async def _mend(self, broken: State, failure: errors.Unavailable) -> None:
        with contextlib.suppress(errors.Unavailable):
            await self._close(broken)
        assert not isinstance(failure.__cause__, SequenceConflict), failure
        delay_s = MEND_DELAY_S
        while not self._is_draining:
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MEND_DELAY_S_MAX)
            try:
                opened = self.open_again(broken)
            except errors.Unavailable as error:
                self._place.tell(f"still unavailable: {error}")
                continue
            self._attach(opened)
            return

    def open_again(self, broken: State) -> Opened:
        """What is on disk is the truth; nothing of `broken` is kept."""
        return self._open()

    async def _close(self, state: State) -> None:
        state.lapses.close()
        if state.imaging is not None:
            await state.imaging.close()
        if state.arrivals is not None:
            await state.arrivals.close()
        await state.rebuilding.close()
        await state.committer.close()

    # ---- its calls

    @property
    def now_ms(self) -> int:
        assert self._clock is not None
        return self._clock.now_ms()

    def serve(self, request: Request, deliver: Callable[[Outcome], None]) -> None:
        """Takes a call; `deliver` is called when its reply leaves."""
        self._go(self._answer(request, deliver))

    def serve_stream(
        self,
        requests: Sequence[service_pb2.CommitRequest],
        deliver: Callable[[int, Outcome], None],
    ) -> None:
        """Takes a CommitStream; `deliver` is called for each message, in order."""
        self._go(self._stream(requests, deliver))

    async def _stream(
        self,
        requests: Sequence[service_pb2.CommitRequest],
        deliver: Callable[[int, Outcome], None],
    ) -> None:
        def written(index: int, outcome: Outcome) -> None:
            self._check(outcome, begun)
            deliver(index, outcome)

        begun = self.state
        context = StreamContext(requests, self._place.dice, written)
        ending: Refused | None = None
        try:
            await self._service.commit_stream(None, cast(Any, context))
        except Ended as ended:
            ending = ended.refused
            self._check(ending, begun)
        first = context.written_count
        assert ending is not None or first == len(requests), "a stream ended early"
        # The first without a reply is what ended it; of the others nobody knows.
        for index in range(first, len(requests)):
            unknown = Refused("UNAVAILABLE", "", "the stream has ended")
            deliver(index, ending if index == first and ending is not None else unknown)

    async def _answer(self, request: Request, deliver: Callable[[Outcome], None]) -> None:
        begun = self.state
        try:
            outcome = await self._reply(request)
        except Ended as ended:
            outcome = ended.refused
        except errors.LimiterError as error:
            outcome = Refused(error.code, error.reason, error.message)
        self._check(outcome, begun)
        deliver(outcome)

    async def _reply(self, request: Request) -> Outcome:
        if self._is_draining:
            raise errors.Unavailable("DRAINING", "the server is stopping")
        if isinstance(request, Apply | Account | Opt):
            return await self._edit(request)
        if isinstance(request, commitment_pb2.CancelRequest | commitment_pb2.ConfirmRequest):
            return await self._undo(request)
        # Nothing of a context is used but its `abort`.
        context = cast(Any, Context())
        data = request.SerializeToString()
        if isinstance(request, service_pb2.CommitRequest):
            reply = await self._service.commit(data, context)
            return service_pb2.CommitResponse.FromString(reply)
        if isinstance(request, service_pb2.CommitBatchRequest):
            reply = await self._service.commit_batch(data, context)
            return service_pb2.CommitBatchResponse.FromString(reply)
        if isinstance(request, service_pb2.CheckBatchRequest):
            reply = await self._service.check_batch(data, context)
            return service_pb2.CheckBatchResponse.FromString(reply)
        if isinstance(request, service_pb2.CheckRequest):
            reply = await self._service.check(data, context)
            return service_pb2.CheckResponse.FromString(reply)
        reply = await self._service.get_usage(data, context)
        return service_pb2.GetUsageResponse.FromString(reply)

    def _current(self) -> State:
        if self.state is None:
            raise self._absence.with_traceback(None)
        return self.state

    async def _undo(
        self, request: commitment_pb2.CancelRequest | commitment_pb2.ConfirmRequest
    ) -> Outcome:
        state = self._current()
        self._place.witness.looks_away(self._place.disk)
        now_ms = self.now_ms
        outcome: Message
        try:
            if isinstance(request, commitment_pb2.CancelRequest):
                outcome = commitment.cancel(state.commitments, 0, request, now_ms)
            else:
                outcome = commitment.confirm(state.commitments, 0, request, now_ms)
        except errors.LimiterError as error:
            if not self._place.witness.overlooks(error, self._place.disk):
                self._place.witness.settle(request, fault_of(error), now_ms)
            raise
        self._place.witness.settle(request, outcome, now_ms)
        group = state.last_group
        await self._durable(state)
        assert group <= self._place.disk.newest, "an undo was acknowledged before it was durable"
        return outcome

    async def _edit(self, request: Apply | Account | Opt) -> Outcome:
        state = self._current()
        witness, now_ms = self._place.witness, self.now_ms
        witness.looks_away(self._place.disk)
        appended = state.core.appended
        if isinstance(request, Apply):
            differs = apply_to(state.policies, request.policies, request.assignments, now_ms)
            witness.edit(request, differs, now_ms)
        elif isinstance(request, Account):
            set_account_in(state.policies, request.account, now_ms)
            witness.edit(request, None, now_ms)
        else:
            changed = opt_in(
                state.suppressions, request.account, request.people, request.out, now_ms
            )
            witness.edit(request, changed, now_ms)
        if state.core.appended > appended:
            witness.edition += 1
        edition, group = witness.edition, state.last_group
        await self._durable(state)
        assert group <= self._place.disk.newest, "an edit was acknowledged before it was durable"
        return edition

    async def _durable(self, state: State) -> None:
        await state.committer.wait()

    def _check(self, outcome: Outcome, begun: State | None) -> None:
        """A reply leaves: what it tells of is on disk, and a refusal has its reason. The state was
        `begun` when the call came."""
        if isinstance(outcome, Refused):
            if outcome.code == "UNAVAILABLE":
                is_same = self.state is not None and self.state is begun
                is_unreadable = self._place.disk.is_unreadable
                assert not is_same or self._is_draining or is_unreadable, outcome
            elif outcome.reason == "OVERLOADED":
                pending_bytes = self._current().core.pending_bytes
                assert pending_bytes > bounds.PENDING_JOURNAL_BYTES_MAX, outcome
            return
        ids: list[str] = []
        if isinstance(outcome, service_pb2.CommitResponse):
            ids.append(outcome.commit_id)
        elif isinstance(outcome, service_pb2.CommitBatchResponse):
            ids += [result.commit_id for result in outcome.results]
        for commit_id in filter(None, ids):
            group = group_of(int(commit_id[4:], 16))
            assert group <= self._place.disk.newest, (
                f"commit {commit_id} was acknowledged before its group {group} was durable"
            )

    # ---- a look at it

    def look(self) -> None:
        """Lets the witness look at the state."""
        state = self._current()
        witness = self._place.witness
        witness.told.live = partial(_usage, state)
        witness.told.opted_out_now = lambda account: opted_out_of(state.suppressions, account)


def _usage(state: State, request: bytes, now_ms: int) -> bytes:
    """The usage, unwatched; the account is brought into memory if need be."""
    try:
        return state.decider.usage_now(request, now_ms)
    except errors.Away as away:
        state.opened.residence.bring_now(away.account_id)
        return state.decider.usage_now(request, now_ms)
