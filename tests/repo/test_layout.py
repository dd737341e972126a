"""The walls of the code: who may import what, and how large things may get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.files import (
    ROOT,
    SOURCE,
    cython_imports,
    is_generated,
    python_imports,
    repository_files,
)

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 80
LINE_COLUMNS_MAX = 100

# The extension modules of the transport and of its load; all others are the core's.
TRANSPORT = ("_http2", "_hot_calls", "_load", "_nghttp2")
EXTENSIONS = sorted(
    path for path in SOURCE.glob("_*.p[yx][xd]") if not path.stem.startswith(TRANSPORT)
)
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not is_generated(path))

# All that a module of the core may import: C's own memory and arithmetic, Python's objects, each
# other, the two Python modules that hold nothing but names, and named tuples. So no clock, no event
# loop, no database, no network and no protobuf classes.
EXTENSION_IMPORTS = re.compile(
    r"(cython|cpython|collections|libc\.(limits|math|stddef|stdint|stdlib|string)"
    r"|limiter\._\w+|limiter\.bounds|limiter\.errors)(\.\w+)*"
)
# Headers behind which the outside world is.
OUTSIDE_HEADERS = re.compile(
    r'extern from "<?(time|unistd|stdio|fcntl|pthread|lmdb|nghttp2|sys/|netinet/|arpa/)'
)

# A library and the only files of src/limiter that may import it: one module a store knows the
# database, and one each those of metrics and traces; one makes a status of an error; of the command
# line and of the client, one each reads it.
ONLY_IMPORTERS = {
    "lmdb": {"image_store.py", "people_store.py", "restriction_store.py", "store.py"},
    "opentelemetry": {"traces.py"},
    "prometheus_client": {"metrics.py"},
    "google.rpc": {"service/status.py", "cli/errors.py", "client/faults.py"},
    "grpc_status": {"service/status.py", "cli/errors.py", "client/faults.py"},
}


def _inside(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_there_is_something_to_look_at() -> None:
    assert len(EXTENSIONS) >= 10
    assert len(MODULES) >= 10


@pytest.mark.parametrize("path", EXTENSIONS, ids=_inside)
def test_the_core_knows_nothing_of_the_outside(path: Path) -> None:
    # `from limiter import bounds` is given as "limiter" and "limiter.bounds".
    imports = set(cython_imports(path)) - {"limiter"}
    assert {name for name in imports if not EXTENSION_IMPORTS.fullmatch(name)} == set()
    assert OUTSIDE_HEADERS.findall(path.read_text()) == []


def test_one_file_declares_what_nghttp2_has() -> None:
    users = [path.name for path in SOURCE.glob("_*.p[yx][xd]") if "nghttp2/" in path.read_text()]
    assert users == ["_nghttp2.pxd"]


def test_the_wall_around_the_core_stands() -> None:
    """The rule above is one that can be broken."""
    forbidden = (
        "asyncio",
        "google.protobuf",
        "grpc",
        "libc.stdio",
        "libc.time",
        "limiter.clock",
        "limiter.store",
        "limiter.v1.decision_pb2",
        "lmdb",
        "posix.time",
        "time",
    )
    assert [name for name in forbidden if EXTENSION_IMPORTS.fullmatch(name)] == []
    assert OUTSIDE_HEADERS.search('cdef extern from "<time.h>" nogil:')


@pytest.mark.parametrize("module", ONLY_IMPORTERS)
def test_a_library_has_one_importer(module: str) -> None:
    importers = {
        _inside(path)
        for path in MODULES
        for name in python_imports(path)
        if name == module or name.startswith(f"{module}.")
    }
    assert importers <= ONLY_IMPORTERS[module]


def _lines_of_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of each function, however deep, of a Python or Cython file."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        return
    head = re.compile(r"^( *)(?:async )?(?:cp?def|def) (?!class|struct|enum|extern|union)(.*)")
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        found = head.match(line)
        if not found or "(" not in line:
            continue
        depth = len(found[1])
        length = last = 1
        for following in lines[number + 1 :]:
            indent = len(following) - len(following.lstrip())
            if following.strip() and indent <= depth and not following.lstrip().startswith(")"):
                break
            length += 1
            last = length if following.strip() else last
        yield found[2].split("(")[0], last


def _written() -> list[Path]:
    suffixes = {".py", ".pyi", ".pyx", ".pxd", ".proto", ".sh"}
    return [
        path for path in repository_files() if path.suffix in suffixes and not is_generated(path)
    ]


def test_files_can_be_read_in_a_sitting() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in _written()
    }
    assert {name: length for name, length in lengths.items() if length > FILE_LINES_MAX} == {}


def test_functions_fit_on_a_screen() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}: {name}": length
        for path in _written()
        if path.suffix in (".py", ".pyx")
        for name, length in _lines_of_functions(path)
        if length > FUNCTION_LINES_MAX
    }
    assert too_long == {}


def test_function_lengths_are_measured(tmp_path: Path) -> None:
    example = tmp_path / "example.pyx"
    example.write_text(
        "cdef class Thing:\n    cdef int size\n\n"
        "    cdef int first(\n        self, int a\n    ) except -1:\n        return a\n\n"
        "    def second(self):\n        if self.size:\n\n            return 1\n        return 2\n\n"
        "cdef inline int third() noexcept nogil: return 3\n"
    )
    assert dict(_lines_of_functions(example)) == {
        "int first": 4,
        "second": 5,
        "inline int third": 1,
    }


def test_lines_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _written()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_COLUMNS_MAX
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=_inside)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module opens with its docstring"
