"""Nothing that a server tells of itself names anybody: neither whom messages go to nor what callers
call them, whatever they send and whatever breaks.

The servers run with every log at its most talkative. Whatever a caller may call somebody is the
same long text, so that it is nowhere by chance; ids of accounts may be told, and are others.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from limiter.v1 import (
    account_pb2,
    attempt_pb2,
    commitment_pb2,
    policy_service_pb2,
    restriction_pb2,
)
from limiter.v1 import decision_service_pb2 as decisions
from tests.integration import process, transports
from tests.integration.access_requests import REQUESTS, SERVICES
from tests.integration.process import ServerProcess
from tests.integration.requests import assign, cap, commit_request
from tests.integration.spans import Collector, collecting
from tests.integration.test_metrics import page_of

pytestmark = transports.BOTH

# In whatever a caller may say; long, so that it is not there by chance.
SECRET: Final = "5f0e9c1d-nobody-may-read-this"

# A server whose logs tell all they can, and in which what a file is named after breaks: with
# exceptions that quote whom it is about, as those of libraries do.
_PROGRAM: Final = """
import asyncio, json, logging, os, sys
from pathlib import Path
from limiter import logs
from limiter.people_store import PeopleStore
from limiter.restriction_store import RestrictionStore
from limiter.service.commitment import CommitmentServicer
from limiter.service.plan import PlanServicer
from limiter.store import LmdbJournal
from tests.integration.forking import run

logs.configure.__defaults__ = (logging.DEBUG,)
faults = Path(os.environ["FAULTS"])

def breaking(owner, name, fault, make):
    whole = getattr(owner, name)
    def broken(self, *arguments):
        if (faults / fault).exists():
            logging.getLogger("tests").debug("a fault")
            raise make(arguments)
        return whole(self, *arguments)
    setattr(owner, name, broken)

def callback(what):
    raise KeyError(what)

def unwatched(arguments):
    loop = asyncio.get_running_loop()
    loop.call_soon(callback, str(arguments[0]))
    loop.create_task(fail(str(arguments[0])))
    return LookupError(str(arguments[0]))

async def fail(what):
    raise KeyError(what)

breaking(LmdbJournal, "append", "journal", lambda _: OSError(28, "No space left on device"))
breaking(RestrictionStore, "write", "restrictions", lambda rows: ValueError(list(rows[0])))
breaking(PeopleStore, "write", "people", lambda changes: ValueError(list(changes[0])))
breaking(PlanServicer, "Plan", "plan", lambda request: RuntimeError(request))
breaking(CommitmentServicer, "Cancel", "cancel", unwatched)
sys.exit(run(json.loads(sys.argv[1])))
"""


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files break what they are named after, in servers started meanwhile."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setenv("GRPC_VERBOSITY", "debug")
    monkeypatch.setattr(process, "_PROGRAM", _PROGRAM)
    return folder


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Takes the spans of servers that are started meanwhile."""
    with collecting(monkeypatch) as found:
        yield found


def put_secret(message: Any, value: str, everywhere: bool) -> None:
    """Puts a text where a request has a name of somebody; or into every text, however deep."""
    for field in message.DESCRIPTOR.fields:
        is_list = field.is_repeated
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                continue
            if is_list:
                for each in getattr(message, field.name):
                    put_secret(each, value, everywhere)
            elif message.HasField(field.name):
                put_secret(getattr(message, field.name), value, everywhere)
        elif (
            field.type == FieldDescriptor.TYPE_STRING
            and not is_list
            and (everywhere or getattr(message, field.name) in {"ada", "r"})
        ):
            setattr(message, field.name, value)


def call_raw(server: ServerProcess, path: str, request: bytes, **options: Any) -> None:
    """One call, as a stream for which a single reply is enough, whatever comes of it."""
    call: Any = server.channel.unary_stream(path)
    replies = call(request, timeout=20, **options)
    try:
        next(iter(replies), None)
    except grpc.RpcError:
        pass
    finally:
        replies.cancel()


def call_every_method(server: ServerProcess) -> None:
    """Sound requests about somebody, requests of nothing but names, ones that are too long, and
    bytes that are none."""
    for service in SERVICES:
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            for value, everywhere in ((SECRET, False), (SECRET, True), (SECRET * 20, False)):
                request: Message = REQUESTS[method.name]("a")
                put_secret(request, value, everywhere)
                call_raw(server, path, request.SerializeToString())
            call_raw(server, path, SECRET.encode())
            call_raw(server, f"{path}{SECRET}", b"", metadata=(("x-secret", SECRET),))


def live_through_everything(server: ServerProcess) -> None:
    """Somebody's messages as they go: allowed, denied, held, cancelled, planned, opted out."""
    assign(server, "a", cap(2))
    sent = {"address": SECRET, "channel": SECRET, "resource": SECRET, "agent": SECRET}
    for number in range(4):
        whom = f"{SECRET}-{number}"
        server.decisions.Commit(commit_request("a", whom, request_id=whom, **sent))
    held = commit_request("b", SECRET, request_id=SECRET)
    held.hold_duration.FromSeconds(60)
    server.decisions.Commit(held)
    server.decisions.Confirm(commitment_pb2.ConfirmRequest(account="b", request_id=SECRET))
    server.decisions.Cancel(commitment_pb2.CancelRequest(account="b", request_id=SECRET))
    with pytest.raises(grpc.RpcError):
        server.decisions.Commit(commit_request("b", SECRET, request_id=SECRET))
    recipients = [
        decisions.Recipient(contact=f"{SECRET}{number}", address=SECRET, reference=SECRET)
        for number in range(5)
    ]
    batch = decisions.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="a"), recipients=recipients, request_id=SECRET
    )
    server.decisions.CommitBatch(batch)
    people = [account_pb2.Suppression(contact=SECRET), account_pb2.Suppression(address=SECRET)]
    server.policies.AddSuppressions(
        policy_service_pb2.AddSuppressionsRequest(parent="accounts/a", suppressions=people)
    )
    server.decisions.Commit(commit_request("a", SECRET))
    stream = [commit_request("a", SECRET), commit_request("a/", SECRET)]
    with pytest.raises(grpc.RpcError):
        list(server.decisions.CommitStream(iter(stream)))
    found = server.decisions.ListRestrictions(restriction_pb2.ListRestrictionsRequest(account="a"))
    assert any(SECRET in each.attempt.contact for each in found.restrictions)
    for who in (
        policy_service_pb2.ForgetContactRequest(name="accounts/a", contact=f"{SECRET}-2"),
        policy_service_pb2.ForgetContactRequest(name="accounts/a", address=SECRET),
    ):
        assert server.policies.ForgetContact(who).restriction_count


def send_odd_bytes(server: ServerProcess) -> None:
    """What is no gRPC, and connections that end in the middle of it."""
    host, _, port = server.address.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for data in (
        f"GET /{SECRET} HTTP/1.1\r\nx-secret: {SECRET}\r\n\r\n".encode(),
        SECRET.encode(),
        preface + b"\x00\x00\x10\x00\x00\x00\x00\x00\x01" + SECRET.encode(),
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(data)
            connection.settimeout(2)
            try:
                while connection.recv(4_096):
                    pass
            except (TimeoutError, ConnectionError):
                pass


def until(server: ServerProcess, words: str) -> None:
    """Returns once the log has these."""
    end_s = time.monotonic() + process.PATIENCE_S
    while words not in server.log:
        assert time.monotonic() < end_s, server.log
        time.sleep(0.02)


def break_everything(server: ServerProcess, faults: Path) -> None:
    """Each fault on the way of a call that is about somebody."""

    def broken(fault: str, call: Callable[[], object], words: str) -> None:
        file = faults / fault
        file.touch()
        with contextlib.suppress(grpc.RpcError):
            call()
        until(server, words)
        file.unlink()

    def raw(method: str) -> Callable[[], None]:
        request = REQUESTS[method]("a")
        put_secret(request, SECRET, False)
        (service,) = [each for each in SERVICES if method in each.methods_by_name]
        path = f"/{service.full_name}/{method}"
        return lambda: call_raw(server, path, request.SerializeToString())

    broken("plan", raw("Plan"), "RuntimeError (")
    broken("cancel", raw("Cancel"), "LookupError (")
    until(server, "Exception in callback")
    broken("people", raw("AddSuppressions"), "self._people.put(")
    denied = commit_request("a", f"{SECRET} again")
    broken("restrictions", lambda: server.decisions.Commit(denied), "counted only")
    broken(
        "journal",
        lambda: server.decisions.Commit(commit_request("c", SECRET, request_id=SECRET)),
        "journal failed",
    )
    until(server, "journal available again")


def test_whatever_happens_nobody_is_named(
    tmp_path: Path, faults: Path, collector: Collector
) -> None:
    settings: dict[str, Any] = {"metrics_port": "0", "traces": True, "mend_delay_s": 0.05}
    with ServerProcess(tmp_path / "data", **settings) as server:
        live_through_everything(server)
        call_every_method(server)
        send_odd_bytes(server)
        with contextlib.suppress(grpc.RpcError):
            server.decisions.Commit(commit_request("a", SECRET), timeout=0)
        break_everything(server, faults)
        server.decisions.Commit(commit_request("d", SECRET))
        page = page_of(server)
        assert server.terminate() == 0
        assert "level=debug" in server.log
        assert server.log.count("internal error") >= 3
        told = {"log": server.log.encode(), "metrics": page}
    told["spans"] = b"".join(each.SerializeToString() for each in collector.requests)
    assert len(collector.spans) > 100
    for where, text in told.items():
        assert SECRET.encode() not in text, where


def test_wrong_keys_are_not_told_either(tmp_path: Path, faults: Path) -> None:
    with ServerProcess(tmp_path / "data", require_keys=True) as server:
        for shown in (SECRET, f"Bearer {SECRET}", f"Bearer lk_{SECRET}"):
            for method in ("DecisionService/Check", "PolicyService/ListPolicies"):
                metadata = (("authorization", shown),)
                call_raw(server, f"/limiter.v1.{method}", b"", metadata=metadata)
        assert server.terminate() == 0
        assert "operator" in server.log
        assert SECRET not in server.log
