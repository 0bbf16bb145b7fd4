#!/bin/sh
# Install the front doors that `make bench` compares with, each in an environment of its own under .tools/peers/.
# Usage: benchmarks/setup_peers.sh [vllm-router] [litellm]      (no argument: both)
# nginx comes from the system: `apt-get install nginx-light`.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
root=${SOLLOL_BENCH_PEERS:-.tools/peers}

install() { # name, requirements...
    name=$1
    shift
    [ -x "$root/$name/bin/python" ] || "$python" -m venv "$root/$name"
    "$root/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$name: installed"
}

[ $# -gt 0 ] || set -- vllm-router litellm
for name in "$@"; do
    case $name in
        vllm-router) install vllm-router "vllm-router==0.1.17" ;;
        # 1.107.0 was withdrawn as compromised
        litellm) install litellm "litellm[proxy]>=1.100,!=1.107.*" ;;
        *) echo "unknown: $name (vllm-router, litellm)" >&2; exit 2 ;;
    esac
done
