#!/usr/bin/env bash
# Runs tests on extension modules that are built with AddressSanitizer and
# UndefinedBehaviorSanitizer, in a copy of the tree: the modules in place stay what they are.
#
#   scripts/sanitize.sh FOLDER [PYTEST ARGUMENTS]
#
# FOLDER takes the copy, and keeps what is compiled. Leaks are not looked for: the interpreter
# itself never frees what lives as long as it does.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
shift
python=$(realpath --no-symlinks "${VENV:-.venv}/bin/python")

mkdir -p "$folder"
# Files that are newer replace those of the last time; what is compiled stays.
tar --create --exclude='*.so' --exclude='*.c' --exclude=__pycache__ \
    setup.py pyproject.toml README.md CHANGELOG.md CONTRIBUTING.md Makefile LICENSE buf.yaml \
    src tests scripts examples benchmarks proto docs requirements .ci |
    tar --extract --directory "$folder"
cd "$folder"

echo "sanitize: compiling the extension modules (a few minutes the first time)" >&2
LIMITER_BUILD_SANITIZE=address,undefined "$python" setup.py --quiet build_ext --inplace

LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export LD_PRELOAD PYTHONPATH=$PWD/src PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:detect_odr_violation=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
"$python" -m pytest -p no:cacheprovider "$@"
