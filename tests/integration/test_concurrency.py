"""Many clients at once: a limit of N lets exactly N pass, whatever the interleaving.

Against a server in a process of its own, from asyncio clients on several connections and from
threads with the blocking client. The clock stands still, so nothing leaves a window.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import grpc
import pytest

from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_pb2,
)
from tests.integration import transports
from tests.integration.process import PATIENCE_S, START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request

pytestmark = transports.BOTH

ALLOWED: Final = decision_pb2.OUTCOME_ALLOWED
DENIED: Final = decision_pb2.OUTCOME_DENIED
PARTIAL: Final = decision_service_pb2.ATOMICITY_PARTIAL
ALL_OR_NOTHING: Final = decision_service_pb2.ATOMICITY_ALL_OR_NOTHING

CLIENTS: Final = 32
CONNECTIONS: Final = 4
THREADS: Final = 4

# What a client wants to send: to whom, and how many messages.
Wish = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one wish. `sequence` is 0 unless it was allowed. `is_alone`: it was decided
    for itself; in a batch that goes whole or not at all, the others count for it at first."""

    contact: str
    message_count: int
    is_allowed: bool
    reason: decision_pb2.Reason.ValueType
    sequence: int
    is_alone: bool = True


# Stubs of this kind exist for type checkers alone.
Stub: TypeAlias = "decision_service_pb2_grpc.DecisionServiceAsyncStub"

# Sends wishes one after the other and gives their answers in the same order.
Client = Callable[
    ["Stub", str, Sequence[Wish]],
    Awaitable[list[Answer]],
]


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp(transport) / "data"
    with ServerProcess(folder, clock_start_ms=START_MS) as running:
        yield running


_account_numbers = itertools.count()


@pytest.fixture
def account() -> str:
    """An account that nobody has used."""
    return f"account-{next(_account_numbers)}"


@asynccontextmanager
async def connections(
    server: ServerProcess,
) -> AsyncIterator[list[Stub]]:
    """Stubs on connections of their own, all of which stand."""
    channels = [
        # Without the option, channels to one address share a connection.
        grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CONNECTIONS)
    ]
    try:
        for channel in channels:
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_S)
        yield [decision_service_pb2_grpc.DecisionServiceStub(channel) for channel in channels]
    finally:
        for channel in channels:
            await channel.close()


def answer_of(
    wish: Wish, reply: decision_service_pb2.CommitResponse | decision_service_pb2.BatchResult
) -> Answer:
    decision = reply.decision
    assert decision.outcome in {ALLOWED, DENIED}
    assert decision.decide_time.ToMilliseconds() == START_MS
    assert not reply.replayed
    is_allowed = decision.outcome == ALLOWED
    assert bool(reply.commit_id) == bool(reply.account_sequence) == is_allowed
    return Answer(*wish, is_allowed, decision.reason, reply.account_sequence)


async def send_singly(stub: Stub, account: str, wishes: Sequence[Wish]) -> list[Answer]:
    answers = []
    for wish in wishes:
        request = commit_request(account, wish[0], message_count=wish[1])
        answers.append(answer_of(wish, await stub.Commit(request, timeout=PATIENCE_S)))
    return answers


async def send_as_a_stream(stub: Stub, account: str, wishes: Sequence[Wish]) -> list[Answer]:
    requests = [commit_request(account, wish[0], message_count=wish[1]) for wish in wishes]
    stream = stub.CommitStream(iter(requests), timeout=PATIENCE_S)
    replies = [reply async for reply in stream]
    answers = [answer_of(*each) for each in zip(wishes, replies, strict=True)]
    # Decided in the order in which they were sent.
    sequences = [answer.sequence for answer in answers if answer.is_allowed]
    assert sequences == sorted(sequences)
    return answers


def sender_of_batches(atomicity: decision_service_pb2.Atomicity.ValueType, size: int) -> Client:
    """A client that sends its wishes in batches, which share the first one's message_count."""

    async def send(
        stub: Stub,
        account: str,
        wishes: Sequence[Wish],
    ) -> list[Answer]:
        answers = []
        for start in range(0, len(wishes), size):
            batch = [(contact, wishes[start][1]) for contact, _ in wishes[start : start + size]]
            request = decision_service_pb2.CommitBatchRequest(atomicity=atomicity)
            request.attempt.account = account
            request.attempt.message_count = batch[0][1]
            for contact, _ in batch:
                request.recipients.add(contact=contact)
            reply = await stub.CommitBatch(request, timeout=PATIENCE_S)
            found = [answer_of(*each) for each in zip(batch, reply.results, strict=True)]
            check_batch(found, reply.accepted_count, atomicity)
            is_alone = atomicity == PARTIAL
            answers += [dataclasses.replace(answer, is_alone=is_alone) for answer in found]
        return answers

    return send


def check_batch(
    answers: list[Answer],
    accepted_count: int,
    atomicity: decision_service_pb2.Atomicity.ValueType,
) -> None:
    """Decided at one instant: nobody else's commit comes between those of a batch."""
    sequences = [answer.sequence for answer in answers if answer.is_allowed]
    assert accepted_count == len(sequences)
    if sequences:
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    if atomicity == ALL_OR_NOTHING:
        assert len(sequences) in {0, len(answers)}


def send_from_a_thread(server: ServerProcess, account: str, wishes: Sequence[Wish]) -> list[Answer]:
    answers = []
    for wish in wishes:
        request = commit_request(account, wish[0], message_count=wish[1])
        answers.append(answer_of(wish, server.decisions.Commit(request, timeout=PATIENCE_S)))
    return answers


async def send_at_once(
    server: ServerProcess,
    account: str,
    clients: Sequence[tuple[Client, Sequence[Wish]]],
    threads: Sequence[Sequence[Wish]] = (),
) -> list[Answer]:
    """All clients and threads together; the answers of all."""
    async with connections(server) as stubs:
        calls = [
            client(stubs[place % CONNECTIONS], account, wishes)
            for place, (client, wishes) in enumerate(clients)
        ]
        blocking = [
            asyncio.to_thread(send_from_a_thread, server, account, wishes) for wishes in threads
        ]
        answers = await asyncio.gather(*calls, *blocking)
    return [answer for each in answers for answer in each]


def used(server: ServerProcess, account: str) -> int:
    """What stands in the account's only limit."""
    request = decision_service_pb2.GetUsageRequest(attempt=attempt_pb2.Attempt(account=account))
    (status,) = server.decisions.GetUsage(request, timeout=PATIENCE_S).limit_statuses
    return status.used_count


def check_sequences(answers: Sequence[Answer]) -> None:
    sequences = sorted(answer.sequence for answer in answers if answer.is_allowed)
    assert sequences == list(range(1, len(sequences) + 1))


def check_messages(answers: Sequence[Answer], max_count: int) -> None:
    """Exactly so many messages have passed, one by one if need be, and the rest was denied."""
    check_sequences(answers)
    assert sum(answer.message_count for answer in answers if answer.is_allowed) == max_count
    reasons = {answer.reason for answer in answers if not answer.is_allowed}
    assert reasons <= {decision_pb2.REASON_MESSAGE_CAP, decision_pb2.REASON_BATCH_REJECTED}
    assert decision_pb2.REASON_MESSAGE_CAP in reasons


def check_contacts(answers: Sequence[Answer], max_count: int) -> None:
    """Exactly so many contacts are inside: whatever goes to them passes, the others never do."""
    check_sequences(answers)
    fates: dict[str, set[bool]] = defaultdict(set)
    for answer in answers:
        if answer.is_alone or answer.is_allowed:
            fates[answer.contact].add(answer.is_allowed)
            assert answer.is_allowed or answer.reason == decision_pb2.REASON_CONTACT_CAP
    # Nothing leaves the window: who was denied once has found it full, and it stays full.
    assert [contact for contact, fate in fates.items() if len(fate) != 1] == []
    assert sum(fate == {True} for fate in fates.values()) == max_count
    assert any(fate == {False} for fate in fates.values())


def messages(rng: random.Random, count: int, largest: int = 1) -> list[Wish]:
    """Wishes for messages to anybody; the last one is for a single message."""
    drawn = [(f"c{rng.randrange(1_000)}", rng.randint(1, largest)) for _ in range(count - 1)]
    return [*drawn, ("last", 1)]


def contacts(rng: random.Random, names: Sequence[str]) -> list[Wish]:
    """Every name once, in an order of its own, and a few of them again."""
    order = rng.sample(names, len(names))
    return [(name, 1) for name in [*order, *rng.choices(order, k=4)]]


@pytest.mark.parametrize("max_count", [1, 97])
async def test_exactly_n_messages_pass(
    server: ServerProcess, account: str, rng: random.Random, max_count: int
) -> None:
    assign(server, account, cap(max_count, measure=policy_pb2.MEASURE_MESSAGES))
    clients = [(send_singly, messages(rng, 4)) for _ in range(CLIENTS)]
    threads = [messages(rng, 4) for _ in range(THREADS)]
    answers = await send_at_once(server, account, clients, threads)
    assert len(answers) == 4 * (CLIENTS + THREADS)
    check_messages(answers, max_count)
    assert used(server, account) == max_count


async def test_attempts_of_several_messages_fill_the_limit_and_no_more(
    server: ServerProcess, account: str, rng: random.Random
) -> None:
    max_count = 151
    assign(server, account, cap(max_count, measure=policy_pb2.MEASURE_MESSAGES))
    # The single messages alone are more than there is room for, so one of them is denied, and that
    # happens only once exactly max_count messages have passed.
    clients = [(send_singly, [*messages(rng, 5, 5), *messages(rng, 5)]) for _ in range(CLIENTS)]
    threads = [[*messages(rng, 5, 5), *messages(rng, 5)] for _ in range(THREADS)]
    answers = await send_at_once(server, account, clients, threads)
    check_messages(answers, max_count)
    assert used(server, account) == max_count


async def test_exactly_n_contacts_pass_and_repeats_are_free(
    server: ServerProcess, account: str, rng: random.Random
) -> None:
    max_count = 11
    assign(server, account, cap(max_count))
    names = [f"c{number}" for number in range(17)]
    clients = [(send_singly, contacts(rng, names)) for _ in range(CLIENTS)]
    threads = [contacts(rng, names) for _ in range(THREADS)]
    answers = await send_at_once(server, account, clients, threads)
    check_contacts(answers, max_count)
    assert used(server, account) == max_count


def mixed(wishes: Callable[[], list[Wish]]) -> list[tuple[Client, list[Wish]]]:
    """Half of the clients send singly, the others as streams and as batches of both kinds."""
    senders = [
        send_as_a_stream,
        sender_of_batches(PARTIAL, 7),
        sender_of_batches(ALL_OR_NOTHING, 3),
        sender_of_batches(ALL_OR_NOTHING, 6),
    ]
    singly: list[tuple[Client, list[Wish]]] = [(send_singly, wishes()) for _ in range(CLIENTS // 2)]
    return singly + [(senders[place % 4], wishes()) for place in range(CLIENTS // 2)]


async def test_exactly_n_messages_pass_by_all_ways_at_once(
    server: ServerProcess, account: str, rng: random.Random
) -> None:
    # Those sent singly are more than there is room for: what batches leave free, they fill.
    max_count = 131
    assign(server, account, cap(max_count, measure=policy_pb2.MEASURE_MESSAGES))
    threads = [messages(rng, 12) for _ in range(THREADS)]
    answers = await send_at_once(server, account, mixed(lambda: messages(rng, 12)), threads)
    check_messages(answers, max_count)
    assert used(server, account) == max_count


async def test_exactly_n_contacts_pass_by_all_ways_at_once(
    server: ServerProcess, account: str, rng: random.Random
) -> None:
    max_count = 13
    assign(server, account, cap(max_count))
    names = [f"c{number}" for number in range(19)]
    threads = [contacts(rng, names) for _ in range(THREADS)]
    answers = await send_at_once(server, account, mixed(lambda: contacts(rng, names)), threads)
    check_contacts(answers, max_count)
    assert used(server, account) == max_count


async def test_accounts_at_once_never_see_each_other(
    server: ServerProcess, rng: random.Random
) -> None:
    accounts = {f"neighbour-{max_count}": max_count for max_count in (3, 20, 45)}
    for name, max_count in accounts.items():
        assign(server, name, cap(max_count, measure=policy_pb2.MEASURE_MESSAGES))
    found = await asyncio.gather(
        *(
            send_at_once(server, name, [(send_singly, messages(rng, 5)) for _ in range(10)])
            for name in accounts
        )
    )
    for (name, max_count), answers in zip(accounts.items(), found, strict=True):
        check_messages(answers, max_count)
        assert used(server, name) == max_count


async def test_a_request_id_that_all_use_at_once_counts_once(
    server: ServerProcess, account: str, rng: random.Random
) -> None:
    max_count = 5
    assign(server, account, cap(max_count, measure=policy_pb2.MEASURE_MESSAGES))
    requests = [
        commit_request(account, f"c{number}", request_id=f"r{number}") for number in range(8)
    ]
    async with connections(server) as stubs:

        async def send_all(place: int) -> list[decision_service_pb2.CommitResponse]:
            stub = stubs[place % CONNECTIONS]
            order = rng.sample(range(len(requests)), len(requests))
            replies = {
                number: await stub.Commit(requests[number], timeout=PATIENCE_S) for number in order
            }
            return [replies[number] for number in range(len(requests))]

        found = await asyncio.gather(*map(send_all, range(CLIENTS)))
    receipts = set()
    for number in range(len(requests)):
        replies = [of_client[number] for of_client in found]
        outcomes = {reply.decision.outcome for reply in replies}
        assert len(outcomes) == 1
        if outcomes == {ALLOWED}:
            assert sum(not reply.replayed for reply in replies) == 1
            (receipt,) = {(reply.account_sequence, reply.commit_id) for reply in replies}
            receipts.add(receipt)
    assert sorted(sequence for sequence, _ in receipts) == list(range(1, max_count + 1))
    assert len({commit_id for _, commit_id in receipts}) == max_count
    assert used(server, account) == max_count
