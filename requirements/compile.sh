#!/usr/bin/env bash
# Writes the pinned, hashed requirements anew from pyproject.toml. Needs `uv` on PATH (`pip install uv` anywhere outside .venv).
#   run.txt    what SOLLOL itself needs, with the fast event loop
#   build.txt  what builds the package
#   dev.txt    everything: the above, linters, tests, client packages, documentation
# One file each serves Python 3.11 and later on Linux, macOS and Windows; no file names a registry.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --quiet "$@"
}
compile --extra fast --output-file requirements/run.txt
uv pip compile --group build --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --quiet --constraint requirements/run.txt --output-file requirements/build.txt
compile --extra fast --extra mdns --group dev --constraint requirements/run.txt --constraint requirements/build.txt \
    --output-file requirements/dev.txt
