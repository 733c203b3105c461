#!/bin/sh
# Builds the proxy, installs what is missing (Debian, root) and measures. Flags go to run.py.
set -eu
cd "$(dirname "$0")/../.."
for tool in haproxy pgbouncer; do
    if ! command -v "$tool" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get install -y "$tool" >/dev/null
    fi
done
cargo build --release -p matriarch-proxy --example static_proxy
exec python3 bench/routing/run.py "$@"
