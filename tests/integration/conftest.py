"""The transport of a module's servers: the default one, or each in turn under `transports.BOTH`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import transports


@pytest.fixture(scope="module", autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    name = getattr(request, "param", transports.current())
    with transports.served_by(name):
        yield name
