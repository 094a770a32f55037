#!/usr/bin/env bash
# What is inside the binary that scripts/release.sh builds, for who has to know.
#
#   scripts/sbom.sh bom       a bill of materials in CycloneDX 1.5, as JSON
#   scripts/sbom.sh notices   the licences of all that is linked into it, as their texts ask for
#
# Both are made from Cargo.lock and the sources that cargo has, and are the same for the same commit and
# SOURCE_DATE_EPOCH. `required` components are in the binary; `excluded` ones only took part in the build.
# It needs no more than cargo and awk: cargo-cyclonedx and cargo-about take minutes to build, and know nothing of what is
# not a crate, which here is SQLite and glibc.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

machine=$(rustc -vV | sed -n 's/^host: //p')

# tree EDGES: a line for each crate and each way to it, `depth|name version …|licence|repository`.
tree() {
    cargo tree --locked --quiet --edges "$1" --target "$machine" --prefix depth --no-dedupe --format '|{p}|{l}|{r}'
}

# Where cargo has unpacked a crate: source NAME VERSION
source_of() {
    local place
    for place in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$2"; do
        [ ! -d "$place" ] || { echo "$place" && return; }
    done
    fail "the source of $1 $2 is not here: run 'cargo fetch --locked'"
}

# `name version` of each crate that is linked, but for ours.
linked() {
    tree normal,no-proc-macro | awk -F '|' '$1 > 0 { split($2, p, " "); print p[1], substr(p[2], 2) }' | sort -u
}

sqlite_version() {
    local version header
    version=$(linked | sed -n 's/^libsqlite3-sys //p')
    header=$(source_of libsqlite3-sys "$version")/sqlite3/sqlite3.h
    sed -n 's/^#define SQLITE_VERSION  *"\(.*\)"$/\1/p' "$header"
}

bom() {
    local sqlite glibc rust stamp
    sqlite=$(sqlite_version)
    glibc=$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)
    rust=$(rustc --version | cut -d ' ' -f 2)
    [ -n "${SOURCE_DATE_EPOCH:-}" ] || SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) ||
        fail "not a git clone: set SOURCE_DATE_EPOCH"
    stamp=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    {
        sed 's/^/lock|/' Cargo.lock
        tree normal,no-proc-macro | sed 's/^/linked|/'
        tree normal,build | sed 's/^/build|/'
    } | awk -F '|' -v sqlite="$sqlite" -v glibc="$glibc" -v rust="$rust" -v stamp="$stamp" '
        function purl(name, version) { return "pkg:cargo/" name "@" version }
        function text(value) { gsub(/["\\]/, "\\\\&", value); return "\"" value "\"" }
        # One component; `how` holds its further members.
        function component(ref, kind, name, version, how) {
            return "{\"type\":" text(kind) ",\"bom-ref\":" text(ref) ",\"name\":" text(name) ",\"version\":" \
                text(version) ",\"purl\":" text(ref) how "}"
        }
        function licence(expression) {
            gsub(/ *\/ */, " OR ", expression)
            return ",\"licenses\":[{\"expression\":" text(expression) "}]"
        }
        function crate(ref, scope,    how) {
            how = ",\"scope\":" text(scope) licence(licences[ref])
            if (checksums[ref] != "") how = how ",\"hashes\":[{\"alg\":\"SHA-256\",\"content\":" text(checksums[ref]) "}]"
            if (places[ref] != "") how = how ",\"externalReferences\":[{\"type\":\"vcs\",\"url\":" text(places[ref]) "}]"
            return component(ref, "library", names[ref], versions[ref], how)
        }
        function sort(list, count,    i, j, value) {
            for (i = 2; i <= count; i++) {
                value = list[i]
                for (j = i - 1; j > 0 && list[j] > value; j--) list[j + 1] = list[j]
                list[j + 1] = value
            }
        }
        $1 == "lock" {
            split($2, pair, " = ")
            gsub(/"/, "", pair[2])
            lock[pair[1]] = pair[2]
            if (pair[1] == "checksum") checksums[purl(lock["name"], lock["version"])] = pair[2]
            next
        }
        {
            split($3, package, " ")
            version = substr(package[2], 2)
            ref = purl(package[1], version)
            way[$2] = ref
            names[ref] = package[1]; versions[ref] = version; licences[ref] = $4; places[ref] = $5
            if (!(ref in scopes)) { scopes[ref] = $1 == "linked" ? "required" : "excluded"; refs[++count] = ref }
            if ($2 == 0) root = ref
            else if (!((way[$2 - 1], ref) in edges)) { edges[way[$2 - 1], ref]; ends[way[$2 - 1]] = ends[way[$2 - 1]] " " ref }
        }
        END {
            sort(refs, count)
            printf "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.5\",\"version\":1,\n\"metadata\":{\"timestamp\":%s,\n\"component\":%s},\n\"components\":[\n", \
                text(stamp), component(root, "application", names[root], versions[root], licence(licences[root]))
            for (i = 1; i <= count; i++) if (refs[i] != root) print crate(refs[i], scopes[refs[i]]) ","
            required = ",\"scope\":\"required\""
            print component("pkg:generic/sqlite@" sqlite, "library", "sqlite", sqlite, required licence("blessing")) ","
            print component("pkg:generic/rust-std@" rust, "library", "rust-std", rust, required licence("MIT OR Apache-2.0")) ","
            print component("pkg:generic/glibc@" glibc, "library", "glibc", glibc, required licence("LGPL-2.1-or-later")) "],"
            printf "\"dependencies\":["
            for (i = 1; i <= count; i++) {
                parts = split(substr(ends[refs[i]], 2), to, " ")
                if (refs[i] ~ /cargo\/libsqlite3-sys@/) to[++parts] = "pkg:generic/sqlite@" sqlite
                if (refs[i] == root) { to[++parts] = "pkg:generic/rust-std@" rust; to[++parts] = "pkg:generic/glibc@" glibc }
                sort(to, parts)
                printf "%s\n{\"ref\":%s,\"dependsOn\":[", i == 1 ? "" : ",", text(refs[i])
                for (j = 1; j <= parts; j++) printf "%s%s", j == 1 ? "" : ",", text(to[j])
                printf "]}"
            }
            print "]}"
        }'
}

# Each text once, under the crates that carry it.
notices() {
    local name version place places=() list=''
    cat <<'END'
cachesrv is licensed under MIT or Apache-2.0, at your option: see LICENSE.

What follows are the licences of the libraries that are linked into its binary, each under the names of those that carry
it. Where a library offers a choice, any of the texts will do.

SQLite is in the public domain.

The GNU C Library (glibc), Copyright (C) Free Software Foundation, Inc., is linked statically under the terms of the
GNU Lesser General Public License, version 2.1 or later <https://www.gnu.org/licenses/old-licenses/lgpl-2.1.html>. The
sources of cachesrv, its Cargo.lock and scripts/release.sh link the program anew against any other version of it; the
sources of glibc are at <https://sourceware.org/glibc/> and at the distribution that built this one (see the bill of
materials, cachesrv.cdx.json). Without it: `cargo build --release` links to the one of your system.

The Rust standard library is licensed under MIT or Apache-2.0, whose texts are in LICENSE.
END
    while read -r name version; do
        place=$(source_of "$name" "$version")
        places+=("$place")
        list+="$name $version"$'\t'"$place"$'\n'
    done < <(linked)
    # One program for all files: several for each take a minute on a busy machine.
    find "${places[@]}" -type f ! -name '*.rs' ! -name '*.toml' \
        \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'copyright*' -o -iname 'unlicense*' \) |
        sort | awk -F '\t' '
        # A whole file, with the line ends of Unix.
        function content(path,    text, line) {
            while ((getline line < path) > 0) { sub(/\r$/, "", line); text = text line "\n" }
            close(path)
            return text
        }
        function licence(place,    line) {
            while ((getline line < (place "/Cargo.toml")) > 0) if (line ~ /^license = /) break
            return substr(line, 11)
        }
        function wrapped(line,    out, at) {
            while (length(line) > 110) {
                for (at = 110; at > 1 && substr(line, at, 1) != " "; at--);
                out = out substr(line, 1, at - 1) "\n"
                line = substr(line, at + 1)
            }
            return out line "\n"
        }
        NR == FNR { crates[++count] = $1; places[count] = $2; next }
        {
            match($0, /^.*\/registry\/src\/[^\/]*\/[^\/]*/)
            place = substr($0, 1, RLENGTH)
            paths[place, ++files[place]] = $0
        }
        END {
            rule = sprintf("%100s", "")
            gsub(/ /, "=", rule)
            for (i = 1; i <= count; i++) {
                place = places[i]
                if (!files[place]) printf "\n%s comes without a text of its licence: %s\n", crates[i], licence(place)
                for (j = 1; j <= files[place]; j++) {
                    text = content(paths[place, j])
                    if (!(text in carriers)) { texts[++total] = text; carriers[text] = crates[i] }
                    else if (last[text] != i) carriers[text] = carriers[text] ", " crates[i]
                    last[text] = i
                }
            }
            for (i = 1; i <= total; i++) printf "\n%s\n%s\n%s", rule, wrapped(carriers[texts[i]]), texts[i]
        }' <(printf '%s' "$list") -
}

case ${1:-} in
bom | notices) "$1" ;;
*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    [ "${1:-}" = --help ] || exit 2
    ;;
esac
