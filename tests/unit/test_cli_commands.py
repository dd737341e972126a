"""Each command against a server whose answers the test decides: what is sent, printed, exited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from limiter.cli import terminal
from limiter.cli.app import app
from limiter.cli.errors import EXIT_CODES
from limiter.cli.exit_codes import MEANINGS, ExitCode
from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
)

POLICY = "policies:\n  - name: policies/a\n    limits:\n      - limitId: b\n"
CREATE = policy_service_pb2.PolicyChange(
    action=policy_service_pb2.PolicyChange.ACTION_CREATE,
    name="policies/a",
    new_policy=policy_pb2.Policy(name="policies/a", display_name="A"),
)


class Server:
    """Answers each method with what `answers` holds for it: a reply, a list of replies one after
    the other, or a status. Keeps the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[Message] = []
        self.address = ""

    def answer(self, method: str, request: Message, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        answer = self.answers[method]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(answer))
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as told")
        return answer


class Handler(grpc.GenericRpcHandler):
    """Sends every method of the two services to one Server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        _, service, method = str(handler_call_details.method).split("/")
        modules = {
            "limiter.v1.DecisionService": decision_service_pb2,
            "limiter.v1.PolicyService": policy_service_pb2,
        }
        request = getattr(modules[service], f"{method}Request")
        return grpc.unary_unary_rpc_method_handler(
            lambda message, context: self._server.answer(method, message, context),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port of this machine."""
    fake = Server()
    with futures.ThreadPoolExecutor(2) as pool:
        running = grpc.server(pool, handlers=[Handler(fake)])
        fake.address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
        running.start()
        yield fake
        running.stop(None).wait()


def run(server: Server | None, *arguments: str, answer: str = "") -> Result:
    environment = {"LIMITER_ADDRESS": server.address if server else "127.0.0.1:1"}
    return CliRunner().invoke(app, list(arguments), env=environment, input=answer)


def write(folder: Path, text: str) -> str:
    path = folder / "policy.yaml"
    path.write_text(text)
    return str(path)


def decision(outcome: decision_pb2.Outcome.ValueType) -> decision_pb2.Decision:
    return decision_pb2.Decision(outcome=outcome, reason=decision_pb2.REASON_WITHIN_LIMITS)


def plan(*changes: policy_service_pb2.PolicyChange) -> policy_service_pb2.ApplyPoliciesResponse:
    return policy_service_pb2.ApplyPoliciesResponse(changes=changes, revision=4)


def test_the_help_names_every_command_and_every_exit_code() -> None:
    found = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    assert found.exit_code == 0
    for command in ("serve", "apply", "diff", "get", "delete", "check", "commit", "usage"):
        assert f" {command} " in found.stdout
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>2}  {meaning}" in found.stdout


def test_a_check_sends_every_field_and_ends_by_the_outcome(server: Server, tmp_path: Path) -> None:
    server.answers["Check"] = decision_service_pb2.CheckResponse(
        decision=decision(decision_pb2.OUTCOME_ALLOWED)
    )
    inline = write(tmp_path, "limitId: one\n")
    values = {
        name: f"{name}-value"
        for name in (
            "account", "contact", "contact-address", "channel", "resource", "campaign", "agent",
            "team", "source", "category", "contact-time-zone",
        )
    }  # fmt: skip
    options = [part for name, value in values.items() for part in (f"--{name}", value)]
    options += ["--message-count", "3", "--inline", inline, "--limit", "5 messages in 24h"]
    found = run(server, "check", *options, "--view", "basic")
    assert found.exit_code == ExitCode.OK
    assert found.stdout.startswith("ALLOWED")
    request = server.requests[0]
    assert isinstance(request, decision_service_pb2.CheckRequest)
    for name, value in values.items():
        field = "address" if name == "contact-address" else name.replace("-", "_")
        assert getattr(request.attempt, field) == value
    assert request.attempt.message_count == 3
    assert [each.limit_id for each in request.inline_limits] == ["one", "inline-1"]
    assert request.view == decision_pb2.VIEW_BASIC


@pytest.mark.parametrize(
    ("outcome", "exit_code"),
    [
        (decision_pb2.OUTCOME_ALLOWED, ExitCode.OK),
        (decision_pb2.OUTCOME_DENIED, ExitCode.DENIED),
        (decision_pb2.OUTCOME_UNSPECIFIED, ExitCode.DENIED),
    ],
)
def test_a_commit_ends_by_the_outcome(
    server: Server, outcome: decision_pb2.Outcome.ValueType, exit_code: ExitCode
) -> None:
    server.answers["Commit"] = decision_service_pb2.CommitResponse(decision=decision(outcome))
    options = ("--account", "a", "--request-id", "r1")
    found = run(server, "commit", *options)
    assert found.exit_code == exit_code
    assert server.requests[0] == decision_service_pb2.CommitRequest(
        attempt=attempt_pb2.Attempt(account="a", message_count=1),
        view=decision_pb2.VIEW_FULL,
        request_id="r1",
    )
    as_json = run(server, "commit", *options, "-o", "json")
    assert as_json.exit_code == exit_code
    printed = json.loads(as_json.stdout)
    assert printed["decision"]["outcome"] == decision_pb2.Outcome.Name(outcome)
    assert printed["accountSequence"] == "0"
    assert printed["replayed"] is False


def test_usage(server: Server) -> None:
    response = decision_service_pb2.GetUsageResponse()
    server.answers["GetUsage"] = response
    assert run(server, "usage", "--account", "a").stdout == "No limit applies.\n"
    response.limit_statuses.add(limit_id="people", max_count=5, used_count=2, remaining_count=3)
    assert "people" in run(server, "usage", "--account", "a").stdout
    printed = json.loads(run(server, "usage", "--account", "a", "-o", "json").stdout)
    assert printed["limitStatuses"][0]["usedCount"] == "2"


def test_apply_shows_the_difference_and_applies_what_was_shown(
    server: Server, tmp_path: Path
) -> None:
    done = plan(CREATE)
    done.revision = 5
    server.answers["ApplyPolicies"] = [plan(CREATE), done]
    found = run(server, "apply", "-f", write(tmp_path, POLICY), "--prune", "--yes")
    assert found.exit_code == ExitCode.OK
    assert found.stdout.splitlines() == [
        "+ create policies/a",
        "    + displayName: A",
        "1 to create, 0 to change, 0 to delete.",
        "Applied. The policies are at revision 5.",
    ]
    first, second = server.requests
    assert isinstance(first, policy_service_pb2.ApplyPoliciesRequest)
    assert isinstance(second, policy_service_pb2.ApplyPoliciesRequest)
    assert (first.validate_only, first.prune, first.etag) == (True, True, "")
    assert (second.validate_only, second.prune, second.etag) == (False, True, "4")
    assert first.policies == second.policies


def test_apply_and_diff_change_nothing_unless_told(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, POLICY)
    server.answers["ApplyPolicies"] = plan(CREATE)
    assert run(server, "apply", "-f", file, "--dry-run").exit_code == ExitCode.OK
    assert run(server, "diff", "-f", file).exit_code == ExitCode.DIFFERENT
    nobody = run(server, "apply", "-f", file)
    assert nobody.exit_code == ExitCode.USAGE
    assert "say --yes, or --dry-run" in nobody.stderr
    server.answers["ApplyPolicies"] = plan()
    assert run(server, "diff", "-f", file).exit_code == ExitCode.OK
    same = run(server, "apply", "-f", file)
    assert same.exit_code == ExitCode.OK
    assert same.stdout == "No difference: the server has all of this already.\n"
    for request in server.requests:
        assert isinstance(request, policy_service_pb2.ApplyPoliciesRequest)
        assert request.validate_only


def test_apply_and_diff_let_history_be_partial_only_if_told(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, POLICY)
    server.answers["ApplyPolicies"] = plan(CREATE)
    for options in ([], ["--allow-partial-history"]):
        assert run(server, "apply", "-f", file, "--yes", *options).exit_code == ExitCode.OK
        assert run(server, "diff", "-f", file, *options).exit_code == ExitCode.DIFFERENT
    allowed = []
    for request in server.requests:
        assert isinstance(request, policy_service_pb2.ApplyPoliciesRequest)
        allowed.append(request.allow_partial_history)
    assert allowed == [False] * 3 + [True] * 3


def test_apply_asks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "interactive", lambda: True)
    server.answers["ApplyPolicies"] = plan(CREATE)
    file = write(tmp_path, POLICY)
    found = run(server, "apply", "-f", file, answer="n\n")
    assert found.exit_code == ExitCode.DECLINED
    assert len(server.requests) == 1
    found = run(server, "apply", "-f", file, answer="y\n")
    assert found.exit_code == ExitCode.OK
    assert len(server.requests) == 3


def test_apply_in_json_prints_only_json(server: Server, tmp_path: Path) -> None:
    server.answers["ApplyPolicies"] = plan(CREATE)
    file = write(tmp_path, POLICY)
    for options in (["--yes"], ["--dry-run"]):
        printed = json.loads(run(server, "apply", "-f", file, "-o", "json", *options).stdout)
        assert printed["changes"][0]["action"] == "ACTION_CREATE"


def test_get_reads_all_pages_of_all_parents(server: Server) -> None:
    def page(name: str, token: str) -> policy_service_pb2.ListPoliciesResponse:
        return policy_service_pb2.ListPoliciesResponse(
            policies=[policy_pb2.Policy(name=name)], next_page_token=token
        )

    server.answers["ListPolicies"] = [
        page("policies/a", "t"),
        page("policies/b", ""),
        page("c", ""),
    ]
    printed = json.loads(run(server, "get", "policies", "-o", "json").stdout)
    assert [each["name"] for each in printed["policies"]] == ["policies/a", "policies/b", "c"]
    sent = [(getattr(each, "parent", None), getattr(each, "page_token", None))
            for each in server.requests]  # fmt: skip
    assert sent == [("", ""), ("", "t"), ("accounts/-", "")]
    server.answers["ListAssignments"] = policy_service_pb2.ListAssignmentsResponse(
        assignments=[policy_pb2.Assignment(name="accounts/x/assignments/y", policy="policies/a")]
    )
    assert "policies/a" in run(server, "get", "assignments", "--account", "x").stdout
    assert getattr(server.requests[-1], "parent", None) == "accounts/x"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["policy", "a"], "policies/a"),
        (["policies", "policies/a"], "policies/a"),
        (["policy", "a", "--account", "x"], "accounts/x/policies/a"),
        (["assignment", "a"], "assignments/a"),
        (["assignments", "accounts/x/assignments/a"], "accounts/x/assignments/a"),
    ],
)
def test_get_and_delete_by_name(server: Server, arguments: list[str], name: str) -> None:
    server.answers["GetPolicy"] = policy_pb2.Policy(name=name)
    server.answers["GetAssignment"] = policy_pb2.Assignment(name=name)
    server.answers["DeletePolicy"] = server.answers["DeleteAssignment"] = empty_pb2.Empty()
    assert name in run(server, "get", *arguments).stdout
    assert json.loads(run(server, "get", *arguments, "-o", "json").stdout)["name"] == name
    assert run(server, "delete", *arguments, "--yes").exit_code == ExitCode.OK
    assert run(server, "delete", *arguments, "--dry-run").exit_code == ExitCode.OK
    assert run(server, "delete", *arguments).exit_code == ExitCode.USAGE
    assert [getattr(each, "name", None) for each in server.requests] == [name] * 4
    assert [getattr(each, "validate_only", False) for each in server.requests[2:]] == [False, True]


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each.name != "OK"])
def test_every_status_has_an_exit_code_and_no_traceback(
    server: Server, code: grpc.StatusCode
) -> None:
    server.answers["Check"] = code
    found = run(server, "check", "--account", "a")
    assert found.exit_code == EXIT_CODES.get(code, ExitCode.FAILURE)
    assert found.exit_code != ExitCode.OK
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def rich_status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def test_a_field_is_named_with_its_line_and_the_rule(server: Server, tmp_path: Path) -> None:
    file = write(tmp_path, POLICY)
    field, rule = "policies[0].limits[0].cap", "is required: say what to count"
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=field, description=rule)
    info = error_details_pb2.ErrorInfo(reason="MISSING_FIELD", metadata={"limit": "b"})
    server.answers["ApplyPolicies"] = rich_status(
        grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {rule}", info, bad
    )
    found = run(server, "apply", "-f", file)
    assert found.exit_code == ExitCode.INVALID
    assert found.stderr.splitlines() == [
        f"error: invalid argument: {field} ({file}:4): {rule}",
        "  reason MISSING_FIELD, limit b",
    ]
    bad.field_violations.add(field="prune", description="must not be")
    bad.field_violations.add(description="and 3 more")
    server.answers["ApplyPolicies"] = rich_status(
        grpc.StatusCode.INVALID_ARGUMENT, "several fields", bad
    )
    assert run(server, "apply", "-f", file).stderr.splitlines() == [
        "error: invalid argument: several fields",
        f"  {field} ({file}:4): {rule}",
        "  prune: must not be",
        "  and 3 more",
    ]


def test_other_details_are_told_once(server: Server) -> None:
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject="a", description="too many calls")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1_500)
    server.answers["Check"] = rich_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls", retry, quota
    )
    found = run(server, "check", "--account", "a")
    assert found.exit_code == ExitCode.EXHAUSTED
    assert found.stderr.splitlines() == [
        "error: resource exhausted: too many calls",
        "  try again in 2 s",
    ]
    resource = error_details_pb2.ResourceInfo(resource_type="T", resource_name="policies/a")
    server.answers["GetPolicy"] = rich_status(grpc.StatusCode.NOT_FOUND, "no such policy", resource)
    found = run(server, "get", "policy", "a")
    assert found.exit_code == ExitCode.NOT_FOUND
    assert found.stderr.splitlines() == ["error: not found: no such policy", "  T policies/a"]


def test_no_server_at_all() -> None:
    found = run(None, "usage", "--account", "a", "--timeout", "5")
    assert found.exit_code == ExitCode.UNAVAILABLE
    assert "no server answers at 127.0.0.1:1" in found.stderr
    assert "limiter serve" in found.stderr


def test_a_command_line_that_is_wrong_never_reaches_the_server(
    server: Server, tmp_path: Path
) -> None:
    for arguments in (
        ["check"],
        ["check", "--account", "a", "--limit", "some"],
        ["check", "--account", "a", "--message-count", "many"],
        ["check", "--account", "a", "--timeout", "0"],
        ["commit", "--account", "a", "--view", "half"],
        ["commit", "--account", "a", "--inline", str(tmp_path / "missing")],
        ["get", "cats"],
        ["delete", "policy"],
        ["apply"],
        ["no-such-command"],
    ):
        assert run(server, *arguments).exit_code == ExitCode.USAGE, arguments
    assert run(server, "apply", "-f", write(tmp_path, "polices: []")).exit_code == ExitCode.INVALID
    assert server.requests == []
