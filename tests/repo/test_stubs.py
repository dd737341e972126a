"""The generated stubs are what proto/ says, and are complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.repo.files import ROOT, SOURCE

STUB_FOLDERS = ("v1", "journal_v1")


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_stubs", ROOT / "scripts" / "generate_stubs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_checked_in_stubs_are_what_the_generator_writes(tmp_path: Path) -> None:
    written: list[Path] = _generator().generate(tmp_path)

    fresh = {path.relative_to(tmp_path / "limiter"): path.read_bytes() for path in written}
    kept = {
        path.relative_to(SOURCE): path.read_bytes()
        for folder in STUB_FOLDERS
        for path in (SOURCE / folder).glob("*_pb2*.py*")
    }
    assert sorted(fresh) == sorted(kept), "run `make stubs`"
    assert [path for path in fresh if fresh[path] != kept[path]] == [], "run `make stubs`"


def test_every_stub_is_typed() -> None:
    modules = [path for folder in STUB_FOLDERS for path in (SOURCE / folder).glob("*_pb2*.py")]

    assert len(modules) >= 10
    assert [path for path in modules if not path.with_suffix(".pyi").exists()] == []
