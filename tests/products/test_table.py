"""Every row of the README's tables has its test, and what a row names there is."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf.descriptor import Descriptor

from limiter.cli.app import app
from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    account_pb2,
    attempt_pb2,
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    plan_pb2,
    policy_pb2,
    policy_service_pb2,
    restriction_pb2,
    simulation_pb2,
)
from tests.products.table import ROWS, Row

FILES: tuple[Any, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        access_pb2, access_service_pb2, account_pb2, attempt_pb2, commitment_pb2, decision_pb2,
        decision_service_pb2, plan_pb2, policy_pb2, policy_service_pb2, restriction_pb2,
        simulation_pb2,
    )
)  # fmt: skip
MESSAGES = [message for file in FILES for message in file.message_types_by_name.values()]


def shown() -> Iterator[str]:
    """What each test of this folder is marked to show."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_"):
                for mark in getattr(test, "pytestmark", ()):
                    if mark.name == "shows":
                        yield mark.args[0]


def fields_of(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields} | {field.json_name for field in message.fields}


def names() -> set[str]:
    """Methods, values of enums and fields of the API."""
    methods = {
        method.name
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    values = {
        value.name
        for file in FILES
        for enum in file.enum_types_by_name.values()
        for value in enum.values
    }
    return methods | values | {name for message in MESSAGES for name in fields_of(message)}


def test_each_row_has_one_test() -> None:
    assert Counter(shown()) == Counter(list(ROWS))
    assert {row.product[:2] for row in ROWS.values()} == {"1.", "2.", "3.", "4.", "5."}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.what[:40])
def test_a_row_names_what_there_is(row: Row) -> None:
    assert row.spans
    top = {field for message in MESSAGES for field in fields_of(message)}
    commands: Any = typer.main.get_command(app)
    for span in row.spans:
        if span.startswith("limiter "):
            command, *options = span.split()[1:]
            known = {opt for each in commands.commands[command].params for opt in each.opts}
            assert {each for each in options if each.startswith("--")} <= known
        elif ": " in span:
            assert re.match(r"\w+", span).group() in top  # type: ignore[union-attr]
        else:
            assert span in names()
