#!/usr/bin/env bash
# Builds what is handed out: dist/cachesrv-VERSION-MACHINE-linux.tar.gz, a bill of materials beside it (and in it),
# their SHA256SUMS, and dist/container, from which scripts/packaging/Containerfile makes an image. Takes no arguments.
#
# The binary is static (glibc, its resolver and allocator included), so it runs on any Linux of its machine's
# kind and in an empty container. It keeps its symbols, which make a backtrace readable and cost an eighth of
# its size; other debugging information is left out.
#
# The same commit makes the same bytes, wherever the clone is, with the same toolchain: no path, no user and no
# clock gets in. Times are those of SOURCE_DATE_EPOCH, or else of the commit.
set -euo pipefail
export LC_ALL=C.UTF-8
umask 022
cd "$(dirname "$0")/.."
root=$PWD

fail() {
    echo "error: $*" >&2
    exit 1
}

for tool in cargo cc tar gzip sha256sum; do
    command -v "$tool" >/dev/null || fail "'$tool' is missing"
done

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || fail "not a git clone: set SOURCE_DATE_EPOCH"
fi
export SOURCE_DATE_EPOCH
[ -z "$(git status --porcelain 2>/dev/null)" ] || echo "warning: this clone has changes that no commit holds" >&2

machine=$(rustc -vV | sed -n 's/^host: //p')
case $machine in
*-linux-gnu) ;;
*) fail "this is $machine; releases are built on Linux with glibc (…-linux-gnu)" ;;
esac
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name=cachesrv-$version-${machine%%-*}-linux
target=${CARGO_TARGET_DIR:-$root/target}

# An explicit target keeps these flags from build scripts and macros, which cannot be static. No path of this
# clone or of cargo's home may get into the binary, neither from Rust nor from the C of SQLite. `getrandom`
# looks for the function of that name among the shared libraries, of which there are none, and would read
# /dev/urandom instead; told that it is there, it asks the kernel and needs no file.
RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\" \
--remap-path-prefix=$root=cachesrv --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
    CFLAGS="-ffile-prefix-map=$root=cachesrv -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=cargo" \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    cargo build --release --locked --bin cachesrv --target "$machine"
binary=$target/$machine/release/cachesrv
! readelf --program-headers "$binary" | grep -q INTERP || fail "$binary is not static"
[ "$("$binary" --version)" = "cachesrv $version" ] || fail "$binary does not run"

dist=$root/dist
rm -rf "$dist"
mkdir -p "$dist/$name" "$dist/container/data"
cp "$binary" README.md LICENSE "$dist/$name/"
for file in cachesrv.service cachesrv.socket cachesrv.toml; do
    cp "scripts/packaging/$file" "$dist/$name/"
done
mkdir "$dist/$name/man" "$dist/$name/completions"
"$binary" man "$dist/$name/man"
for shell in bash fish zsh; do
    "$binary" completions "$shell" >"$dist/$name/completions/cachesrv.$shell"
done
# What is linked statically is handed out with it, so are its licences, which ask for that.
scripts/sbom.sh bom >"$dist/$name/cachesrv.cdx.json"
scripts/sbom.sh notices >"$dist/$name/THIRD-PARTY.txt"
cp "$binary" LICENSE "$dist/$name/cachesrv.cdx.json" "$dist/$name/THIRD-PARTY.txt" \
    scripts/packaging/Containerfile "$dist/container/"
cp "$dist/$name/cachesrv.cdx.json" "$dist/$name.cdx.json"

# Sorted, without owners and with one time.
tar --create --directory "$dist" --sort=name --owner=0 --group=0 --numeric-owner --format=ustar \
    --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip --no-name -9 >"$dist/$name.tar.gz"
(cd "$dist" && sha256sum "$name.tar.gz" "$name.cdx.json" >SHA256SUMS)

echo "dist/$name.tar.gz, $(du -h "$dist/$name.tar.gz" | cut -f1)"
cat "$dist/SHA256SUMS"
