"""Spans of calls, as a collector gets them from a running server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from limiter import errors, traces
from limiter.v1 import decision_service_pb2, policy_service_pb2
from tests.integration import transports
from tests.integration.inside import refused
from tests.integration.process import PATIENCE_S, ServerProcess
from tests.integration.requests import cap, commit_request
from tests.integration.spans import Collector, collecting

pytestmark = transports.BOTH

# A caller's span, by W3C's Trace Context: version, trace, span, and whether it is sampled.
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that servers send to which are started meanwhile."""
    with collecting(monkeypatch) as found:
        yield found


def attributes(span: Any) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def sampled(value: str = SAMPLED) -> tuple[tuple[str, str], ...]:
    return (("traceparent", value),)


def test_calls_have_spans(tmp_path: Path, collector: Collector) -> None:
    with ServerProcess(tmp_path / "data", traces=True) as server:
        request = policy_service_pb2.ApplyPoliciesRequest()
        request.policies.add(name="policies/p").limits.append(cap(1))
        request.assignments.add(name="assignments/p", policy="policies/p")
        server.policies.ApplyPolicies(request, metadata=sampled())
        for contact in ("secret-1", "secret-2"):
            server.decisions.Commit(commit_request("who@example.org", contact), metadata=sampled())
        with pytest.raises(grpc.RpcError):
            server.decisions.Check(
                decision_service_pb2.CheckRequest(), metadata=sampled("not a trace")
            )
        with pytest.raises(grpc.RpcError):
            server.policies.GetPolicy(
                policy_service_pb2.GetPolicyRequest(name="policies/secret"), metadata=sampled()
            )
        stream = server.decisions.CommitStream(
            iter([commit_request("other", "secret")]), metadata=sampled()
        )
        assert len(list(stream)) == 1
        server.decisions.Commit(commit_request("a", "secret"), metadata=sampled(NOT_SAMPLED))
        server.decisions.Commit(commit_request("b", "secret"))
    spans = collector.spans
    service = "limiter.v1.DecisionService"
    assert [span.name for span in spans] == [
        "limiter.v1.PolicyService/ApplyPolicies",
        f"{service}/Commit",
        f"{service}/Commit",
        f"{service}/Check",
        "limiter.v1.PolicyService/GetPolicy",
        f"{service}/CommitStream",
        f"{service}/Commit",
    ]
    is_child = [span.trace_id.hex() == TRACE for span in spans]
    assert is_child == [True, True, True, False, True, True, False]
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in spans)
    assert {span.kind for span in spans} == {trace_pb2.Span.SPAN_KIND_SERVER}
    codes = [attributes(span)["rpc.grpc.status_code"] for span in spans]
    assert codes == [0, 0, 0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 5, 0, 0]
    failed = [span.status.code == trace_pb2.Status.STATUS_CODE_ERROR for span in spans]
    assert failed == [code != 0 for code in codes]
    assert attributes(spans[1])["rpc.service"] == service
    assert attributes(spans[1])["rpc.method"] == "Commit"
    if transports.current() == "native":
        decided = [
            (attributes(span)["limiter.outcome"], attributes(span)["limiter.reason"])
            for span in spans[1:3]
        ]
        assert decided == [("ALLOWED", "WITHIN_LIMITS"), ("DENIED", "CONTACT_CAP")]
    sent = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"limiter" in sent
    assert b"secret" not in sent
    assert b"who@" not in sent


def test_a_client_that_goes_away_ends_its_span(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    gone = threading.Event()

    def requests() -> Iterator[decision_service_pb2.CommitRequest]:
        yield commit_request("a", "c")
        gone.wait()

    with ServerProcess(tmp_path / "data", traces=True) as server:
        stream = server.decisions.CommitStream(requests(), metadata=sampled())
        assert next(stream).commit_id
        stream.cancel()
        gone.set()
        # While the server still runs: it is not its end that ends the span.
        deadline_s = time.monotonic() + PATIENCE_S
        while not collector.spans and time.monotonic() < deadline_s:
            time.sleep(0.05)
        (span,) = collector.spans
    code = attributes(span)["rpc.grpc.status_code"]
    # grpc.aio may tell the handler of the end of the requests before it tells why.
    assert code == 1 or (code == 0 and transports.current() == "grpcio")


def test_traces_without_a_collector_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with ServerProcess(tmp_path / "data") as server:
        assert server.decisions.Commit(commit_request("a", "c")).commit_id
        assert server.terminate() == 0
        assert "Failed to export" in server.log or "last spans" in server.log, server.log


async def test_what_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    fault = await refused(tmp_path / "data", traces=True)
    assert fault.reason == "TRACES_NOT_INSTALLED"
    assert "pip install 'limiter[traces]'" in fault.message


def test_the_environment_may_ask_for_traces() -> None:
    assert traces.wanted(True, {})
    assert traces.wanted(False, {"OTEL_TRACES_EXPORTER": "otlp"})
    assert not traces.wanted(False, {"OTEL_TRACES_EXPORTER": "none"})
    # Where a collector is says nothing about whether one wants to send to it.
    assert not traces.wanted(False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"})
    with pytest.raises(errors.InvalidArgument, match="zipkin"):
        traces.wanted(True, {"OTEL_TRACES_EXPORTER": "zipkin"})


def test_where_tracing_is_off_nothing_of_it_is_there() -> None:
    program = "import sys, limiter.server; print([m for m in sys.modules if 'telemetry' in m])"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
