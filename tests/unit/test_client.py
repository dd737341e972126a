"""The client's own rules, without a server: patience, batches, faults, values, imports."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor as protobuf_descriptor

import limiter
from limiter import Attempt, Recipient, Retries, bounds, client, errors
from limiter.client import channels, exchanges, faults
from limiter.client.attempts import AttemptFields
from limiter.client.batches import Batch
from limiter.client.patience import Patience
from limiter.client.results import commit, restriction, usage_change
from limiter.client.streams import Ledger
from limiter.service.status import DETAILS_KEY, to_status
from limiter.v1 import (
    attempt_pb2,
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    plan_pb2,
    policy_pb2,
    restriction_pb2,
)

RETRIES = Retries(try_timeout_s=2, pause_s_min=0.1, pause_s_max=0.4)


class Broken(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, fault: errors.LimiterError, *, with_details: bool = True) -> None:
        super().__init__()
        self._status = to_status(fault)
        self._code = grpc.StatusCode[fault.code]
        self._with_details = with_details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return str(self._status.message)

    def trailing_metadata(self) -> Any:
        found = ((DETAILS_KEY, self._status.SerializeToString()),)
        return found if self._with_details else ()


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def unavailable() -> errors.Unavailable:
    return errors.Unavailable("DRAINING", "the server is stopping")


def overloaded(retry_after_ms: int | None) -> errors.ResourceExhausted:
    return errors.ResourceExhausted("OVERLOADED", "too much", retry_after_ms=retry_after_ms)


class TestPatience:
    def patience(self, timeout_s: float, draw: Callable[[float, float], float]) -> Patience:
        self.clock = Clock()
        return Patience(timeout_s, RETRIES, now_s=self.clock, draw=draw)

    def test_pauses_double_up_to_the_longest(self) -> None:
        patience = self.patience(10, lambda _, high: high)
        pauses = [patience.pause_s(unavailable(), can_repeat=True) for _ in range(4)]
        assert pauses == [0.1, 0.2, 0.4, 0.4]

    def test_half_a_pause_is_drawn(self, rng: random.Random) -> None:
        for _ in range(100):
            pause_s = self.patience(10, rng.uniform).pause_s(unavailable(), can_repeat=True)
            assert pause_s is not None
            assert 0.05 <= pause_s <= 0.1

    def test_what_the_server_asks_for_is_the_least(self) -> None:
        patience = self.patience(10, lambda low, _: low)
        assert patience.pause_s(overloaded(3_000), can_repeat=True) == pytest.approx(3.05)

    @pytest.mark.parametrize(
        ("fault", "is_repeated"),
        [
            (unavailable(), True),
            (errors.DeadlineExceeded("NO_REPLY", ""), True),
            (errors.Cancelled("CANCELLED", ""), True),
            (overloaded(50), True),
            (overloaded(None), False),
            (errors.InvalidArgument("INVALID_FIELD", ""), False),
            (errors.DataLoss("JOURNAL_CORRUPT", ""), False),
            (errors.LimiterError("INTERNAL", ""), False),
        ],
    )
    def test_only_what_passes_is_repeated(
        self, fault: errors.LimiterError, is_repeated: bool
    ) -> None:
        patience = self.patience(10, random.uniform)
        assert (patience.pause_s(fault, can_repeat=True) is not None) == is_repeated
        assert patience.pause_s(fault, can_repeat=False) is None

    def test_no_try_outlives_the_deadline(self) -> None:
        patience = self.patience(3, lambda _, high: high)
        assert patience.try_timeout_s(can_repeat=True) == 2
        assert patience.try_timeout_s(can_repeat=False) == 3
        self.clock.now_s += 2.5
        assert patience.try_timeout_s(can_repeat=True) == 0.5
        assert patience.pause_s(unavailable(), can_repeat=True) == 0.1
        self.clock.now_s += 0.35
        assert patience.pause_s(unavailable(), can_repeat=True) is None

    @pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
    def test_a_timeout_is_positive(self, timeout_s: float) -> None:
        with pytest.raises(errors.InvalidArgument, match="timeout_s"):
            Patience(timeout_s, RETRIES)

    @pytest.mark.parametrize(
        "fields", [{"try_timeout_s": 0}, {"pause_s_min": 0}, {"pause_s_max": 0.01}]
    )
    def test_pauses_that_cannot_be_are_refused(self, fields: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            Retries(**fields)


class TestFaults:
    def test_what_a_servicer_raises_arrives(self) -> None:
        sent = errors.InvalidArgument(
            "MISSING_FIELD",
            "attempt.contact: is required",
            violations=[errors.FieldViolation("attempt.contact", "is required")],
            metadata={"limit_id": "cap"},
        )
        found = faults.fault_of(Broken(sent))
        assert type(found) is errors.InvalidArgument
        assert (found.reason, found.message) == (sent.reason, sent.message)
        assert (found.violations, found.metadata) == (sent.violations, sent.metadata)
        assert faults.fault_of(Broken(overloaded(75))).retry_after_ms == 75

    def test_every_class_arrives_as_itself(self) -> None:
        classes = {each for each in vars(errors).values() if isinstance(each, type)}
        faulty = classes - {errors.FieldViolation, errors.LimiterError}
        # Those that only the service tells apart from others of their code arrive as those.
        faulty = {each for each in faulty if errors.LimiterError in each.__bases__}
        assert len(faulty) >= 11
        for each in faulty:
            assert type(faults.fault_of(Broken(each("REASON", "message")))) is each

    def test_without_details_the_code_is_the_reason(self) -> None:
        found = faults.fault_of(Broken(unavailable(), with_details=False))
        assert (type(found), found.reason) == (errors.Unavailable, "UNAVAILABLE")
        assert found.message == "the server is stopping"

    def test_a_code_without_a_class_is_told(self) -> None:
        sent = errors.LimiterError("ODD", "odd")
        sent.code = "OUT_OF_RANGE"
        found = faults.fault_of(Broken(sent))
        assert (type(found), found.code) == (errors.LimiterError, "OUT_OF_RANGE")


def batch_sizes(batch: Batch) -> list[int]:
    return [len(part.recipients) for part in batch.parts]


class TestBatches:
    def test_ten_thousand_go_in_one_call(self) -> None:
        people = [f"c{number}" for number in range(bounds.BATCH_RECIPIENTS_MAX)]
        assert batch_sizes(Batch(people)) == [10_000]
        assert batch_sizes(Batch([*people, "one more"])) == [10_000, 1]
        assert batch_sizes(Batch([])) == [0]

    def test_parts_fit_into_a_message(self) -> None:
        """Recipients whose labels are all as long as can be."""
        longest = {field.name: "x" * 256 for field in dataclasses.fields(Recipient)}
        batch = Batch([Recipient(**longest)] * bounds.BATCH_RECIPIENTS_MAX, shared_bytes=1_000)
        assert sum(batch_sizes(batch)) == bounds.BATCH_RECIPIENTS_MAX
        assert len(batch.parts) > 2
        for part in batch.parts:
            request = decision_service_pb2.CommitBatchRequest(recipients=part.recipients)
            assert request.ByteSize() + 1_000 <= bounds.MESSAGE_BYTES_MAX

    def test_duplicates_are_found_across_parts(
        self, monkeypatch: pytest.MonkeyPatch, rng: random.Random
    ) -> None:
        """As if one call had taken all: the same address, or without one the same contact."""
        monkeypatch.setattr(bounds, "BATCH_RECIPIENTS_MAX", 5)
        for _ in range(100):
            people = [
                Recipient(contact=f"c{rng.randrange(9)}", address=rng.choice(["", "a1", "a2"]))
                for _ in range(rng.randint(1, 20))
            ]
            batch = Batch(people, exclude_duplicates=True)
            replies = [answer(part.recipients) for part in batch.parts]
            whole = answer([client.attempts.recipient_message(each) for each in people])
            found = batch.together(replies, "r")
            assert [each.duplicate for each in found] == [each.duplicate for each in whole.results]
            assert [each.recipient for each in found] == people
            assert found.duplicate_count == whole.duplicate_count
            assert found.accepted_count == whole.accepted_count
            assert all(0 < size <= 5 for size in batch_sizes(batch))

    def test_parts_have_ids_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "BATCH_RECIPIENTS_MAX", 2)

        def ids(request_id: str | None) -> list[str]:
            exchange = exchanges.commit_batch(
                "a",
                ["x", "y", "z"],
                {},
                inline_limits=(),
                view=None,
                request_id=request_id,
                all_or_nothing=False,
                exclude_duplicates=False,
                exclude_opt_outs=False,
            )
            assert {each.can_repeat for each in exchange.calls} == {request_id != ""}
            requests: list[Any] = [each.request for each in exchange.calls]
            return [each.request_id for each in requests]

        assert ids("r") == ["r/0", "r/1"]
        assert ids("") == ["", ""]
        assert len(set(ids(None) + ids(None))) == 4


def answer(recipients: list[Any]) -> decision_service_pb2.CommitBatchResponse:
    """What the server says when there is no limit and duplicates are left out."""
    reply = decision_service_pb2.CommitBatchResponse()
    seen = set()
    for each in recipients:
        key = each.address or each.contact
        result = reply.results.add(duplicate=key in seen)
        if key not in seen:
            result.decision.outcome = decision_pb2.OUTCOME_ALLOWED
        seen.add(key)
    reply.duplicate_count = sum(each.duplicate for each in reply.results)
    reply.accepted_count = len(recipients) - reply.duplicate_count
    return reply


class TestLedger:
    def ledger(self, timeout_s: float = 5) -> Ledger:
        self.clock = Clock()
        return Ledger(timeout_s, RETRIES, 2, now_s=self.clock)

    def request(self, request_id: str) -> decision_service_pb2.CommitRequest:
        return decision_service_pb2.CommitRequest(request_id=request_id)

    def test_replies_belong_to_the_oldest(self) -> None:
        ledger = self.ledger()
        for request_id in "ab":
            assert ledger.has_room
            ledger.add(self.request(request_id))
        assert not ledger.has_room
        reply = decision_service_pb2.CommitResponse()
        assert [ledger.settle(reply).request_id for _ in "ab"] == ["a", "b"]

    def test_patience_is_with_the_newest_reply(self) -> None:
        ledger = self.ledger()
        ledger.add(self.request("a"))
        ledger.add(self.request("b"))
        self.clock.now_s += 4
        assert ledger.try_timeout_s() == pytest.approx(1)
        ledger.settle(decision_service_pb2.CommitResponse())
        assert ledger.try_timeout_s() == 2
        self.clock.now_s += 4.99
        with pytest.raises(errors.Unavailable) as caught:
            ledger.pause_s(unavailable())
        assert caught.value.metadata["request_id"] == "b"

    def test_waiting_for_the_caller_costs_no_patience(self) -> None:
        ledger = self.ledger()
        self.clock.now_s += 1_000
        ledger.add(self.request("a"))
        assert ledger.pause_s(unavailable()) <= 0.1


class TestValues:
    @pytest.mark.parametrize(
        ("mirror", "original"),
        [
            (limiter.Outcome, decision_pb2.Outcome),
            (limiter.Reason, decision_pb2.Reason),
            (limiter.Enforcement, policy_pb2.Enforcement),
            (limiter.CommitmentState, commitment_pb2.CommitmentState),
        ],
        ids=lambda each: getattr(each, "__name__", ""),
    )
    def test_enums_have_the_apis_values(self, mirror: Any, original: Any) -> None:
        prefix = original.DESCRIPTOR.values[0].name
        prefix = prefix.removesuffix("UNSPECIFIED")
        assert {each.name: each.value for each in mirror} == {
            name.removeprefix(prefix): number for name, number in original.items()
        }, "src/limiter/client/results.py mirrors the API's enums"

    def test_a_newer_servers_value_is_kept(self) -> None:
        reason = limiter.Reason(4_711)
        assert (str(reason), int(reason)) == ("VALUE_4711", 4_711)
        assert len(limiter.Reason) == len(decision_pb2.Reason.items())

    @pytest.mark.parametrize(
        ("mirror", "original", "left_out"),
        [
            (limiter.LimitStatus, decision_pb2.LimitStatus, set()),
            (limiter.Decision, decision_pb2.Decision, set()),
            (limiter.Restriction, restriction_pb2.Restriction, set()),
            (limiter.Commitment, commitment_pb2.Commitment, set()),
            (limiter.UsageChange, decision_service_pb2.WatchUsageResponse, set()),
            (limiter.Recipient, decision_service_pb2.Recipient, set()),
        ],
        ids=lambda each: getattr(each, "__name__", ""),
    )
    def test_dataclasses_have_the_apis_fields(
        self, mirror: Any, original: Any, left_out: set[str]
    ) -> None:
        names = {field.name for field in dataclasses.fields(mirror)}
        assert names == fields_of(original.DESCRIPTOR) - left_out

    def test_attempts_have_the_apis_fields(self) -> None:
        wanted = fields_of(attempt_pb2.Attempt.DESCRIPTOR)
        assert set(AttemptFields.__annotations__) == wanted - {"account"}
        names = {field.name for field in dataclasses.fields(Attempt)}
        assert names == wanted | {"request_id"}

    def test_what_says_nothing_denies(self) -> None:
        decision = commit(decision_service_pb2.CommitResponse(), "")
        assert not decision.allowed

    def test_a_change_of_usage_is_read(self) -> None:
        message = decision_service_pb2.WatchUsageResponse(allowed=True)
        message.time.FromSeconds(7)
        message.limit_statuses.add(limit_id="cap", used_count=3)
        change = usage_change(message)
        assert change.time == datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)
        assert (change.allowed, change.retry_time) == (True, None)
        assert [each.used_count for each in change] == [3]

    def test_a_restriction_is_read(self) -> None:
        message = restriction_pb2.Restriction(denial_count=4, shadow=True)
        message.attempt.account = "a"
        message.attempt.contact = "c"
        found = restriction(message)
        assert (found.attempt.account, found.attempt.contact) == ("a", "c")
        assert (found.denial_count, found.shadow, found.binding_limit) == (4, True, None)


def fields_of(descriptor: protobuf_descriptor.Descriptor) -> set[str]:
    return {field.name for field in descriptor.fields}


class TestRequests:
    """What goes out for the calls whose answers other tests look at once they are served."""

    def test_a_record_says_when(self) -> None:
        instant = datetime(2027, 1, 15, 9, tzinfo=UTC)
        exchange = exchanges.record("a", {"contact": "c"}, "r", instant)
        request: Any = exchange.request
        assert request.mode == decision_service_pb2.COMMIT_MODE_RECORD
        assert request.event_time.ToDatetime(UTC) == instant
        with pytest.raises(errors.InvalidArgument, match=r"event_time: .*time zone"):
            exchanges.record("a", {}, None, datetime(2027, 1, 15))  # noqa: DTZ001 - that is it

    def test_a_hold_says_how_long(self) -> None:
        exchange = exchanges.commit(
            "a",
            {},
            inline_limits=(),
            view=None,
            request_id="",
            hold_duration=timedelta(minutes=5),
        )
        request: Any = exchange.request
        assert request.hold_duration.seconds == 300
        assert not exchange.can_repeat

    def test_a_plan_has_a_result_for_each(self) -> None:
        people: list[Recipient | str] = ["x", Recipient(contact="y", reference="second")]
        exchange = exchanges.plan("a", people, {"channel": "sms"}, (), timedelta(days=5))
        request: Any = exchange.request
        assert [each.contact for each in request.recipients] == ["x", "y"]
        assert request.spread_duration.seconds == 432_000
        reply = plan_pb2.PlanResponse()
        reply.results.add().send_time.FromSeconds(60)
        reply.results.add(reason=decision_pb2.REASON_OPTED_OUT)
        plan = exchange.read(reply)
        assert [each.send_time is None for each in plan] == [False, True]
        assert plan.sends[1].recipient.reference == "second"

    @pytest.mark.parametrize("view", ["", "whole"])
    def test_a_view_is_one_of_two(self, view: Any) -> None:
        with pytest.raises(errors.InvalidArgument, match="view: must be"):
            exchanges.check("a", {}, (), view)


class TestChannels:
    @pytest.mark.parametrize(
        "address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/limiter"]
    )
    def test_a_key_may_go_to_this_machine(self, address: str) -> None:
        limiter.Client(address, api_key="secret").close()

    def test_the_address_is_that_of_the_command_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LIMITER_ADDRESS", raising=False)
        assert channels.address_or_default(None) == "127.0.0.1:50051"
        monkeypatch.setenv("LIMITER_ADDRESS", "127.0.0.1:7")
        assert channels.address_or_default(None) == "127.0.0.1:7"
        assert channels.address_or_default("127.0.0.1:8") == "127.0.0.1:8"

    @pytest.mark.parametrize("address", ["192.0.2.1:1", "limits.example:1", "0.0.0.0:1"])
    @pytest.mark.parametrize("kind", [limiter.Client, limiter.AsyncClient])
    def test_a_key_does_not_travel_in_the_clear(self, kind: Any, address: str) -> None:
        with pytest.raises(ValueError, match="in the clear"):
            kind(address, api_key="secret")
        kind(address, api_key="secret", insecure=True)

    def test_halves_of_an_identity_are_refused(self) -> None:
        with pytest.raises(ValueError, match="belong together"):
            limiter.Tls(certificate_file="cert.pem")

    def test_a_key_is_a_bearer_token(self) -> None:
        assert channels.metadata("secret") == (("authorization", "Bearer secret"),)
        assert channels.metadata(None) == ()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client whose calls are answered by `answers`, one after the other; `asked` has them."""
    made = limiter.Client("127.0.0.1:1", timeout_s=5, retries=Retries(pause_s_min=0.001))
    answers: list[Any] = []
    asked: list[tuple[Any, float]] = []

    class Stub:
        def Commit(self, request: Any, timeout: float, metadata: Any) -> Any:  # noqa: N802
            asked.append((request, timeout))
            if isinstance(found := answers.pop(0), Exception):
                raise found
            return found

    monkeypatch.setattr(made, "_stub", Stub())
    yield made, answers, asked
    made.close()


class TestRepeats:
    def test_it_is_the_same_request_until_it_is_answered(self, stub: Any) -> None:
        client, answers, asked = stub
        answers += [
            Broken(unavailable()),
            Broken(errors.DeadlineExceeded("NO_REPLY", ""), with_details=False),
            Broken(overloaded(1)),
            decision_service_pb2.CommitResponse(commit_id="done"),
        ]
        assert client.commit("a", contact="c").commit_id == "done"
        assert len({request.request_id for request, _ in asked}) == 1
        assert [timeout <= 3 for _, timeout in asked] == [True] * 4

    def test_without_an_id_it_is_asked_once(self, stub: Any) -> None:
        client, answers, asked = stub
        answers += [Broken(unavailable())]
        with pytest.raises(errors.Unavailable):
            client.commit("a", contact="c", request_id="")
        ((_, timeout),) = asked
        assert 3 < timeout <= 5

    def test_what_does_not_pass_is_told_at_once(self, stub: Any) -> None:
        client, answers, asked = stub
        answers += [Broken(errors.InvalidArgument("INVALID_FIELD", "attempt.account: is odd"))]
        with pytest.raises(errors.InvalidArgument) as caught:
            client.commit("a", contact="c", request_id="r")
        assert len(asked) == 1
        assert caught.value.metadata["request_id"] == "r"
        assert isinstance(caught.value.__cause__, grpc.RpcError)

    def test_it_ends_with_the_callers_time(self, stub: Any) -> None:
        client, answers, asked = stub
        answers += [Broken(unavailable())] * 1_000
        with pytest.raises(errors.Unavailable):
            client.commit("a", contact="c", timeout_s=0.5)
        assert 2 <= len(asked) < 1_000


class TestImports:
    def test_the_package_does_without_grpc(self) -> None:
        program = "import sys, limiter; sys.exit('grpc' in sys.modules or 'google' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

    def test_everything_is_there_once_it_is_asked_for(self) -> None:
        assert set(limiter.__all__) - {"__version__"} == set(client.__all__) - {"AttemptFields"}
        assert set(limiter.__all__) <= set(dir(limiter))
        for name in limiter.__all__:
            assert getattr(limiter, name)
        with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
            limiter.Cleint  # type: ignore[attr-defined]  # noqa: B018
