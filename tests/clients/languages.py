"""The clients in other languages: how each is built and run, as its README says.

Each is built in a copy under build/clients, which is as deep as examples/clients, so that nothing
built lies among the sources and the way to proto/ is the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "examples" / "clients"
BUILT = ROOT / "build" / "clients"

# Where scripts/client_toolchains.sh puts a Go where the system has none that is new enough.
OWN_GO = BUILT / "toolchain" / "go" / "bin"

# The first build of a language downloads its libraries.
BUILD_TIMEOUT_S = 900
RUN_TIMEOUT_S = 60

PROTO = "../../../proto"


@dataclass(frozen=True)
class Language:
    """One client. `run` gives the command that tells the story, once `build` has been run in the
    client's folder."""

    name: str
    tools: tuple[str, ...]
    build: tuple[tuple[str, ...], ...]
    run: Callable[[Path], Sequence[str]]

    @property
    def folder(self) -> Path:
        return BUILT / self.name

    def missing(self) -> list[str]:
        """The tools that this machine lacks."""
        path = _environment()["PATH"]
        return [tool for tool in self.tools if shutil.which(tool, path=path) is None]

    def make(self) -> None:
        """Builds the client; keeps what an earlier build has downloaded."""
        shutil.copytree(SOURCES / self.name, self.folder, dirs_exist_ok=True)
        for command in self.build:
            done = _run(command, self.folder, BUILD_TIMEOUT_S)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"

    def tell(self, address: str, account: str) -> str:
        """What the client prints; it must not complain."""
        command = [*self.run(self.folder), account]
        done = _run(command, self.folder, RUN_TIMEOUT_S, LIMITER_ADDRESS=address)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout


def _environment() -> dict[str, str]:
    """Ours, with our own Go, which is there only where it is needed, and buf found first."""
    programs = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{OWN_GO}:{programs}:{os.environ['PATH']}"}


def _run(
    command: Sequence[str], folder: Path, timeout_s: int, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**_environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def _java(folder: Path) -> Sequence[str]:
    libraries = (folder / "target" / "classpath").read_text()
    return ("java", "-cp", f"target/classes:{libraries}", "Story")


LANGUAGES = (
    Language(
        "go",
        ("go", "buf"),
        (
            ("buf", "generate", PROTO, "--path", f"{PROTO}/limiter/v1"),
            ("go", "vet", "."),
            ("go", "build", "-o", "story", "."),
        ),
        lambda _: ("./story",),
    ),
    Language(
        "java",
        ("mvn", "javac"),
        (("mvn", "-q", "-B", "compile", "dependency:build-classpath"),),
        _java,
    ),
    Language("node", ("node", "npm"), (("npm", "ci"),), lambda _: ("node", "story.js")),
    Language("python", (), (), lambda _: (sys.executable, "story.py")),
)
