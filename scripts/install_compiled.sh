#!/usr/bin/env bash
# Installs SOLLOL with its core compiled (mypyc, C compiler) into an environment of its own: install_compiled.sh FOLDER [LEVEL].
# LEVEL is the C compiler's, 0 to 3: the fastest code (3, the default) takes half as long again to compile as the slowest.
# Built from a copy: the compiler leaves its modules beside the sources, where Python would prefer them to an edited file.
set -euo pipefail
target=$(realpath -m "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/src" "$copy"
find "$copy" -name '*.so' -delete
sed -i "s/opt_level = \"3\"/opt_level = \"${2:-3}\"/" "$copy/pyproject.toml"
rm -rf "$target"
"$python" -m venv "$target"
pip() { "$1" -m pip --quiet --disable-pip-version-check --no-input "${@:2}"; }
HATCH_BUILD_HOOKS_ENABLE=1 pip "$python" wheel --no-deps --no-build-isolation --wheel-dir "$copy/wheel" "$copy"
pip "$target/bin/python" install --require-hashes -r "$root/requirements/run.txt"
pip "$target/bin/python" install --no-deps "$copy"/wheel/*.whl
