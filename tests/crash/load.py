"""The load: clients that send until the server is gone, and what they do once it is back.

What flows in: a server, the ledger, random numbers, and how the server dies. What flows out:
entries in the ledger. Any fault but the server's disappearance ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from limiter.v1 import (
    attempt_pb2,
    commitment_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
)
from tests.crash.ledger import CONTACTS_MAX, MESSAGES_MAX, Batch, Ledger, Send, Undoing
from tests.integration.process import PATIENCE_S, ServerProcess
from tests.integration.requests import DAY_S, cap

__all__ = ["CONTACTS", "Clients", "Death", "Load", "connected", "policy"]

# More contacts than the cap lets through.
CONTACTS: Final = [f"c{number}" for number in range(CONTACTS_MAX + 6)]

# Who sends at once.
_UNARY_CLIENTS: Final = 8
_STREAM_CLIENTS: Final = 2
_BATCH_CLIENTS: Final = 2

# What they share.
_CONNECTIONS: Final = 3

# Requests that one stream has open.
_STREAM_WINDOW: Final = 16

# Who asks again at once for what is unknown.
_RETRYING_CLIENTS: Final = 32

# How often a server that is to die by itself is looked at, and for how long.
_LOOK_S: Final = 0.002
_LOOKS_MAX: Final = 1_000

_POLICY: Final = "policies/crash"
_GOAL_COUNT: Final = 1_000_000


def policy(edition: int) -> policy_pb2.Policy:
    """The policy in one of its editions, which differ in a name and in the maximum of a goal."""
    limits = [
        cap(CONTACTS_MAX, 30 * DAY_S, limit_id="contacts"),
        cap(
            MESSAGES_MAX,
            30 * DAY_S,
            measure=policy_pb2.MEASURE_MESSAGES,
            per=(attempt_pb2.DIMENSION_CONTACT,),
            limit_id="per-contact",
        ),
        cap(
            _GOAL_COUNT + edition,
            30 * DAY_S,
            measure=policy_pb2.MEASURE_MESSAGES,
            limit_id="goal",
            enforcement=policy_pb2.ENFORCEMENT_GOAL,
        ),
    ]
    return policy_pb2.Policy(name=_POLICY, display_name=f"edition {edition}", limits=limits)


class Ending(Protocol):
    """What ends a server at an operation on its disk."""

    def end(self, place: int, *, after: bool, half: bool, name: str) -> None:
        """Right before the operation `place` (1 is the next one) on what begins with `name`, or
        right `after` it, or with `half` of it written."""


@dataclass(frozen=True, slots=True)
class Death:
    """How the server dies under load: by kill -9 so long after so many answers, or, where `place`
    is given, at that operation (of those on what begins with `name`) from then on. Where that
    does not come, it is killed in the end."""

    answer_count: int
    delay_s: float
    place: int = 0
    name: str = ""
    after: bool = False
    half: bool = False


class Clients:
    """Stubs on a few connections to one server."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        stubs = [decision_service_pb2_grpc.DecisionServiceStub(each) for each in channels]
        self._stubs = itertools.cycle(stubs)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(channels[0])
        self._health: Any = health_pb2_grpc.HealthStub(channels[0])

    @property
    def decisions(self) -> decision_service_pb2_grpc.DecisionServiceAsyncStub:
        """One of the connections, in turn."""
        return next(self._stubs)

    async def set_up(self) -> None:
        """Puts every account under the policy."""
        assignment = policy_pb2.Assignment(name="assignments/crash", policy=_POLICY)
        request = policy_service_pb2.ApplyPoliciesRequest(
            policies=[policy(0)], assignments=[assignment]
        )
        await self.policies.ApplyPolicies(request, timeout=PATIENCE_S)

    async def is_serving(self) -> bool:
        """What health says."""
        request = health_pb2.HealthCheckRequest()
        reply = await self._health.Check(request, timeout=PATIENCE_S)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def current_policy(self) -> policy_pb2.Policy:
        request = policy_service_pb2.GetPolicyRequest(name=_POLICY)
        return await self.policies.GetPolicy(request, timeout=PATIENCE_S)

    async def exchange(
        self, sends: Iterable[Send]
    ) -> AsyncIterator[tuple[Send, decision_service_pb2.CommitResponse]]:
        """Sends attempts over one stream and gives each with its answer, in order."""
        asked = list(sends)
        requests = [send.request() for send in asked]
        stream = self.decisions.CommitStream(iter(requests), timeout=10 * PATIENCE_S)
        answered = 0
        async for reply in stream:
            yield asked[answered], reply
            answered += 1
        assert answered == len(asked), "the stream ended early"


@asynccontextmanager
async def connected(server: ServerProcess, *, stands: bool = True) -> AsyncIterator[Clients]:
    """Clients with connections that stand, or that are only begun."""
    # Without the option, channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(server.address, options) for _ in range(_CONNECTIONS)]
    try:
        for channel in channels if stands else ():
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_S)
        yield Clients(channels)
    finally:
        for channel in channels:
            await channel.close()


class Load:
    """One round of load; attempts are drawn for `accounts`."""

    def __init__(
        self,
        clients: Clients,
        ledger: Ledger,
        rng: random.Random,
        round_number: int,
        accounts: Sequence[str],
    ) -> None:
        self._clients = clients
        self._ledger = ledger
        self._rng = rng
        self._round_number = round_number
        self._accounts = accounts
        self._numbers = itertools.count()
        self._answers = asyncio.Semaphore(0)
        # From then on the server may be gone, or out of service, at any moment.
        self._is_doomed = False
        self._was_gone = False
        # Clients send nothing new any more.
        self._has_enough = False

    async def run_until_dead(self, server: ServerProcess, death: Death, ending: Ending) -> bool:
        """Sends from all clients until the server has died; returns whether it was at the operation
        that was meant, if one was."""
        async with self._running(self._sending()):
            for _ in range(death.answer_count):
                await self._answers.acquire()
            if death.place:
                return await self._await_death(server, death, ending)
            await self._kill(server, death.delay_s)
        return False

    async def run_while(self, goes_on: Callable[[], bool]) -> bool:
        """Sends from all clients while `goes_on` says so and the server is in service. Returns
        whether it went out of service, as far as the clients have seen."""
        self._is_doomed = True
        async with self._running(self._sending()):
            while goes_on() and not self._was_gone:  # noqa: ASYNC110 - it looks from outside
                await asyncio.sleep(_LOOK_S)
            self._has_enough = True
        return self._was_gone

    async def retry_until_killed(
        self, server: ServerProcess, delay_s: float, *, is_doomed: bool = False
    ) -> None:
        """Asks for what is unknown, and kills the server after `delay_s`, done or not. One that
        `is_doomed` may die before."""
        self._is_doomed = is_doomed
        async with self._running(self._retrying()):
            await self._kill(server, delay_s)

    async def retry_unknown(self) -> None:
        """Asks for everything that has no answer, under its own request id, in random order."""
        await asyncio.gather(*self._retrying())

    async def ask(self, entry: Send | Batch | Undoing, *, is_repeat: bool = False) -> None:
        """Sends an entry of the ledger and enters the answer."""
        stub = self._clients.decisions
        if isinstance(entry, Undoing):
            await self._ask_undoing(entry)
        elif isinstance(entry, Batch):
            batch_reply = await stub.CommitBatch(entry.request(), timeout=PATIENCE_S)
            self._ledger.settle_batch(entry, batch_reply, is_repeat=is_repeat)
        else:
            reply = await stub.Commit(entry.request(), timeout=PATIENCE_S)
            self._ledger.settle(entry, reply, is_repeat=is_repeat)
        self._answers.release()

    async def _ask_undoing(self, undoing: Undoing) -> None:
        """Cancels or confirms an attempt, by one of its ids."""
        send, stub = undoing.send, self._clients.decisions
        assert send.receipt is not None
        names = (
            {"request_id": send.request_id}
            if self._rng.random() < 0.5
            else {"commit_id": send.receipt.commit_id}
        )
        if undoing.cancels:
            cancel = commitment_pb2.CancelRequest(account=send.account, **names)
            cancelled = await stub.Cancel(cancel, timeout=PATIENCE_S)
            self._ledger.settle_undoing(undoing, cancelled.commitment.state)
        else:
            confirm = commitment_pb2.ConfirmRequest(account=send.account, **names)
            confirmed = await stub.Confirm(confirm, timeout=PATIENCE_S)
            self._ledger.settle_undoing(undoing, confirmed.commitment.state)

    def _sending(self) -> list[Coroutine[Any, Any, None]]:
        """All clients that send something new."""
        clients: list[Coroutine[Any, Any, None]] = []
        clients += [self._send_singles() for _ in range(_UNARY_CLIENTS)]
        clients += [self._send_streams() for _ in range(_STREAM_CLIENTS)]
        clients += [self._send_batches() for _ in range(_BATCH_CLIENTS)]
        return [*clients, self._edit_policy()]

    def _retrying(self) -> list[Coroutine[Any, Any, None]]:
        """A few clients that share what is unknown."""
        entries = self._ledger.unknown()
        self._rng.shuffle(entries)

        async def retry() -> None:
            while entries:
                await self.ask(entries.pop())

        return [retry() for _ in range(_RETRYING_CLIENTS)]

    @asynccontextmanager
    async def _running(self, clients: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Clients that run until the server is gone, and have ended when this does."""
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(self._until_gone(client))
            yield

    async def _kill(self, server: ServerProcess, delay_s: float) -> None:
        """Ends the server as a power cut does; it must have lived until then."""
        await asyncio.sleep(delay_s)
        assert self._is_doomed or server.process.poll() is None, "the server ended by itself"
        self._is_doomed = True
        server.process.kill()

    async def _await_death(self, server: ServerProcess, death: Death, ending: Ending) -> bool:
        """Has the server die at an operation; returns whether it did."""
        self._is_doomed = True
        ending.end(death.place, after=death.after, half=death.half, name=death.name)
        for _ in range(_LOOKS_MAX):
            await asyncio.sleep(_LOOK_S)
            if server.process.poll() is not None:
                return True
        server.process.kill()
        return False

    async def _until_gone(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a client until the server is gone. Any other fault, or an earlier one, is raised."""
        try:
            await work
        except grpc.aio.AioRpcError as error:
            if not self._is_doomed or not _says_gone(error):
                raise
            self._was_gone = True
        except asyncio.InvalidStateError:
            # What a stream says that has ended before it was written to.
            if not self._is_doomed:
                raise
            self._was_gone = True

    def _draw(self, account: str, message_count: int, *, with_id: bool = True) -> Send:
        request_id = f"r{self._round_number}-{next(self._numbers)}" if with_id else ""
        contact = self._rng.choice(CONTACTS)
        return Send(account, contact, message_count, request_id, self._round_number)

    def _draw_single(self) -> Send:
        send = self._draw(self._rng.choice(self._accounts), self._rng.choice((1, 1, 2, 3)))
        send.is_held = self._rng.random() < 0.3
        self._ledger.add(send)
        return send

    def _draw_batch(self) -> Batch:
        """With an id of its own, and now and then with ids for the recipients."""
        account, message_count = self._rng.choice(self._accounts), self._rng.choice((1, 2))
        with_ids = self._rng.random() < 0.3
        contacts = range(self._rng.randint(1, 8))
        batch = Batch(
            [self._draw(account, message_count, with_id=with_ids) for _ in contacts],
            f"b{self._round_number}-{next(self._numbers)}",
            self._rng.choice(
                (
                    decision_service_pb2.ATOMICITY_PARTIAL,
                    decision_service_pb2.ATOMICITY_ALL_OR_NOTHING,
                )
            ),
        )
        self._ledger.add(batch)
        return batch

    async def _send_singles(self) -> None:
        while not self._has_enough:
            send = self._draw_single()
            if self._rng.random() < 0.1:
                await self._ask_twice(send)
            else:
                await self.ask(send)
            if send.receipt and self._rng.random() < 0.3:
                cancels = not send.is_held or self._rng.random() < 0.5
                await self.ask(self._ledger.undo(send, cancels=cancels))

    async def _ask_twice(self, send: Send) -> None:
        """The same attempt from two connections at once."""
        asked = [
            self._clients.decisions.Commit(send.request(), timeout=PATIENCE_S) for _ in range(2)
        ]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        answers = [
            reply for reply in replies if isinstance(reply, decision_service_pb2.CommitResponse)
        ]
        if len(answers) == 2:
            self._ledger.settle_twins(send, answers)
            return
        for answer in answers:
            self._ledger.settle(send, answer)
        raise next(reply for reply in replies if isinstance(reply, BaseException))

    async def _send_batches(self) -> None:
        while not self._has_enough:
            await self.ask(self._draw_batch())

    async def _send_streams(self) -> None:
        stream = self._clients.decisions.CommitStream(timeout=PATIENCE_S)
        open_sends: deque[Send] = deque()
        while not self._has_enough:
            window = self._rng.randint(1, _STREAM_WINDOW)
            while len(open_sends) < window:
                open_sends.append(self._draw_single())
                await stream.write(open_sends[-1].request())
            reply = await stream.read()
            assert isinstance(reply, decision_service_pb2.CommitResponse), "the stream ended"
            self._ledger.settle(open_sends.popleft(), reply)
            self._answers.release()
        stream.cancel()

    async def _edit_policy(self) -> None:
        ledger = self._ledger
        while not self._has_enough:
            ledger.edition_asked += 1
            request = policy_service_pb2.UpdatePolicyRequest(policy=policy(ledger.edition_asked))
            request.update_mask.paths.extend(("display_name", "limits"))
            await self._clients.policies.UpdatePolicy(request, timeout=PATIENCE_S)
            ledger.edition = ledger.edition_asked
            await asyncio.sleep(self._rng.uniform(0, 0.02))


def _says_gone(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed because its connection broke."""
    if error.code() is grpc.StatusCode.INTERNAL:
        # The client's own words for a stream that breaks while it is written to.
        return error.details() == "Internal error from Core"
    return error.code() is grpc.StatusCode.UNAVAILABLE
