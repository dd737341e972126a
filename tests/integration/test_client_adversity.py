"""The clients against a server that misbehaves: silent, broken, overloaded, call after call.

The server here is gRPC's own with a script: it shows what a client sends, and when it asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from limiter import Attempt, Retries, errors
from limiter.service.status import DETAILS_KEY, to_status
from limiter.v1 import (
    decision_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    restriction_pb2,
)
from tests.integration.clients import KINDS, Face

# No slow machine takes that long to answer; who waits for nothing waits shorter.
QUICK = Retries(try_timeout_s=10, pause_s_min=0.005, pause_s_max=0.01)
IMPATIENT = Retries(try_timeout_s=0.2, pause_s_min=0.005, pause_s_max=0.01)

# What a call does: it gets its context and the number of the call, and gives its replies.
Act = Callable[..., Any]


@dataclass
class Unruly:
    """Does what `act` says at each call; keeps what it was asked."""

    act: Act = lambda *_: None
    asked: list[list[Any]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def enter(self, context: grpc.ServicerContext) -> list[Any]:
        """The list for the requests of one more call."""
        self.metadata.append(dict(context.invocation_metadata()))
        self.times_s.append(context.time_remaining())
        self.asked.append([])
        return self.asked[-1]

    def Commit(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.enter(context).append(request)
        return self.act(context, len(self.asked))

    def CommitStream(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        requests = self.enter(context)
        number = len(self.asked)
        for request in request_iterator:
            requests.append(request)
            for reply in self.act(context, number, request):
                if reply is None:
                    return
                yield reply

    def WatchUsage(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.enter(context).append(request)
        yield from self.act(context, len(self.asked))

    def __getattr__(self, name: str) -> Any:
        """What no test asks for."""
        return None

    def ListRestrictions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.enter(context).append(request)
        return self.act(context, len(self.asked))


@pytest.fixture
def unruly() -> Iterator[Unruly]:
    servicer: Any = Unruly()
    server = grpc.server(ThreadPoolExecutor(8))
    decision_service_pb2_grpc.add_DecisionServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer
    servicer.is_over.set()
    server.stop(None).wait()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture
def client(kind: Any, unruly: Unruly) -> Iterator[Face]:
    address = f"127.0.0.1:{unruly.port}"
    with kind(address, api_key="secret", timeout_s=60, retries=QUICK) as made:
        yield made


@pytest.fixture
def impatient(kind: Any, unruly: Unruly) -> Iterator[Face]:
    with kind(f"127.0.0.1:{unruly.port}", timeout_s=60, retries=IMPATIENT) as made:
        yield made


def fail(context: grpc.ServicerContext, fault: errors.LimiterError) -> None:
    """Ends the call as the service does."""
    status = to_status(fault)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    context.set_trailing_metadata(details)
    context.abort(grpc.StatusCode[fault.code], status.message)


def draining() -> errors.Unavailable:
    return errors.Unavailable("DRAINING", "the server is stopping")


def allowed(request: Any = None) -> decision_service_pb2.CommitResponse:
    """An answer; its commit id is the request's id."""
    reply = decision_service_pb2.CommitResponse(commit_id=request.request_id if request else "x")
    reply.decision.outcome = decision_pb2.OUTCOME_ALLOWED
    return reply


def attempts(count: int) -> list[Attempt]:
    return [
        Attempt(account="a", contact=f"c{number}", request_id=f"r{number}")
        for number in range(count)
    ]


class TestCalls:
    def test_a_call_shows_its_key_and_its_deadline(self, client: Face, unruly: Unruly) -> None:
        unruly.act = lambda *_: allowed()
        client.commit("a", contact="c")
        client.commit("a", contact="c", request_id="")
        assert [each["authorization"] for each in unruly.metadata] == ["Bearer secret"] * 2
        # gRPC rounds deadlines up.
        assert unruly.times_s[0] < 11
        assert 40 < unruly.times_s[1] < 61

    def test_a_silent_call_is_asked_again(self, impatient: Face, unruly: Unruly) -> None:
        def act(_: Any, number: int) -> Any:
            if number == 1:
                unruly.is_over.wait()
            return allowed()

        unruly.act = act
        assert impatient.commit("a", contact="c").allowed
        assert len(unruly.asked) >= 2
        assert len({request.request_id for (request,) in unruly.asked}) == 1

    def test_an_overloaded_server_is_given_the_time_it_asks_for(
        self, client: Face, unruly: Unruly
    ) -> None:
        def act(context: Any, number: int) -> Any:
            if number < 3:
                fail(context, errors.ResourceExhausted("OVERLOADED", "much", retry_after_ms=20))
            return allowed()

        unruly.act = act
        assert client.commit("a", contact="c").allowed
        assert len(unruly.asked) == 3

    def test_restrictions_come_page_by_page(self, client: Face, unruly: Unruly) -> None:
        def act(_: Any, number: int) -> Any:
            reply = restriction_pb2.ListRestrictionsResponse()
            for each in range(2):
                reply.restrictions.add().attempt.contact = f"{number}-{each}"
            reply.next_page_token = "next" if number < 3 else ""
            return reply

        unruly.act = act
        found = client.restrictions("a", campaign="news")
        assert [each.attempt.contact for each in found] == [
            "1-0", "1-1", "2-0", "2-1", "3-0", "3-1",
        ]  # fmt: skip
        assert [each.page_token for (each,) in unruly.asked] == ["", "next", "next"]
        assert {each.campaign for (each,) in unruly.asked} == {"news"}


class TestStreams:
    def test_what_has_no_answer_is_asked_again_in_order(self, client: Face, unruly: Unruly) -> None:
        """Each call answers three and breaks at the fourth."""

        def act(context: Any, number: int, request: Any) -> Iterator[Any]:
            if len(unruly.asked[number - 1]) > 3:
                fail(context, draining())
            yield allowed(request)

        unruly.act = act
        commits = list(client.commit_stream(attempts(10), window_count=5))
        assert [each.commit_id for each in commits] == [f"r{number}" for number in range(10)]
        firsts = [call[0].request_id for call in unruly.asked]
        assert firsts == ["r0", "r3", "r6", "r9"]
        for call in unruly.asked:
            ids = [int(each.request_id[1:]) for each in call]
            assert ids == [*range(ids[0], ids[0] + len(ids))]

    def test_a_stream_that_falls_silent_is_opened_again(
        self, impatient: Face, unruly: Unruly
    ) -> None:
        def act(_: Any, number: int, request: Any) -> Iterator[Any]:
            if number == 1 and request.request_id == "r2":
                unruly.is_over.wait()
            yield allowed(request)

        unruly.act = act
        commits = list(impatient.commit_stream(attempts(5)))
        assert [each.commit_id for each in commits] == [f"r{number}" for number in range(5)]
        assert len(unruly.asked) >= 2

    def test_one_that_stays_silent_is_told(self, impatient: Face, unruly: Unruly) -> None:
        def act(_: Any, number: int, request: Any) -> Iterator[Any]:
            if request.request_id == "r1":
                unruly.is_over.wait()
            yield allowed(request)

        unruly.act = act
        replies = impatient.commit_stream(attempts(3), timeout_s=2)
        assert next(replies).commit_id == "r0"
        with pytest.raises(errors.DeadlineExceeded) as caught:
            next(replies)
        assert caught.value.metadata["request_id"] == "r1"

    def test_an_end_before_the_last_answer_is_none(self, client: Face, unruly: Unruly) -> None:
        """A server that ends a call with OK while something is open has not answered it."""

        def act(_: Any, number: int, request: Any) -> Iterator[Any]:
            yield allowed(request) if number > 1 else None

        unruly.act = act
        commits = list(client.commit_stream(attempts(2)))
        assert [each.commit_id for each in commits] == ["r0", "r1"]

    def test_a_fault_that_stays_is_told(self, client: Face, unruly: Unruly) -> None:
        def act(context: Any, _: int, request: Any) -> Iterator[Any]:
            if request.request_id == "r1":
                fail(context, errors.InvalidArgument("INVALID_FIELD", "attempt.agent: is odd"))
            yield allowed(request)

        unruly.act = act
        replies = client.commit_stream(attempts(3))
        assert next(replies).commit_id == "r0"
        with pytest.raises(errors.InvalidArgument, match="is odd"):
            next(replies)
        # A write that fails may hide the status from grpc.aio: then it is asked for once more.
        assert [call[0].request_id for call in unruly.asked[1:]] == ["r1"] * (len(unruly.asked) - 1)


class TestWatch:
    def test_it_comes_back(self, client: Face, unruly: Unruly) -> None:
        def act(context: Any, number: int) -> Iterator[Any]:
            for each in range(2):
                reply = decision_service_pb2.WatchUsageResponse(allowed=bool(each))
                reply.time.FromSeconds(number)
                yield reply
            fail(context, draining())

        unruly.act = act
        changes = client.watch_usage("a", contact="c")
        seen = [next(changes) for _ in range(6)]
        changes.close()
        assert [int(each.time.timestamp()) for each in seen] == [1, 1, 2, 2, 3, 3]
        assert [each.allowed for each in seen] == [False, True] * 3

    def test_it_gives_up_in_the_end(self, client: Face, unruly: Unruly) -> None:
        def act(context: Any, number: int) -> Iterator[Any]:
            yield from ()
            fail(context, draining())

        unruly.act = act
        with pytest.raises(errors.Unavailable, match="is stopping"):
            next(client.watch_usage("a", timeout_s=0.1))
        assert len(unruly.asked) > 1

    def test_who_may_not_is_told_at_once(self, client: Face, unruly: Unruly) -> None:
        def act(context: Any, number: int) -> Iterator[Any]:
            yield from ()
            fail(context, errors.PermissionDenied("KEY_SCOPE", "not this account"))

        unruly.act = act
        with pytest.raises(errors.PermissionDenied):
            next(client.watch_usage("a"))
        assert len(unruly.asked) == 1
