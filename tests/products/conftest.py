"""One server for all products, and an account of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.process import START_MS, ServerProcess
from tests.products.account import Account
from tests.products.table import ROWS, Row


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("products") / "data"
    with ServerProcess(folder, clock_start_ms=START_MS) as running:
        yield running


@pytest.fixture
def account(server: ServerProcess, request: pytest.FixtureRequest) -> Account:
    return Account(server, request.node.name.removeprefix("test_").replace("_", "-"))


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The row of the README that the test shows."""
    marker = request.node.get_closest_marker("shows")
    assert marker is not None
    return ROWS[marker.args[0]]
