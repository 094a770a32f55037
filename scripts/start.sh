#!/bin/sh
# Builds cachesrv, starts it, and prints what Nx needs to use it. Takes no arguments: it is configured by
# the variables that cachesrv reads, CACHESRV_DB and CACHESRV_LISTEN among them. The token is made when the
# database is; its secret is shown once and not kept.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --quiet --manifest-path "$root/Cargo.toml"
cachesrv=$root/target/release/cachesrv

setting() { # setting KEY: its value, whatever it comes from; of the keys before the first section
    "$cachesrv" config show | sed -n -e '/^\[/q' -e "s/^$1 = \"\\(.*\\)\"\$/\\1/p"
}

scheme() { # the server speaks TLS where it has a certificate, and only then
    if "$cachesrv" config show | grep -q '^certificate = "none"$'; then echo http; else echo https; fi
}

if [ ! -e "$(setting db)" ]; then
    token=$("$cachesrv" token create --write --name first)
    echo "Set these two where Nx runs:"
    echo
    echo "  export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=$(scheme)://$(setting listen)"
    echo "  export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=$token"
    echo
fi
exec "$cachesrv" serve
