"""The API's form: lint, comments, status codes, names that every client language can use."""

from __future__ import annotations

import keyword
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from tests.repo.files import ROOT

PROTO_ROOT = ROOT / "proto"

# Reserved words, beside Python's own, of the languages that gRPC has clients for: C++, Objective-C,
# C#, Java, Kotlin, Go, Rust, Swift, JavaScript, TypeScript, Dart, PHP, Ruby.
RESERVED = """
alignas alignof and asm auto bool break case catch char class compl concept const constexpr
continue decltype default delete do double else enum explicit export extern false float for
friend goto if inline int long mutable namespace new noexcept not nullptr operator or private
protected public register requires return short signed sizeof static struct switch template this
throw true try typedef typeid typename union unsigned using virtual void volatile while xor id
abstract as base byte checked decimal delegate event finally fixed foreach implicit in interface
internal is lock null object out override params readonly ref sbyte sealed stackalloc string
uint ulong unchecked unsafe ushort
assert boolean extends final implements import instanceof native package strictfp super
synchronized throws transient fun typealias val var when
chan defer fallthrough func go map range select type async await crate dyn fn impl let loop
match mod move mut pub self trait unsafe use where yield associatedtype deinit extension
fileprivate guard init inout nil protocol repeat rethrows subscript
arguments debugger eval function with constructor covariant external factory get late library
mixin part required set show hide dynamic array callable clone declare echo empty enddeclare
endfor endforeach endif endswitch endwhile exit global include insteadof isset list print unset
alias begin def defined elsif end ensure module next redo rescue retry then undef unless until
"""
KEYWORDS = frozenset(RESERVED.split()) | frozenset(keyword.kwlist)

# The numbers by which a descriptor leads to one of its parts.
Steps = tuple[int, ...]


@pytest.fixture(scope="module")
def descriptors(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our own files, with their comments."""
    output = tmp_path_factory.mktemp("descriptors") / "descriptors.binpb"
    paths = [str(path.relative_to(PROTO_ROOT)) for path in sorted(PROTO_ROOT.rglob("*.proto"))]
    include = files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={include}",
            "--include_source_info",
            f"--descriptor_set_out={output}",
            *paths,
        ]
    )
    assert status == 0
    return list(descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file)


@dataclass(frozen=True)
class Element:
    """Something that needs a comment."""

    name: str
    comment: str
    is_rpc: bool


def _message_elements(
    message: descriptor_pb2.DescriptorProto, steps: Steps, prefix: str
) -> Iterator[tuple[Steps, str]]:
    name = f"{prefix}.{message.name}"
    yield steps, name
    for index, field in enumerate(message.field):
        yield (*steps, 2, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _message_elements(nested, (*steps, 3, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _enum_elements(enum, (*steps, 4, index), name)
    for index, oneof in enumerate(message.oneof_decl):
        yield (*steps, 8, index), f"{name}.{oneof.name}"


def _enum_elements(
    enum: descriptor_pb2.EnumDescriptorProto, steps: Steps, prefix: str
) -> Iterator[tuple[Steps, str]]:
    name = f"{prefix}.{enum.name}"
    yield steps, name
    for index, value in enumerate(enum.value):
        yield (*steps, 2, index), f"{name}.{value.name}"


def _file_elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[Steps, str]]:
    for index, message in enumerate(file.message_type):
        yield from _message_elements(message, (4, index), file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_elements(enum, (5, index), file.package)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (6, index), name
        for number, method in enumerate(service.method):
            yield (6, index, 2, number), f"{name}.{method.name}"


@pytest.fixture(scope="module")
def elements(descriptors: list[descriptor_pb2.FileDescriptorProto]) -> list[Element]:
    """Every message, field, enum, value, oneof, service and method."""
    found = []
    for file in descriptors:
        comments = {
            tuple(location.path): location.leading_comments.strip()
            for location in file.source_code_info.location
        }
        for steps, name in _file_elements(file):
            is_rpc = steps[0] == 6 and len(steps) == 4
            found.append(Element(name, comments.get(steps, ""), is_rpc))
    assert len(found) > 200
    return found


def _fields(message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    yield from (field.name for field in message.field)
    for nested in message.nested_type:
        yield from _fields(nested)


def test_every_element_has_a_comment(elements: list[Element]) -> None:
    assert [element.name for element in elements if not element.comment] == []


def test_comments_are_sentences(elements: list[Element]) -> None:
    assert [element.name for element in elements if not element.comment.endswith(".")] == []


def test_every_rpc_lists_its_status_codes(elements: list[Element]) -> None:
    rpcs = [element for element in elements if element.is_rpc]
    assert len(rpcs) >= 19
    known = {code.name for code in grpc.StatusCode}
    for rpc in rpcs:
        _, heading, listed = rpc.comment.partition("Status codes:")
        assert heading, f"{rpc.name} lists no status codes"
        codes = {
            code
            for line in re.findall(r"^\s*- (`[^:]*):", listed, re.MULTILINE)
            for code in re.findall(r"`([A-Z_]+)`", line)
        }
        assert codes, f"{rpc.name} lists no status codes"
        assert codes <= known, f"{rpc.name} lists unknown codes: {codes - known}"


def test_no_field_is_a_keyword(descriptors: list[descriptor_pb2.FileDescriptorProto]) -> None:
    names = {
        field for file in descriptors for message in file.message_type for field in _fields(message)
    }
    assert "account" in names
    assert names & KEYWORDS == set()


def test_only_standard_packages_are_imported(
    descriptors: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    imports = {dependency for file in descriptors for dependency in file.dependency}
    foreign = [
        name
        for name in imports
        if not name.startswith(("google/protobuf/", "google/rpc/", "limiter/"))
    ]
    assert foreign == []


def _buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("buf", path=sysconfig.get_path("scripts")) or shutil.which("buf")
    assert program is not None, "buf is not installed: `make setup`"
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_buf_finds_nothing_to_say() -> None:
    result = _buf("lint")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_buf_would_find_something(tmp_path: Path) -> None:
    """A lint that cannot fail proves nothing: a field without a comment is found."""
    shutil.copytree(PROTO_ROOT, tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    target = tmp_path / "proto" / "limiter" / "v1" / "attempt.proto"
    target.write_text(target.read_text() + "\nmessage Bare {\n  string someField = 1;\n}\n")
    result = _buf("lint", str(tmp_path))
    assert result.returncode != 0
    assert 'Message "Bare" should have a non-empty comment' in result.stdout


def test_proto_files_are_formatted() -> None:
    result = _buf("format", "--diff", "--exit-code")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
