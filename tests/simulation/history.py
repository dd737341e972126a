"""One history: a server, its disk and clocks, and its clients, all from one seed.

In flow a seed; out flows what happened, or `Broken` with the reason and a trace. A history goes in
rounds: time passes, then several clients ask at once, while appends fail or take long, clocks are
set, replies are lost, calls arrive twice, and the process is killed between any two of its steps.
At the end everything is mended, and the server has to answer.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest import mock

from limiter import bounds, lapsing
from limiter.v1 import attempt_pb2, commitment_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.strategies import Dice
from tests.model.windows import DAY_MS, HOUR_MS, MINUTE_MS
from tests.simulation import images
from tests.simulation.calls import Account, Apply, Opt, Outcome, Refused, Request, shown
from tests.simulation.disk import Disk, Fails
from tests.simulation.images import SimulatedImages, make_keeping
from tests.simulation.ledger import Call, Ledger
from tests.simulation.machine import Machine
from tests.simulation.process import CannotStart, Process
from tests.simulation.schedule import SECOND_US, Schedule
from tests.simulation.witness import Witness

TIMEOUT_US = 5 * SECOND_US
RESTART_US = SECOND_US
TRIES_MAX = 6
# A round is over by then; the longest wait in it is for a disk that comes back.
ROUND_US_MAX = 600 * SECOND_US
# More steps than any history takes, by far.
STEPS_MAX = 50_000
# The most that may wait for the journal: little, so that a slow disk leads to refusals.
PENDING_BYTES_MAX = 2_000

MakeProcess = Callable[..., Process]


class Broken(Exception):
    """A history in which something does not hold."""

    def __init__(self, seed: int, why: BaseException, lines: list[str]) -> None:
        self.seed = seed
        self.why = why
        self.lines = lines
        super().__init__(seed, why)

    def __str__(self) -> str:
        trace = "\n".join(self.lines)
        return (
            f"{trace}\nhistory {self.seed}: {type(self.why).__name__}: {self.why}\n"
            f"repeat it with: .venv/bin/python -m tests.simulation --seed {self.seed}"
        )


@dataclass(frozen=True)
class Story:
    """What happened in a history in which all held."""

    step_count: int
    simulated_us: int
    acknowledged_count: int
    crash_count: int
    failure_count: int
    trace_hash: str


class History:
    """Satisfies `tests.simulation.process.Surroundings`."""

    def __init__(self, seed: int, *, make: MakeProcess = Process, traced: bool = False) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self._choose = Dice(lambda _numbers: self.dice.randrange(1 << 23))
        self.schedule = Schedule()
        self.disk = Disk(random.Random(self.dice.random()))
        self.images = SimulatedImages(self.dice)
        self.keeping = None if self._choose.one_in(2) else make_keeping(self._choose)
        start_ms = strategies.make_start(self._choose)
        self.machine = Machine(self.schedule, start_ms)
        self.witness = Witness(start_ms)
        self.ledger = Ledger()
        self.fault: BaseException | None = None
        self.lines: list[str] = []
        self._is_traced = traced
        self._make = make
        self._process: Process | None = None
        self._calls: list[Call] = []
        self._open_calls: set[int] = set()
        self._crash_count = self._failure_count = 0
        # All there were: what was under way in those that are gone is taken apart at the end.
        self._processes: list[Process] = []
        self._pool = strategies.make_pool(self._choose)
        self._inline = strategies.make_inline_choices(self._choose, self._pool)
        # Batches, or holds and records: the foresight of lapses does not see what a batch has
        # counted so far, which is not told of here.
        self._has_terms = self._choose.one_in(2)
        self._floor = self._make_floor()
        self._generosity = self._choose.pick((1, 2, 4, 10))

    # ---- what others are told and tell

    def tell(self, text: str) -> None:
        if self._is_traced:
            now_us = self.schedule.now_us
            self.lines.append(f"{now_us // SECOND_US:>9}.{now_us % SECOND_US:06} {text}")

    def broken(self, fault: BaseException) -> None:
        if self.fault is None:
            self.fault = fault

    def recovered(self, process: Process, tail: int) -> None:
        self.tell(f"recovered up to group {tail}")
        self.witness.put_back(tail, process.now_ms)
        process.look()
        self.ledger.audit(self.witness)
        self.witness.compare_all()

    # ---- the whole

    def run(self) -> Story:
        """Raises Broken."""
        try:
            self._start()
            self._round([self._call(self._edit_policies())], calm=True)
            assert self.ledger.edition == 1, "the first edit is refused"
            for _ in range(2 + self._choose.below(7)):
                self._wait()
                self._round(self._some_calls(), calm=self._choose.one_in(4))
            self._finish()
        except Exception as error:
            raise Broken(self.seed, self.fault or error, self.lines) from error
        finally:
            for process in self._processes:
                process.kill()
                process.loop.clear()
        trace = "\n".join(self.lines).encode()
        return Story(
            self.schedule.step_count,
            self.schedule.now_us,
            self.ledger.acknowledged_count,
            self._crash_count,
            self._failure_count,
            hashlib.blake2b(trace, digest_size=16).hexdigest(),
        )

    def _finish(self) -> None:
        """Everything is mended; what was acknowledged is there, and the server answers."""
        # What was to happen soon happens first.
        self._run_until(self.schedule.now_us + 10 * SECOND_US, lambda: False)
        self.disk.mend()
        self.images.failing_percent = 0
        self._run_until(self.schedule.now_us + 60 * SECOND_US, self._serves)
        self._crash("killed")
        self._come_back()
        calls = [self._repeated(call) for call in self._answered()[-3:]]
        calls.append(self._call(self._usage()))
        # In a stream, one that is refused would take the others with it.
        self._round(calls, calm=True, in_streams=False)
        for call in calls:
            assert call.try_count == 1, "the server does not answer at once, though nothing fails"
        self.ledger.check_floor(
            self._floor.cap.max_count, self._floor.cap.window.rolling.ToMilliseconds()
        )

    def _come_back(self) -> None:
        self._run_until(self.schedule.now_us + 10 * SECOND_US, self._serves)
        assert self._serves(), "the server does not start any more"

    def _serves(self) -> bool:
        return self._process is not None and self._process.serves

    def _step(self, until_us: int) -> bool:
        more = self.schedule.step(until_us)
        if self.fault is not None:
            raise self.fault
        assert self.schedule.step_count < STEPS_MAX, "something goes round and round"
        return more

    def _run_until(self, until_us: int, is_over: Callable[[], bool]) -> None:
        while not is_over() and self._step(until_us):
            pass

    def _wait(self) -> None:
        """Time passes."""
        move_us = strategies.make_move(self._choose) * 1_000
        if (self.machine.right_us + move_us) // 1_000 > strategies.LAST_MS - 4 * 366 * DAY_MS:
            return
        awake_us = move_us
        if self.keeping is not None:
            # Somebody always looks whether there are images to be written: that would take too
            # many steps.
            awake_us = min(move_us, self._choose.below(4) * SECOND_US)
        self._run_until(self.schedule.now_us + awake_us, lambda: False)
        self.schedule.sleep(move_us - awake_us)

    # ---- a round

    def _round(self, calls: list[Call], *, calm: bool, in_streams: bool = True) -> None:
        self.tell(f"a round of {len(calls)}" + (", calm" if calm else ""))
        spread_us = self._choose.pick((1, 200, 3_000, 30_000, 2_000_000))
        commits = [call for call in calls if isinstance(call.request, service_pb2.CommitRequest)]
        streamed = commits if in_streams and self._choose.one_in(4) else []
        for call in calls:
            self._open_calls.add(call.number)
            if call not in streamed:
                delay_us = self._choose.below(spread_us)
                self.schedule.after(delay_us, partial(self._send, call, calm))
        if streamed:
            delay_us = self._choose.below(spread_us)
            self.schedule.after(delay_us, lambda: self._send_stream(streamed, calm))
        if not calm:
            for _ in range(1 + self._choose.below(2)):
                self._choose.pick(FAULTS)(self, spread_us)
        end_us = self.schedule.now_us + ROUND_US_MAX
        self._run_until(end_us, lambda: not self._open_calls)
        assert not self._open_calls, f"calls without an end: {self._open_calls}"

    def _call(self, request: Request) -> Call:
        is_safe = not isinstance(
            request, service_pb2.CommitRequest | service_pb2.CommitBatchRequest
        ) or bool(request.request_id)
        call = Call(len(self._calls), request, is_safe)
        self._calls.append(call)
        return call

    def _repeated(self, before: Call) -> Call:
        """The same once more, by a client who has forgotten that it was answered."""
        call = self._call(before.request)
        call.receipts = before.receipts
        return call

    def _answered(self) -> list[Call]:
        """What may be repeated, and counted."""
        return [call for call in self._calls if call.receipts and call.is_safe]

    # ---- the network and the clients

    def _send(self, call: Call, calm: bool) -> None:
        """The client asks, once more perhaps."""
        if call.is_over:
            return
        deliver = self._try(call, calm)
        copies = 2 if not calm and self._choose.one_in(12) else 1
        for _ in range(copies):
            delay_us = 1 + self._choose.below(500)
            self.schedule.after(delay_us, lambda: self._arrive(call, deliver))

    def _send_stream(self, calls: list[Call], calm: bool) -> None:
        """The client asks for all of these in one CommitStream."""
        self.tell(f"a stream of {len(calls)}")
        deliver = [self._try(call, calm) for call in calls]
        requests = [
            call.request for call in calls if isinstance(call.request, service_pb2.CommitRequest)
        ]
        if self._process is None or self._process.loop.is_dead:
            for each in deliver:
                each(Refused("UNAVAILABLE", "", "connection refused"))
        else:
            self._process.serve_stream(requests, lambda index, outcome: deliver[index](outcome))

    def _try(self, call: Call, calm: bool) -> Callable[[Outcome], None]:
        """One try begins; what is to be called when its reply leaves the server."""
        call.try_count += 1
        self.tell(f"call {call.number}, try {call.try_count}: {shown(call.request)}")
        this_try = call.try_count
        timeout = self.schedule.after(TIMEOUT_US, lambda: self._again(call, this_try, calm))

        def deliver(outcome: Outcome) -> None:
            if not calm and self._choose.one_in(12):
                self.tell(f"the reply to call {call.number} is lost")
                return
            delay_us = 1 + self._choose.below(1_000)
            self.schedule.after(delay_us, lambda: self._receive(call, this_try, outcome, calm))
            timeout.cancel()

        return deliver

    def _arrive(self, call: Call, deliver: Callable[[Outcome], None]) -> None:
        if self._process is None or self._process.loop.is_dead:
            deliver(Refused("UNAVAILABLE", "", "connection refused"))
        else:
            self._process.serve(call.request, deliver)

    def _receive(self, call: Call, this_try: int, outcome: Outcome, calm: bool) -> None:
        self.tell(f"call {call.number} is answered: {shown(outcome)}")
        if not isinstance(outcome, Refused):
            self.ledger.note(call, outcome)
            self._end(call)
        elif outcome.code == "UNAVAILABLE" or outcome.reason == "OVERLOADED":
            self._failure_count += 1
            self._again(call, this_try, calm)
        else:
            assert outcome.code not in {"UNKNOWN", "INTERNAL", "DATA_LOSS"}, outcome
            self._end(call)

    def _again(self, call: Call, this_try: int, calm: bool) -> None:
        """There was no answer: the client asks again, or gives up."""
        if call.is_over or this_try != call.try_count:
            return
        if not call.is_safe or call.try_count == TRIES_MAX or self._choose.one_in(8):
            self.tell(f"call {call.number} is given up")
            self._end(call)
            return
        delay_us = self._choose.pick((1_000, 100_000, SECOND_US, 20 * SECOND_US))
        self.schedule.after(delay_us, partial(self._send, call, calm))

    def _end(self, call: Call) -> None:
        call.is_over = True
        self._open_calls.discard(call.number)

    # ---- what is asked

    def _some_calls(self) -> list[Call]:
        calls = []
        for _ in range(1 + self._choose.below(9)):
            answered = self._answered()
            if answered and self._choose.one_in(10):
                calls.append(self._repeated(self._choose.pick(answered)))
            else:
                calls.append(self._call(self._request()))
        return calls

    def _request(self) -> Request:
        choose = self._choose
        way = choose.below(20)
        if way < 10:
            return self._commit()
        if way < 12:
            return self._commit() if self._has_terms else self._batch()
        if way < 15:
            return self._undo() or self._commit()
        if way == 15:
            return strategies.check_of(strategies.make_commit(choose, self._inline))
        if way == 16:
            return self._usage()
        if way == 17:
            return self._edit_policies()
        if way == 18:
            return Account(strategies.make_account(choose))
        people = strategies.make_people(choose)
        return Opt(choose.pick(strategies.ACCOUNTS), people, not choose.one_in(3))

    def _commit(self) -> service_pb2.CommitRequest:
        request = strategies.make_commit(self._choose, self._inline)
        if not self._choose.one_in(3):
            request.request_id = f"call-{len(self._calls)}-{self._choose.below(1_000)}"
        if self._has_terms and self._choose.one_in(4):
            strategies.set_terms(self._choose, request, self.witness.now_ms)
        return request

    def _batch(self) -> service_pb2.CommitBatchRequest:
        request = strategies.make_batch(self._choose, self._inline)
        if self._choose.one_in(2):
            request.request_id = f"batch-{len(self._calls)}-{self._choose.below(1_000)}"
        return request

    def _undo(self) -> Request | None:
        sent = list(self.ledger.sent.values())
        if not sent:
            return None
        chosen = sent[-1 - self._choose.below(len(sent))]
        account, commit_id = chosen.attempt.account, chosen.receipt.commit_id
        if self._choose.one_in(3):
            return commitment_pb2.ConfirmRequest(account=account, commit_id=commit_id)
        self.ledger.undo([commit_id])
        return commitment_pb2.CancelRequest(account=account, commit_id=commit_id)

    def _usage(self) -> service_pb2.GetUsageRequest:
        return service_pb2.GetUsageRequest(attempt=strategies.make_attempt(self._choose))

    def _edit_policies(self) -> Apply:
        world = strategies.make_world(self._choose, self._pool)
        for policy in world.policies:
            for limit in policy.limits:
                if limit.HasField("cap"):
                    limit.cap.max_count *= self._generosity
        floor = policy_pb2.Policy(name="policies/floor", limits=[self._floor])
        always = strategies.assignment_of("everything", floor.name, "floor")
        return Apply((*world.policies, floor), (*world.assignments, always))

    def _make_floor(self) -> policy_pb2.Limit:
        """The limit that nobody ever edits."""
        limit = policy_pb2.Limit(limit_id="floor", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
        limit.cap.measure = policy_pb2.MEASURE_MESSAGES
        limit.cap.max_count = self._choose.pick((3, 8, 20))
        limit.cap.per.append(attempt_pb2.DIMENSION_CONTACT)
        limit.cap.window.rolling.FromMilliseconds(self._choose.pick((MINUTE_MS, HOUR_MS, DAY_MS)))
        return limit

    # ---- the process

    def _start(self, *, accept_clock: bool = False) -> None:
        self._process = process = self._make(self, accept_clock=accept_clock)
        self._processes.append(process)
        try:
            process.start()
        except CannotStart as error:
            self.tell(f"the server does not start: {error}")
            self._process = None
            if error.reason not in {"CLOCK_IMPLAUSIBLE", "JOURNAL_UNAVAILABLE"}:
                raise AssertionError(f"the server does not start: {error}") from error
            if error.reason == "CLOCK_IMPLAUSIBLE":
                # Somebody sees to the clock, or trusts it.
                accept_clock = self._choose.one_in(2) or self.machine.error_us == 0
                self.machine.set_wall(0)
            self.schedule.after(RESTART_US, lambda: self._start(accept_clock=accept_clock))
        else:
            self.tell("the server serves")

    def _crash(self, how: str) -> None:
        """The process dies on the spot, or the whole machine."""
        process, self._process = self._process, None
        self.tell(f"the server is {how}")
        self._crash_count += 1
        if process is not None:
            process.kill()
            self.schedule.after(RESTART_US, self._start)

    def _restart(self) -> None:
        """The server is stopped as it should be, and started again."""
        process = self._process
        if process is None or not process.serves:
            return
        self.tell("the server is stopped")

        def ended() -> None:
            if self._process is process:
                self._process = None
                self._start()

        process.stop(ended)

    # ---- faults

    def _soon(self, spread_us: int, act: Callable[[], None]) -> None:
        """Has it done after a number of steps from now: between any two of them."""
        left = self._choose.below(60)

        def count() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                act()
            else:
                self.schedule.after(self._choose.below(1 + spread_us // 20), count)

        self.schedule.after(0, count)

    def _kill_soon(self, spread_us: int) -> None:
        self._soon(spread_us, lambda: self._crash("killed"))

    def _cut_power_soon(self, spread_us: int) -> None:
        def cut() -> None:
            self._crash("cut off from power")
            self.machine.boot()
            if self._choose.one_in(3):
                self._set_wall(0)

        self._soon(spread_us, cut)

    def _stop_soon(self, spread_us: int) -> None:
        self._soon(spread_us, self._restart)

    def _fail_appends(self, spread_us: int) -> None:
        count = 1 + self._choose.below(2)
        fails = [self._choose.pick(list(Fails)) for _ in range(count)]

        def fail() -> None:
            self.tell(f"the next appends fail: {[each.value for each in fails]}")
            self.disk.failing += fails

        self._soon(spread_us, fail)

    def _break_disk(self, spread_us: int) -> None:
        def fail() -> None:
            self.tell("the disk fails")
            self.disk.is_out = True
            self.schedule.after(self._choose.below(40) * SECOND_US, mend)

        def mend() -> None:
            self.tell("the disk works again")
            self.disk.is_out = False

        self._soon(spread_us, fail)

    def _slow_disk(self, spread_us: int) -> None:
        self.disk.latency_us = self._choose.pick((100, 2_000, 50_000, 3 * SECOND_US))
        self.tell(f"an append takes up to {self.disk.latency_us} us")

    def _fail_images(self, spread_us: int) -> None:
        self.images.failing_percent = self._choose.pick((0, 5, 50, 100))
        self.tell(f"of writes of images {self.images.failing_percent} % fail")

    def _set_wall(self, spread_us: int) -> None:
        if self._choose.one_in(5):
            self.machine.stop_wall()
            self.tell("the wall clock stands still")
            return
        errors_ms = (0, 0, 1, 999, -MINUTE_MS, 5 * MINUTE_MS, -HOUR_MS, DAY_MS, -DAY_MS)
        error_ms = self._choose.pick((*errors_ms, 366 * DAY_MS, -900 * DAY_MS))
        self.machine.set_wall(error_ms * 1_000)
        self.tell(f"the wall clock is {error_ms} ms wrong")


FAULTS: tuple[Callable[[History, int], None], ...] = (
    History._kill_soon,
    History._kill_soon,
    History._cut_power_soon,
    History._stop_soon,
    History._fail_appends,
    History._fail_appends,
    History._break_disk,
    History._slow_disk,
    History._set_wall,
    History._fail_images,
)


def run(seed: int, *, make: MakeProcess = Process, traced: bool = False) -> Story:
    """Runs one history. Raises Broken, with a trace."""
    history = History(seed, make=make, traced=traced)
    with ExitStack() as patches:
        patches.enter_context(
            mock.patch.object(bounds, "PENDING_JOURNAL_BYTES_MAX", PENDING_BYTES_MAX)
        )
        # Steps are measured in time that passes only between them.
        simulated = SimpleNamespace(perf_counter=lambda: history.schedule.now_us / SECOND_US)
        patches.enter_context(mock.patch.object(lapsing, "time", simulated))
        patches.enter_context(images.simulated(history.schedule, history.dice, history.keeping))
        try:
            return history.run()
        except Broken:
            if traced:
                raise
    return run(seed, make=make, traced=True)
