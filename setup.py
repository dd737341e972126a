"""Builds the extension modules: every src/limiter/_*.pyx is one. The rest is in pyproject.toml.

Switches, by environment variable (after changing one, `make clean` first):

  LIMITER_BUILD_DEBUG=1     no optimization, debugger symbols, costly assertions (LIMITER_DEBUG)
  LIMITER_BUILD_SANITIZE=…  a list for the compiler's -fsanitize, such as address,undefined
  LIMITER_BUILD_COVERAGE=1  line tracing, so that coverage sees the .pyx files
  LIMITER_BUILD_SKIP=1      no extension modules: for an editable install whose modules are built
                            in place by `setup.py build_ext`
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCE = Path("src/limiter")
DEBUG = os.environ.get("LIMITER_BUILD_DEBUG", "") not in ("", "0")
SANITIZE = os.environ.get("LIMITER_BUILD_SANITIZE", "")
SKIP = os.environ.get("LIMITER_BUILD_SKIP", "") not in ("", "0")
COVERAGE = os.environ.get("LIMITER_BUILD_COVERAGE", "") not in ("", "0")

compile_args = ["-O0", "-g3"] if DEBUG else ["-O2", "-g0"]
# Packed events are read in place through pointers of other types, hence no strict aliasing.
compile_args += ["-std=c11", "-Wall", "-Wno-unused-function", "-fno-strict-aliasing"]
link_args: list[str] = []
macros: list[tuple[str, str | None]] = [("LIMITER_DEBUG", "1" if DEBUG else "0")]
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g3"]
    link_args += [f"-fsanitize={SANITIZE}"]
if COVERAGE:
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

# The modules that speak HTTP/2.
NGHTTP2_USERS = {"_http2_session", "_load"}


def static_library(name: str) -> str | None:
    """The path of `lib{name}.a` where the compiler has it."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    found = subprocess.run(
        [compiler, f"-print-file-name=lib{name}.a"], capture_output=True, text=True, check=False
    ).stdout.strip()
    # The compiler repeats a name that it does not find.
    return found if Path(found).is_absolute() else None


# Linked in where the static library is there, so that the module (and a wheel with it) needs
# nothing else. Its symbols stay inside, because another library may have brought its own copy. It
# is made for programs, not for modules, and in one place that shows: a function that nobody calls
# prints to stderr in a way that only a program can; _nghttp2.pxd has a substitute.
nghttp2_archive = static_library("nghttp2")
nghttp2_link_args = ["-Wl,--exclude-libs,ALL", "-Wl,--wrap=stderr"] if nghttp2_archive else []


def extension(path: Path) -> Extension:
    """The extension module of a .pyx file."""
    speaks = path.stem in NGHTTP2_USERS
    return Extension(
        f"limiter.{path.stem}",
        [str(path)],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args + (nghttp2_link_args if speaks else []),
        extra_objects=[nghttp2_archive] if speaks and nghttp2_archive else [],
        libraries=["nghttp2"] if speaks and not nghttp2_archive else [],
    )


extensions = [] if SKIP else [extension(path) for path in sorted(SOURCE.glob("_*.pyx"))]

setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        extensions,
        include_path=["src"],
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            # No object of the core can be pickled, so the code for it would only be compiled.
            "auto_pickle": False,
            "linetrace": COVERAGE,
            "embedsignature": True,
            "embedsignature.format": "python",
        },
    ),
    options={"build_ext": {"parallel": str(os.cpu_count() or 1)}},
)
