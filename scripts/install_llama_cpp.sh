#!/usr/bin/env bash
# Puts a real llama.cpp (llama-server and what it needs) under PREFIX, from the packages of Debian testing, on a Debian machine.
# Nothing outside PREFIX changes and no root is needed: the packages are unpacked, not installed, and PREFIX/bin/llama-server
# starts the program with the libraries (and the loader) that came with it.
# usage: install_llama_cpp.sh PREFIX        SUITE=sid takes it from unstable
set -euo pipefail

prefix=$(realpath -m "${1:?usage: install_llama_cpp.sh PREFIX}")
suite=${SUITE:-testing}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

for tool in apt-get dpkg-deb dpkg; do
    command -v "$tool" >/dev/null || { echo "install_llama_cpp.sh: $tool is missing; this script is for Debian" >&2; exit 1; }
done
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 -E '/debian/?$') ||
    { echo "install_llama_cpp.sh: apt's sources name no Debian mirror" >&2; exit 1; }

# Everything is made in a folder of this run's own and moved into place at its end: two runs cannot disturb one another.
mkdir -p "$(dirname "$prefix")"
work=$(mktemp -d "$prefix.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/root" "$work/bin"
: >"$work/apt/status"    # an empty list of installed packages: apt then fetches every dependency
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/apt/sources.list"
apt=(apt-get -qq
    -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::State::lists="$work/apt/lists" -o Dir::State::status="$work/apt/status"
    -o Dir::Cache::archives="$work/apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Debug::NoLocking=true)
"${apt[@]}" update
"${apt[@]}" --yes --no-install-recommends --download-only install llama.cpp-tools >/dev/null

for package in "$work"/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/root"
done
rm -rf "$work/apt"

libraries=$(cd "$work/root" && echo usr/lib/*-linux-gnu)
loader=$(cd "$work/root" && ls "$libraries"/ld-linux-*.so.* | head -1)
[ -x "$work/root/usr/bin/llama-server" ] && [ -e "$work/root/$loader" ] ||
    { echo "install_llama_cpp.sh: the packages do not hold what was expected of them" >&2; exit 1; }
# llama.cpp looks for its CPU backends beside the running executable, which is the loader here, and in the current folder.
for program in "$work"/root/usr/bin/llama-*; do
    name=$(basename "$program")
    cat >"$work/bin/$name" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")/root
cd "\$root/$libraries/ggml/backends0" || exit 127
exec "\$root/$loader" --library-path "\$root/$libraries:\$root/$libraries/llama" "\$root/usr/bin/$name" "\$@"
WRAPPER
    chmod +x "$work/bin/$name"
done

chmod 755 "$work"
rm -rf "$prefix"
mv "$work" "$prefix"
trap - EXIT
"$prefix/bin/llama-server" --version 2>&1 | grep -i version
