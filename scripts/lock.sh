#!/usr/bin/env bash
# Pins everything that is installed, with hashes, into requirements/: `make lock`.
#
#   uv.txt    uv itself, which installs the rest
#   run.txt   what the server needs, and what compiles its extension modules
#   demo.txt  the trace that `make run` plays; without the dependencies of its package
#   dev.txt   run.txt, and what tests and checks need
#
# Usage: scripts/lock.sh [UV]
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${1:-.venv/bin/uv}
export UV_CUSTOM_COMPILE_COMMAND="make lock"
common=(--quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url
    --no-annotate)

uv_pin=$(sed -n 's/^ *"\(uv==[0-9.]*\)",$/\1/p' pyproject.toml)
echo "$uv_pin" | "$uv" pip compile "${common[@]}" --output-file requirements/uv.txt -
"$uv" pip compile "${common[@]}" --extra build --output-file requirements/run.txt pyproject.toml
demo_pin=$(sed -n 's/^demo = \["\(.*\)"\]$/\1/p' pyproject.toml)
echo "$demo_pin" | "$uv" pip compile "${common[@]}" --no-deps --output-file requirements/demo.txt -
"$uv" pip compile "${common[@]}" --extra dev --constraint requirements/run.txt \
    --output-file requirements/dev.txt pyproject.toml
