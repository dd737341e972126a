"""The programs that other people test servers with, built from the sources that tools/ pins."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.languages import OWN_GO, ROOT

MODULE = Path(__file__).parent / "tools"
BUILT = ROOT / "build" / "conformance"

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec"
INTEROP = "google.golang.org/grpc/interop/client"

# The first build downloads the sources.
BUILD_TIMEOUT_S = 900


@functools.cache
def program(package: str) -> Path:
    """A program of a Go package. Skips where there is no Go."""
    path = f"{OWN_GO}:{os.environ['PATH']}"
    if shutil.which("go", path=path) is None:
        pytest.skip("other people's tests are built by Go, which is not installed")
    target = BUILT / package.replace("/", "-")
    done = subprocess.run(
        ["go", "build", "-o", str(target), package],
        cwd=MODULE,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return target


def run(package: str, *arguments: str, timeout_s: int = 300) -> subprocess.CompletedProcess[str]:
    """Runs a program; what it says and how it ended."""
    return subprocess.run(
        [str(program(package)), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
