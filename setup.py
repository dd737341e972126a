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

extensions = [
    Extension(
        f"limiter.{path.stem}",
        [str(path)],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        libraries=["nghttp2"] if path.stem in NGHTTP2_USERS else [],
    )
    for path in sorted(SOURCE.glob("_*.pyx"))
    if not SKIP
]

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
