"""One story, told by a client in each language to a server of each transport.

`make clients` installs what they need and runs this; `make test` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.languages import LANGUAGES, SOURCES, Language
from tests.integration.process import START_MS, ServerProcess

pytestmark = pytest.mark.clients

STORY = (SOURCES / "story.txt").read_text()


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("clients") / "data"
    with ServerProcess(folder, transport=request.param, clock_start_ms=START_MS) as running:
        yield running


@pytest.fixture(scope="session", params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest) -> Language:
    """A client that is built; skips where its tools are missing."""
    found: Language = request.param
    if missing := found.missing():
        pytest.skip(f"the client in {found.name} needs {' and '.join(missing)}")
    found.make()
    return found


@pytest.mark.timeout(1_000)
def test_every_language_tells_the_same_story(language: Language, server: ServerProcess) -> None:
    assert language.tell(server.address, f"story-{language.name}") == STORY


def test_a_story_that_fails_is_noticed(server: ServerProcess) -> None:
    (python,) = [each for each in LANGUAGES if each.name == "python"]
    python.make()
    with pytest.raises(AssertionError, match="INVALID_ARGUMENT"):
        python.tell(server.address, "not an account")
