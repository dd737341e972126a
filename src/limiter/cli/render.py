"""Decisions, usage, policies and assignments as a person reads them.

In: messages of the API. Out: rich renderables. What comes from a user or a server is put into Text
objects, never into markup, so that no name can change what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import timestamp_pb2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from limiter.cli.describe import (
    counted_in_words,
    enforcement_in_words,
    limit_in_words,
    reason_in_words,
    scope_in_words,
)
from limiter.cli.durations import in_table, in_words, retry_in_words
from limiter.v1 import access_pb2, decision_pb2, decision_service_pb2, policy_pb2

_LABEL_WIDTH = 10


def plain_table(*columns: str) -> Table:
    """An empty table without lines; the columns break what is too long."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def commit(response: decision_service_pb2.CommitResponse) -> RenderableType:
    """A commit: its decision, and where it stands in the account's order."""
    note = "counted before, not again" if response.replayed else "counted"
    extra = []
    if response.commit_id:
        words = f"{response.commit_id}, number {response.account_sequence} of the account, {note}"
        extra.append(_line("commit", words))
    return decision(response.decision, extra)


def decision(answer: decision_pb2.Decision, extra: Sequence[Text] = ()) -> RenderableType:
    """A decision: the outcome and why, when to try again, and every limit's status."""
    parts: list[RenderableType] = []
    if answer.outcome == decision_pb2.OUTCOME_ALLOWED:
        parts.append(_headline("ALLOWED", "bold green", answer))
        parts += extra
        parts += [_warning(each, answer) for each in answer.limit_statuses if _is_last(each)]
    else:
        parts.append(_headline("DENIED", "bold red", answer))
        parts += _denial_lines(answer)
    if answer.limit_statuses:
        parts.append(statuses(answer.limit_statuses, answer.decide_time))
    return Group(*parts)


def statuses(
    found: Sequence[decision_pb2.LimitStatus], now: timestamp_pb2.Timestamp | None = None
) -> RenderableType:
    """Where limits stand, one row each.

    When a count falls is told as the time until then where `now` is known, else as a local time.
    """
    table = plain_table("limit", "policy")
    for name in ("used", "max", "left"):
        table.add_column(name, justify="right")
    table.add_column("state")
    table.add_column("count falls")
    is_partial = any(each.HasField("counted_since_time") for each in found)
    if is_partial:
        table.add_column("counted since")
    for each in found:
        since = (
            in_table(_ms(each.counted_since_time)) if each.HasField("counted_since_time") else ""
        )
        table.add_row(
            Text(each.limit_id),
            Text(each.policy or "(inline)"),
            f"{each.used_count:,}",
            f"{each.max_count:,}",
            f"{each.remaining_count:,}",
            _state(each),
            Text(reset_in_words(each, now)),
            *([Text(since)] if is_partial else []),
        )
    return table


def policies(found: Sequence[policy_pb2.Policy]) -> RenderableType:
    """Policies, each limit on a line of its own."""
    table = plain_table("policy", "name", "limits")
    for each in found:
        lines = [f"{limit.limit_id}: {limit_in_words(limit)}" for limit in each.limits]
        limits = "\n".join(lines) or "none: unlimited"
        table.add_row(Text(each.name), Text(each.display_name), Text(limits))
    return table


def assignments(found: Sequence[policy_pb2.Assignment]) -> RenderableType:
    """Assignments, one row each."""
    rebuilding = policy_pb2.ASSIGNMENT_STATE_REBUILDING
    some_rebuild = any(each.state == rebuilding for each in found)
    state = ["state"] if some_rebuild else []
    table = plain_table("assignment", "covers", "policy", "mandatory", *state)
    for each in found:
        table.add_row(
            Text(each.name),
            Text(scope_in_words(each)),
            Text(each.policy),
            "mandatory" if each.mandatory else "",
            *(["rebuilding" if each.state == rebuilding else "active"] if some_rebuild else []),
        )
    return table


def groups(found: Sequence[access_pb2.Group]) -> RenderableType:
    """Groups of resources and campaigns, one row each."""
    table = plain_table("group", "name", "resources", "campaigns")
    for each in found:
        resources, campaigns = ", ".join(each.resources), ", ".join(each.campaigns)
        table.add_row(*map(Text, (each.name, each.display_name, resources, campaigns)))
    return table


def limit_name(status: decision_pb2.LimitStatus) -> str:
    """A limit by its id and its policy: "people-a-day of policies/hard-limit"."""
    return (
        f"{status.limit_id} of {status.policy}" if status.policy else f"{status.limit_id}, inline"
    )


def _denial_lines(answer: decision_pb2.Decision) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if answer.HasField("binding_limit"):
        binding = answer.binding_limit
        lines.append(_line("limit", limit_name(binding)))
        if binding.reason != decision_pb2.REASON_HOURS:
            counted = counted_in_words(binding.reason)
            words = f"{binding.used_count:,} of {binding.max_count:,} {counted} used"
            lines.append(_line("count", f"{words}, {binding.remaining_count:,} left"))
    if answer.HasField("retry_time"):
        retry_ms, decide_ms = _ms(answer.retry_time), _ms(answer.decide_time)
        lines.append(_line("way out", retry_in_words(retry_ms, decide_ms), "yellow"))
    else:
        words = "no waiting helps: these limits never let this attempt pass"
        if answer.reason in (decision_pb2.REASON_POLICY_REQUIRED, decision_pb2.REASON_OPTED_OUT):
            words = "no waiting helps"
        lines.append(_line("way out", words, "yellow"))
    return lines


def _warning(status: decision_pb2.LimitStatus, answer: decision_pb2.Decision) -> Text:
    words = f"with this one {limit_name(status)} is full: {status.used_count:,} of "
    words += f"{status.max_count:,}"
    if status.HasField("reset_time"):
        reset_ms = _ms(status.reset_time)
        words += f"; its count falls in {in_words(reset_ms - _ms(answer.decide_time))}"
    return _line("warning", words, "yellow")


def _is_last(status: decision_pb2.LimitStatus) -> bool:
    """Whether an allowed attempt leaves nothing of an enforced limit."""
    return (
        status.enforcement == policy_pb2.ENFORCEMENT_ENFORCED
        and status.reason == decision_pb2.REASON_WITHIN_LIMITS
        and status.remaining_count == 0
        and not _is_hours(status)
    )


def _is_hours(status: decision_pb2.LimitStatus) -> bool:
    """Whether the limit is one of hours: nothing else lets anything pass that counts up to 0."""
    return status.reason == decision_pb2.REASON_HOURS or (
        status.reason == decision_pb2.REASON_WITHIN_LIMITS and status.max_count == 0
    )


def _state(status: decision_pb2.LimitStatus) -> Text:
    if status.reason == decision_pb2.REASON_NOT_EVALUATED:
        return Text("a field is missing", "dim")
    if _is_hours(status) and status.enforcement == policy_pb2.ENFORCEMENT_ENFORCED:
        return Text("closed", "red") if status.exceeded else Text("open", "green")
    if status.enforcement == policy_pb2.ENFORCEMENT_GOAL:
        percent = 100 * status.used_count // status.max_count if status.max_count else 100
        return Text(f"goal, {percent} % reached", "cyan")
    if status.exceeded and status.enforcement == policy_pb2.ENFORCEMENT_SHADOW:
        return Text("shadow, would deny", "cyan")
    if status.exceeded:
        return Text("does not fit", "red")
    if status.enforcement != policy_pb2.ENFORCEMENT_ENFORCED:
        return Text(enforcement_in_words(status.enforcement), "cyan")
    return Text("fits", "green") if status.remaining_count else Text("full", "yellow")


def reset_in_words(status: decision_pb2.LimitStatus, now: timestamp_pb2.Timestamp | None) -> str:
    """When the count falls, if it stands at anything: as a time until then, or a local time."""
    if not status.HasField("reset_time"):
        return ""
    if now is not None:
        return f"in {in_words(_ms(status.reset_time) - _ms(now))}"
    return in_table(_ms(status.reset_time))


def _headline(word: str, style: str, answer: decision_pb2.Decision) -> Text:
    return _unwrapped((word.ljust(_LABEL_WIDTH), style), (reason_in_words(answer.reason), ""))


def _line(label: str, words: str, style: str = "") -> Text:
    return _unwrapped((label.ljust(_LABEL_WIDTH), "bold"), (words, style))


def _unwrapped(*parts: tuple[str, str]) -> Text:
    """One line, however long: the terminal wraps it better than we could."""
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


def _ms(time: timestamp_pb2.Timestamp) -> int:
    return time.ToMilliseconds()
