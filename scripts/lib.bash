# shellcheck shell=bash
# What the scripts here share: messages, the cache folder, and becoming root where that needs no question.
# To be sourced, after `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The folder for downloads and tools. It must be open to the unprivileged user that runs PostgreSQL in the tests.
cache_dir() {
    if [ -n "${MATRIARCH_CACHE:-}" ]; then
        printf '%s\n' "$MATRIARCH_CACHE"
    elif [ "$(id -u)" -eq 0 ]; then
        printf '/var/cache/matriarch\n'
    else
        printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/matriarch"
    fi
}

# Runs a command as root: directly, or through sudo when it asks for no password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n -- "$@"; fi
}

can_be_root() { [ "$(id -u)" -eq 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }
