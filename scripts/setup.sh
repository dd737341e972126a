#!/usr/bin/env bash
# Makes the environment that everything else runs in: `make run` and `make test` call it.
#
#   scripts/setup.sh run    what the server and the demo need
#   scripts/setup.sh dev    the same, and what tests and checks need
#
# The extension modules are compiled by make, which sees what has changed.
#
# VENV is the folder of the environment (.venv), PYTHON the interpreter that it is made with
# (python3, at least 3.11). On Debian and its relatives, system packages that are missing are
# installed by apt-get, as root or through sudo; elsewhere it says what is missing and stops.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-dev}
venv=${VENV:-.venv}
python=${PYTHON:-python3}

say() { printf '\033[1m%s\033[0m\n' "setup: $*" >&2; }
fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

lock_file=requirements/$profile.txt
case $profile in
    run | dev) ;;
    *) fail "unknown profile '$profile'; use run or dev" ;;
esac

has_headers() {
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null
}
has_compiler() {
    command -v gcc >/dev/null && echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1
}

has_nghttp2() { echo '#include <nghttp2/nghttp2.h>' | gcc -E - >/dev/null 2>&1; }

# Prints the system packages that are missing, one a line.
missing_packages() {
    command -v "$python" >/dev/null || echo python3
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    has_headers || echo python3-dev
    command -v gcc >/dev/null || echo gcc
    has_compiler || echo libc6-dev
    has_nghttp2 || echo libnghttp2-dev
}

install_packages() {
    local packages=("$@") as_root=()
    if ! command -v apt-get >/dev/null; then
        fail "these system packages (by their Debian names) are missing: ${packages[*]}" \
            "install them by this system's own package manager, then try again"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "missing system packages; run as root:" \
            "    apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing system packages: ${packages[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${packages[@]}" >&2
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -eq 0 ] ||
        fail "still missing for $(command -v "$python"): ${packages[*]}" \
            "use another interpreter by PYTHON=/usr/bin/python3"
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: this needs 3.11 or later (PYTHON=… names another)"

if [ ! -x "$venv/bin/python" ]; then
    say "making the environment $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

# One line for what an install depends on; it is written where the install has succeeded.
fingerprint() {
    cat requirements/uv.txt requirements/demo.txt "requirements/$1.txt" pyproject.toml \
        scripts/setup.sh | sha256sum
}
installed() { [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$(fingerprint "$1")" ]; }

# What is installed for development holds what a run needs.
if ! installed "$profile" && ! installed dev; then
    count=$(grep -c '==' "$lock_file")
    say "installing uv, then the $count Python packages of $lock_file and the demo's data" \
        "into $venv"
    uv_version=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/uv.txt)
    case $("$venv/bin/uv" --version 2>/dev/null || true) in
        "uv $uv_version"*) ;;
        *)
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
                --require-hashes --requirement requirements/uv.txt
            ;;
    esac
    export UV_LINK_MODE=copy
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --require-hashes \
        --requirement "$lock_file" --requirement requirements/demo.txt
    LIMITER_BUILD_SKIP=1 "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps \
        --no-build-isolation --editable .
    fingerprint "$profile" >"$venv/.installed-$profile"
fi
