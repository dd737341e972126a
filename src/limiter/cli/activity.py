"""What is going on, as a person reads it: changes of usage, and the server as a whole.

In: messages of the API. Out: rich renderables; names stand in Text objects, never in markup.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from limiter.cli import render
from limiter.cli.durations import at_local, retry_in_words
from limiter.v1 import activity_pb2, attempt_pb2, decision_service_pb2

# The seconds that a rate is told of.
_RATE_SECONDS = 10


def change(message: decision_service_pb2.WatchUsageResponse) -> RenderableType:
    """How things stand for a template: one line on whether it may go, and every limit."""
    now_ms = message.time.ToMilliseconds()
    line = Text(f"{at_local(now_ms)}  ", "dim", no_wrap=True, overflow="ignore")
    if message.allowed:
        line.append("ALLOWED", "bold green")
    else:
        line.append("DENIED", "bold red")
        words = "no waiting helps"
        if message.HasField("retry_time"):
            words = retry_in_words(message.retry_time.ToMilliseconds(), now_ms)
        line.append(f"   {words}", "yellow")
    if not message.limit_statuses:
        return Group(line, Text("No limit applies."))
    return Group(line, render.statuses(message.limit_statuses, message.time))


def overview(message: activity_pb2.GetActivityResponse) -> RenderableType:
    """What the server decides, the busiest accounts, and limits that are nearly full."""
    parts: list[RenderableType] = [Text(at_local(message.time.ToMilliseconds()), "dim")]
    if message.seconds or message.decision_counts:
        parts.append(_rates(message))
    parts += [Text(""), _accounts(message), Text(""), _limits(message)]
    return Group(*parts)


def _rates(message: activity_pb2.GetActivityResponse) -> RenderableType:
    """How many decisions there were in a second, on the average of the last ones, and in all."""
    newest = message.time.seconds - _RATE_SECONDS
    late = [each for each in message.seconds if each.start_time.seconds >= newest]
    table = render.plain_table()
    table.add_column("")
    for name in ("allowed/s", "denied/s", "last minute", "since the start"):
        table.add_column(name, justify="right")
    for word, is_commit in (("commits", True), ("checks", False)):
        allowed, denied = f"allowed_{word[:-1]}_count", f"denied_{word[:-1]}_count"
        minute = sum(getattr(each, allowed) + getattr(each, denied) for each in message.seconds)
        counts = [each.count for each in message.decision_counts if each.commit == is_commit]
        table.add_row(
            word,
            f"{sum(getattr(each, allowed) for each in late) / _RATE_SECONDS:,.1f}",
            f"{sum(getattr(each, denied) for each in late) / _RATE_SECONDS:,.1f}",
            f"{minute:,}",
            f"{sum(counts):,}",
        )
    return table


def _accounts(message: activity_pb2.GetActivityResponse) -> RenderableType:
    if not message.accounts:
        return Text("No account asked within the last minute.")
    table = render.plain_table()
    table.add_column("busiest accounts", overflow="fold")
    for name in ("allowed in a minute", "denied in a minute"):
        table.add_column(name, justify="right")
    for each in message.accounts:
        more = f" (+{each.uncertain_count:,})" if each.uncertain_count else ""
        table.add_row(Text(each.account), f"{each.allowed_count:,}{more}", f"{each.denied_count:,}")
    return table


def _limits(message: activity_pb2.GetActivityResponse) -> RenderableType:
    if not message.nearly_full_limits:
        return Text("No limit of many is nearly full.")
    table = render.plain_table()
    for name in ("limits nearly full", "of"):
        table.add_column(name, overflow="fold")
    for name in ("used", "max", "left"):
        table.add_column(name, justify="right")
    table.add_column("count falls")
    for each in message.nearly_full_limits:
        status = each.limit_status
        table.add_row(
            Text(render.limit_name(status)),
            Text(_template(each.attempt)),
            f"{status.used_count:,}",
            f"{status.max_count:,}",
            f"{status.remaining_count:,}",
            Text(render.reset_in_words(status, message.time)),
        )
    return table


def _template(attempt: attempt_pb2.Attempt) -> str:
    """The fields that are given: "shop, campaign spring"."""
    fields = [(field.name, value) for field, value in attempt.ListFields()]
    return ", ".join(
        str(value) if name == "account" else f"{name} {value}" for name, value in fields
    )
