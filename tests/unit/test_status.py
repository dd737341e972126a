from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from limiter import errors
from limiter.service.authorization import Gate
from limiter.service.status import abort, handlers, to_status

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]


def details(status: status_pb2.Status) -> dict[str, Message]:
    """The details by the name of their type; each type at most once."""
    found: dict[str, Message] = {}
    for detail in status.details:
        name = detail.TypeName().rsplit(".", 1)[-1]
        assert name not in found
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message)
        found[name] = message
    return found


class TestToStatus:
    @pytest.mark.parametrize(
        ("error_type", "code"),
        [
            (errors.InvalidArgument, code_pb2.INVALID_ARGUMENT),
            (errors.NotFound, code_pb2.NOT_FOUND),
            (errors.AlreadyExists, code_pb2.ALREADY_EXISTS),
            (errors.Aborted, code_pb2.ABORTED),
            (errors.FailedPrecondition, code_pb2.FAILED_PRECONDITION),
            (errors.ResourceExhausted, code_pb2.RESOURCE_EXHAUSTED),
            (errors.Unavailable, code_pb2.UNAVAILABLE),
            (errors.DataLoss, code_pb2.DATA_LOSS),
            (errors.LimiterError, code_pb2.INTERNAL),
        ],
    )
    def test_each_fault_has_its_code(
        self, error_type: type[errors.LimiterError], code: int
    ) -> None:
        status = to_status(error_type("SOME_REASON", "what is wrong", metadata={"account": "a1"}))
        assert status.code == code
        assert status.message == "what is wrong"
        info = details(status)["ErrorInfo"]
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("SOME_REASON", "limiter.v1")
        assert dict(info.metadata) == {"account": "a1"}

    def test_every_fault_is_in_the_table_above(self) -> None:
        for error_type in errors.LimiterError.__subclasses__():
            assert code_pb2.Code.Value(error_type.code) > 0

    def test_fields_that_break_a_rule_are_named(self) -> None:
        status = to_status(
            errors.InvalidArgument(
                "INVALID_FIELD",
                "two fields",
                violations=[
                    errors.FieldViolation("attempt.account", "is required"),
                    errors.FieldViolation("attempt.contact", "is too long"),
                ],
            )
        )
        bad = details(status)["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        assert [(each.field, each.description) for each in bad.field_violations] == [
            ("attempt.account", "is required"),
            ("attempt.contact", "is too long"),
        ]

    def test_a_time_to_retry_is_given(self) -> None:
        status = to_status(errors.ResourceExhausted("OVERLOADED", "busy", retry_after_ms=1_250))
        retry = details(status)["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() == 1_250

    def test_an_exhausted_quota_names_its_account(self) -> None:
        status = to_status(
            errors.ResourceExhausted("TOO_MANY_KINDS", "65 kinds", metadata={"account": "a1"})
        )
        quota = details(status)["QuotaFailure"]
        assert isinstance(quota, error_details_pb2.QuotaFailure)
        assert [(each.subject, each.description) for each in quota.violations] == [
            ("a1", "65 kinds")
        ]

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("policies/p1", "limiter.v1.Policy"),
            ("accounts/a1/policies/p1", "limiter.v1.Policy"),
            ("accounts/a1/assignments/x", "limiter.v1.Assignment"),
            ("nonsense", ""),
        ],
    )
    def test_a_resource_is_named(self, name: str, kind: str) -> None:
        status = to_status(errors.NotFound("NOT_FOUND", "none", metadata={"resource": name}))
        resource = details(status)["ResourceInfo"]
        assert isinstance(resource, error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == (kind, name)

    def test_nothing_unset_is_sent(self) -> None:
        status = to_status(errors.Unavailable("DRAINING", "stopping"))
        assert set(details(status)) == {"ErrorInfo"}

    def test_what_is_left_out_is_counted(self) -> None:
        violations = [
            errors.FieldViolation(f"recipients[{number}].contact", "is longer than 256 bytes")
            for number in range(10_000)
        ]
        status = to_status(errors.InvalidArgument("INVALID_FIELD", "x", violations=violations))
        bad = details(status)["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        kept = len(bad.field_violations) - 1
        assert kept > 10
        assert bad.field_violations[-1].description == f"and {10_000 - kept} more"
        assert bad.field_violations[kept - 1].field == f"recipients[{kept - 1}].contact"

    @given(
        st.text(max_size=4_000),
        st.lists(
            st.tuples(st.text(max_size=2_000), st.text(max_size=2_000)), min_size=1, max_size=30
        ),
        st.dictionaries(st.sampled_from(["account", "resource", "limit"]), st.text(max_size=2_000)),
    )
    def test_it_always_fits_into_metadata(
        self, message: str, fields: list[tuple[str, str]], metadata: dict[str, str]
    ) -> None:
        violations = [errors.FieldViolation(*field) for field in fields]
        error = errors.ResourceExhausted(
            "REASON", message, violations=violations, metadata=metadata, retry_after_ms=1
        )
        status = to_status(error)
        # Base64 of the details, and the message again, each byte outside ASCII as three.
        size = status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3
        assert status.ByteSize() < 6_000
        assert size < 12_000
        bad = details(status)["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        assert bad.field_violations

    def test_broken_text_does_not_break_the_status(self) -> None:
        status = to_status(errors.InvalidArgument.for_field("a\ud800", "b\udfff"))
        assert status.message == "a?: b?"
        assert status_pb2.Status.FromString(status.SerializeToString()) == status


class Servicer:
    """Answers as its `outcome` says."""

    outcome: BaseException | None = None

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.outcome is not None:
            raise self.outcome
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        if self.outcome is not None:
            raise self.outcome


# Asks nobody who he is.
OPEN = Gate(demanded=False)


class Wire:
    """A server with the guarded servicer, and a client."""

    async def __aenter__(self) -> Wire:
        self.servicer = Servicer()
        self.server = grpc.aio.server()
        made = handlers(lambda: self.servicer, HEALTH, Servicer, OPEN)
        self.server.add_registered_method_handlers(HEALTH.full_name, made)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop(None)

    async def fault(self, method: str, request: bytes = b"") -> grpc.aio.AioRpcError:
        """What the call of a method that fails ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.replies(method, request)
        return caught.value

    async def replies(self, method: str, request: bytes = b"") -> list[bytes]:
        """All replies of a call to a method."""
        path = f"/{HEALTH.full_name}/{method}"
        if method == "Check":
            unary: Any = self.channel.unary_unary(path)
            return [await unary(request)]
        stream: Any = self.channel.unary_stream(path)
        return [reply async for reply in stream(request)]


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    raise AssertionError("no details")


@pytest.mark.parametrize("method", ["Check", "Watch"])
class TestHandlers:
    async def test_a_fault_arrives_with_its_details(self, method: str) -> None:
        async with Wire() as wire:
            wire.servicer.outcome = errors.InvalidArgument.for_field("attempt", "is required é%")
            error = await wire.fault(method)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "attempt: is required é%"
        status = status_of(error)
        assert (status.code, status.message) == (code_pb2.INVALID_ARGUMENT, error.details())
        assert set(details(status)) == {"ErrorInfo", "BadRequest"}

    async def test_the_unforeseen_is_logged_and_hidden(
        self, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Wire() as wire:
            wire.servicer.outcome = KeyError("secret of the house")
            error = await wire.fault(method)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(error.details())
        info = details(status_of(error))["ErrorInfo"]
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert info.reason == "INTERNAL"
        assert "secret" not in str(info)
        incident = info.metadata["incident"]
        assert incident in str(error.details())
        logged = [record for record in caplog.records if record.name == "limiter.service.status"]
        assert [record.levelno for record in logged] == [logging.ERROR]
        assert incident in logged[0].getMessage()
        # Where it came from; what of it is shown is the log's business.
        assert logged[0].exc_info is not None
        assert str(logged[0].exc_info[1]) == "'secret of the house'"

    @pytest.mark.parametrize("request_bytes", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x07"])
    async def test_bytes_that_are_no_request_are_the_callers_fault(
        self, method: str, request_bytes: bytes
    ) -> None:
        async with Wire() as wire:
            error = await wire.fault(method, request_bytes)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        info = details(status_of(error))["ErrorInfo"]
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert info.reason == "MALFORMED_REQUEST"
        assert "grpc.health.v1.HealthCheckRequest" in str(error.details())

    async def test_a_call_that_goes_well_is_left_alone(self, method: str) -> None:
        async with Wire() as wire:
            (reply,) = await wire.replies(method)
        assert health_pb2.HealthCheckResponse.FromString(reply).status == 1

    async def test_the_largest_status_reaches_the_client(self, method: str) -> None:
        async with Wire() as wire:
            wire.servicer.outcome = errors.InvalidArgument(
                "INVALID_FIELD",
                "é" * 10_000,
                violations=[errors.FieldViolation("ü" * 3_000, "ö" * 3_000)] * 1_000,
                metadata={"account": "ä" * 3_000},
            )
            error = await wire.fault(method)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert set(details(status_of(error))) == {"ErrorInfo", "BadRequest"}


class RecordingContext:
    """A context that records how it was aborted, as the real one does: by raising."""

    def __init__(self) -> None:
        self.aborted: list[tuple[Any, ...]] = []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    async def abort(self, *arguments: Any) -> None:
        self.aborted.append(arguments)
        raise grpc.aio.AbortError


class TestAbort:
    @pytest.mark.parametrize(
        "error", [asyncio.CancelledError(), KeyboardInterrupt(), grpc.aio.AbortError()]
    )
    async def test_what_is_no_fault_passes(self, error: BaseException) -> None:
        context: Any = RecordingContext()
        with pytest.raises(type(error)):
            await abort(context, error)
        assert context.aborted == []

    async def test_the_details_are_those_of_grpcio_status(self) -> None:
        context: Any = RecordingContext()
        error = errors.NotFound("NOT_FOUND", "none", metadata={"resource": "policies/p"})
        with pytest.raises(grpc.aio.AbortError):
            await abort(context, error)
        expected: Any = rpc_status.to_status(to_status(error))
        assert context.aborted == [
            (expected.code, expected.details, expected.trailing_metadata),
        ]

    def test_what_the_servicer_does_not_have_is_not_served(self) -> None:
        class Checker:
            async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
                raise NotImplementedError

        assert set(handlers(Checker, HEALTH, Checker, OPEN)) == {"Check"}

    def test_all_that_the_servicer_has_is_guarded(self) -> None:
        made = handlers(Servicer, HEALTH, Servicer, OPEN)
        assert set(made) == {"Check", "Watch"}
        assert [name for name in made if made[name].response_streaming] == ["Watch"]

    async def test_the_servicer_is_asked_for_at_each_call(self) -> None:
        def absent() -> Servicer:
            raise errors.Unavailable("JOURNAL_UNAVAILABLE", "no servicer now")

        context: Any = RecordingContext()
        check: Any = handlers(absent, HEALTH, Servicer, OPEN)["Check"].unary_unary
        with pytest.raises(grpc.aio.AbortError):
            await check(b"", context)
        assert context.aborted[0][:2] == (grpc.StatusCode.UNAVAILABLE, "no servicer now")
