#!/bin/sh
# Builds cachesrv, starts it on a database in this directory, and prints what Nx needs to use it.
# Arguments go to `cachesrv serve`. The token is made at the first start only; its secret is not kept.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --quiet --manifest-path "$root/Cargo.toml"
cachesrv=$root/target/release/cachesrv

if [ ! -e "${CACHESRV_DB:-cachesrv.db}" ]; then
    token=$("$cachesrv" token create --write --name first)
    echo "Set these two where Nx runs:"
    echo
    echo "  export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://${CACHESRV_LISTEN:-127.0.0.1:8787}"
    echo "  export NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=$token"
    echo
fi
exec "$cachesrv" serve "$@"
