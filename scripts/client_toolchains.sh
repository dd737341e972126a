#!/usr/bin/env bash
# Installs what builds the clients of examples/clients, as far as it is missing: `make clients`
# calls it. What cannot be had here is said and left out; the tests then skip that language and say
# why.
#
#   scripts/client_toolchains.sh FOLDER
#
# FOLDER takes a Go of our own where the system has none or an old one: Debian's is too old for
# grpc-go. Node, npm, Maven and a JDK come from apt-get, as root or through sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1

say() { printf '\033[1m%s\033[0m\n' "clients: $*" >&2; }

missing_packages() {
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v javac >/dev/null || echo default-jdk-headless
    command -v mvn >/dev/null || echo maven
}

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    if can_install; then
        say "installing system packages: ${packages[*]}"
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "${packages[@]}" >&2
    else
        say "missing, by their Debian names: ${packages[*]}; their clients are left out"
    fi
fi

scripts/go_toolchain.sh examples/clients/go "$folder"
