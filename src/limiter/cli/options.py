"""The options that commands share, each group one dataclass.

`expand_options` lets a command take such a group as one parameter: on the command line every field
of the group is an option of its own, and the command gets the group filled in.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from limiter.v1 import attempt_pb2

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0

Result = TypeVar("Result")


class OutputFormat(StrEnum):
    """Whom the output is for."""

    TABLE = "table"
    JSON = "json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Where the server is, how long to wait for it and how to print what it says."""

    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar="LIMITER_ADDRESS",
            metavar="HOST:PORT",
            help="Where the server listens.",
            rich_help_panel="Connection and output",
        ),
    ] = DEFAULT_ADDRESS
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            envvar="LIMITER_TLS_CA",
            metavar="FILE",
            help="Speak TLS, with a server whose certificate is of this authority (PEM).",
            rich_help_panel="Connection and output",
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            envvar="LIMITER_TLS_CERT",
            metavar="FILE",
            help="Speak TLS, and show the server this certificate (PEM).",
            rich_help_panel="Connection and output",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(
            "--tls-key",
            envvar="LIMITER_TLS_KEY",
            metavar="FILE",
            help="The key of that certificate (PEM).",
            rich_help_panel="Connection and output",
        ),
    ] = None
    api_key: Annotated[
        str,
        typer.Option(
            "--api-key",
            envvar="LIMITER_API_KEY",
            metavar="KEY",
            help="The key to show, or @FILE with it.",
            rich_help_panel="Connection and output",
        ),
    ] = ""
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            max=86_400.0,
            help="How long to wait for the whole command's answer.",
            rich_help_panel="Connection and output",
        ),
    ] = DEFAULT_TIMEOUT_S
    output: Annotated[
        OutputFormat,
        typer.Option(
            "--output",
            "-o",
            help="A table for people, or the reply in canonical JSON for programs.",
            rich_help_panel="Connection and output",
        ),
    ] = OutputFormat.TABLE

    @property
    def json(self) -> bool:
        """Whether the output is for a program."""
        return self.output is OutputFormat.JSON


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TemplateOptions:
    """What attempts to several contacts share: what is about to be sent, and by whom."""

    account: Annotated[str, typer.Option("--account", help="The sending tenant.")]
    channel: Annotated[
        str, typer.Option("--channel", help="The kind of carriage: sms, email, push, ...")
    ] = ""
    resource: Annotated[str, typer.Option("--resource", help="The site or app that sends.")] = ""
    campaign: Annotated[str, typer.Option("--campaign", help="The campaign.")] = ""
    agent: Annotated[str, typer.Option("--agent", help="The human or bot that sends.")] = ""
    team: Annotated[str, typer.Option("--team", help="The agent's team.")] = ""
    source: Annotated[
        str, typer.Option("--source", help="What caused the message: queue, manual, ...")
    ] = ""
    category: Annotated[
        str, typer.Option("--category", help="What it is for: marketing, transactional, ...")
    ] = ""
    message_count: Annotated[
        int, typer.Option("--message-count", help="How many messages go in one attempt.")
    ] = 1

    def message(self) -> attempt_pb2.Attempt:
        """The attempt as the API has it."""
        return attempt_pb2.Attempt(**dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOptions(TemplateOptions):
    """The attempt: what is about to be sent, by whom and to whom."""

    contact: Annotated[str, typer.Option("--contact", help="The person written to.")] = ""
    contact_address: Annotated[
        str,
        typer.Option(
            "--contact-address", help="The contact point written to, such as a phone number."
        ),
    ] = ""
    contact_time_zone: Annotated[
        str, typer.Option("--contact-time-zone", help="Where the contact lives: Europe/Berlin, ...")
    ] = ""

    def message(self) -> attempt_pb2.Attempt:
        """The attempt as the API has it."""
        fields = dataclasses.asdict(self)
        fields["address"] = fields.pop("contact_address")
        return attempt_pb2.Attempt(**fields)


def expand_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Turns each parameter of `command` whose type is a dataclass into one parameter a field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    expanded: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if not dataclasses.is_dataclass(hint):
            plain = parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)
            expanded[name] = plain
            continue
        groups[name] = hint
        for field in dataclasses.fields(hint):
            expanded[field.name] = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if field.default is dataclasses.MISSING
                else field.default,
                annotation=get_type_hints(hint, include_extras=True)[field.name],
            )

    @functools.wraps(command)
    def call(**values: Any) -> Result:
        for name, group in groups.items():
            fields = {each.name: values.pop(each.name) for each in dataclasses.fields(group)}
            values[name] = group(**fields)
        return command(**values)

    call.__signature__ = inspect.Signature(list(expanded.values()))  # type: ignore[attr-defined]
    call.__annotations__ = {name: each.annotation for name, each in expanded.items()}
    return call
