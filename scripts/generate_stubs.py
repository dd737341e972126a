"""Generates the Python stubs of proto/ into src/limiter: the same bytes from the same input.

The stubs are checked in, so that using the package needs no compiler, and a test proves that they
are what this script makes of proto/. `limiter.v1` keeps its path. The journal's own messages go to
`limiter.journal_v1`, because `limiter.journal` is a module.

Usage: python scripts/generate_stubs.py [--output DIR]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"

# Where the stubs of each proto package go, inside the output directory.
PACKAGE_FOLDERS = {
    Path("limiter/v1"): Path("limiter/v1"),
    Path("limiter/journal/v1"): Path("limiter/journal_v1"),
}
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def proto_files() -> list[Path]:
    """The .proto files, relative to proto/, in a fixed order."""
    return sorted(path.relative_to(PROTO_ROOT) for path in PROTO_ROOT.rglob("*.proto"))


def generate(output: Path) -> list[Path]:
    """Writes all stubs under `output` and returns their paths; raises RuntimeError if protoc fails.

    Stubs of services are written for files that hold a service only.
    """
    written = []
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        _run_protoc(scratch)
        for proto in proto_files():
            folder = output / PACKAGE_FOLDERS[proto.parent]
            folder.mkdir(parents=True, exist_ok=True)
            for source in _stubs_of(proto, scratch):
                target = folder / source.name
                shutil.copyfile(source, target)
                written.append(target)
    return written


def _run_protoc(output: Path) -> None:
    plugins = Path(sysconfig.get_path("scripts"))
    status: int = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            *(str(path) for path in proto_files()),
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")


def _stubs_of(proto: Path, scratch: Path) -> Iterator[Path]:
    has_service = any(
        line.startswith("service ") for line in (PROTO_ROOT / proto).read_text().splitlines()
    )
    for suffix in SUFFIXES:
        if has_service or "grpc" not in suffix:
            yield scratch / proto.parent / (proto.stem + suffix)


def main() -> None:
    """Writes the stubs, into src/ unless told otherwise, and removes those of deleted files."""
    parser = argparse.ArgumentParser(description="Generates the Python stubs of proto/.")
    parser.add_argument("--output", type=Path, default=ROOT / "src", metavar="DIR")
    output: Path = parser.parse_args().output
    written = set(generate(output))
    for folder in PACKAGE_FOLDERS.values():
        for path in sorted((output / folder).glob("*_pb2*.py*")):
            if path not in written:
                path.unlink()
    print(f"wrote {len(written)} stubs into {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
