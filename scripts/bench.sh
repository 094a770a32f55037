#!/bin/sh
# Compares cachesrv with nginx, a tiny_http server and SQLite alone, in one interleaved run; see --help.
# Installs Debian's nginx when it is missing and this is root.
set -eu
cd "$(dirname "$0")/.."

wants_nginx() {
    case " $* " in
    *" --help "* | *" -h "*) return 1 ;;
    *" --servers"*) case " $* " in *nginx*) return 0 ;; *) return 1 ;; esac ;;
    esac
}

if wants_nginx "$@" && ! command -v nginx >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: nginx is not installed" >&2
        echo "try: sudo apt-get install nginx, or --servers cachesrv,tiny-http,sqlite" >&2
        exit 1
    fi
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx >&2
fi

exec cargo bench --quiet --bench compare -- "$@"
