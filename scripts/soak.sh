#!/bin/sh
# Soaks the release build: mixed load with eviction, backups, kills and restarts, and a book of every promise; see
# --help. Ends with a table; the exit code is 1 if a promise was broken.
set -eu
cd "$(dirname "$0")/.."
exec cargo bench --quiet --bench soak -- "$@"
