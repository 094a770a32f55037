#!/usr/bin/env bash
# Builds a real workspace with real Nx against a real cachesrv, and checks what the user gets.
#
#   scripts/e2e-nx.sh [VERSION|TAG...]                 default: 20.8.4 22.7.12 24.0.6; "latest" asks npm
#   scripts/e2e-nx.sh --workspace DIRECTORY VERSION    only makes DIRECTORY/workspace, for who runs Nx in it
#
#   CACHESRV_BIN         the executable to test (default: target/release/cachesrv, built first)
#   CACHESRV_E2E_CACHE   where each Nx version is installed, once (default: ~/.cache/cachesrv-e2e)
#   CACHESRV_E2E_KEEP=1  leave workspaces, databases and logs behind and say where
#
# Each version gets a new workspace, a new database and a new server, and goes through the scenarios listed
# in `scenarios` below; each is one function that builds on the state the one before left. All task
# output is random (e2e-nx/make.mjs), so equal bytes can only have come from the cache. The last ones are about
# trust: beside the workspace is a pull request's checkout of it, with the same hashes, another build script and
# an isolated token; and a proxy (e2e-nx/hold.mjs) keeps uploads on their way while other things happen. The first
# failure prints the server's log and Nx's output and ends the run with exit code 1.
#
# A new scenario: write `scenario_NAME`, add NAME to `scenarios`.

set -euo pipefail
export LC_ALL=C.UTF-8
umask 022

readonly default_versions=(20.8.4 22.7.12 24.0.6)
readonly scenarios=(cold warm failing_task read_token burst two_builders sigkill trailing_slash refused
  creep conflict revoked_midway full_disk tls shutdown)

readonly leaf_builds='big:build links:build modes:build small:build unicode:build'
readonly all_builds="app:build $leaf_builds"
readonly quick_builds='links:build modes:build small:build unicode:build'
readonly quick_projects=links,modes,small,unicode
all_units=$(printf 'unit%02d:unit ' {0..59})
readonly all_units

# Limits, in seconds. They only bound what has gone wrong.
readonly nx_timeout=300
readonly install_timeout=300
readonly start_timeout=30
readonly stop_timeout=45

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly tools=$here/e2e-nx
readonly cache=${CACHESRV_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cachesrv-e2e}
readonly keep=${CACHESRV_E2E_KEEP:-}

work=''           # everything temporary
run=''            # the part of it that belongs to the version under test
workspace=''      # the checkout that Nx builds: $run/workspace, or $run/pr
server_pid=''
server_origin=''  # where the server listens, as a URL
server_url=''     # what Nx is told: the origin, and what may follow it
server_log=''
server_starts=0
hold_pid=''       # the proxy that holds uploads (e2e-nx/hold.mjs)
hold_log=''
hold_origin=''
log_mark=0        # lines in the server log when the last Nx was started
nx_output=''      # what the last Nx printed, without colours
nx_code=0
current=''        # "nx VERSION, SCENARIO", for the failure message
write_token=''
read_token=''
isolated_token=''
poison=''         # what a pull request's build script puts into every output
secrets=()        # every token minted for this version
nx_settings=()    # further variables that Nx gets
declare -A nx_pids=()   # those running, by label
declare -A seconds=()
declare -A nx_codes=()
declare -A notes=()

# ---- saying things, and going away -------------------------------------------------------------

say() { printf '%s\n' "$*"; }

# The one way to fail: says why, shows the evidence, ends the run.
fail() {
  {
    if [[ -n $nx_output && -s $nx_output ]]; then
      printf -- '---- what Nx printed last (%s)\n' "$(basename "$nx_output")"
      tail -n 150 "$nx_output"
    fi
    if [[ -n $server_log && -s $server_log ]]; then
      printf -- '---- the server log (%s, last 100 lines)\n' "$(basename "$server_log")"
      tail -n 100 "$server_log"
    fi
    printf 'e2e-nx: FAILED: %s: %s\n' "${current:-setting up}" "$*"
  } >&2
  exit 1
}

clean_up() {
  local status=$?
  trap - EXIT INT TERM
  ((${#nx_pids[@]} == 0)) || kill "${nx_pids[@]}" 2>/dev/null || true
  [[ -z $server_pid ]] || kill -9 "$server_pid" 2>/dev/null || true
  [[ -z $hold_pid ]] || kill "$hold_pid" 2>/dev/null || true
  wait 2>/dev/null || true
  if [[ -n $work && $keep == 1 ]]; then
    say "kept: $work"
  elif [[ -n $work ]]; then
    rm -rf "$work"
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now_us() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }

as_seconds() { printf '%d.%d' $(($1 / 1000000)) $(($1 / 100000 % 10)); }

# wait_until SECONDS WHAT COMMAND...: polls the command until it succeeds or the time is over.
wait_until() {
  local limit=$1 what=$2 deadline=$((SECONDS + $1))
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || fail "waited $limit s for $what"
    sleep 0.05
  done
}

# ---- what the machine must have ----------------------------------------------------------------

check_tools() {
  local tool missing=()
  for tool in node npm git timeout openssl unshare; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || fail "this test needs ${missing[*]} on the PATH: install it and run again"
  ((BASH_VERSINFO[0] >= 5)) || fail "this test needs bash 5 or newer, this is $BASH_VERSION"
  local node_major
  node_major=$(node -p 'process.versions.node.split(".")[0]')
  ((node_major >= 20)) || fail "this test needs Node.js 20 or newer, this is $(node --version)"
}

find_binary() {
  bin=${CACHESRV_BIN:-}
  if [[ -z $bin ]]; then
    command -v cargo >/dev/null || fail 'cargo is not on the PATH: install Rust, or set CACHESRV_BIN'
    (cd "$here/.." && cargo build --release --locked) || fail 'cargo build --release failed'
    bin=$(cd "$here/.." && pwd)/${CARGO_TARGET_DIR:-target}/release/cachesrv
    [[ ${CARGO_TARGET_DIR:-} != /* ]] || bin=$CARGO_TARGET_DIR/release/cachesrv
  fi
  [[ -x $bin ]] || fail "$bin is not an executable"
  bin=$(realpath "$bin")
  # Settings of whoever runs this test are not what is tested.
  unset "${!CACHESRV_@}"
}

# ---- Nx ----------------------------------------------------------------------------------------

# exact_version VERSION|TAG: only a tag has to be asked for.
exact_version() {
  local version=$1
  if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]]; then
    version=$(npm view "nx@$1" version --loglevel=error </dev/null | tail -n 1) || true
    [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || fail "npm knows no single version nx@$1"
  fi
  printf '%s' "$version"
}

# Installs nx@VERSION into the cache unless it is there. Moved into place whole, so that an interrupted
# install leaves nothing that a later run would trust.
install_nx() {
  local version=$1 place=$cache/nx-$1 staging=$work/install
  [[ ! -d $place ]] || return 0
  mkdir -p "$cache" "$staging"
  printf '{ "private": true }\n' >"$staging/package.json"
  (cd "$staging" && timeout "$install_timeout" npm install "nx@$version" --save-exact --include=optional \
    --ignore-scripts --no-audit --no-fund --loglevel=error) </dev/null >"$work/install.log" 2>&1 \
    || fail "npm install nx@$version failed: $(tail -n 15 "$work/install.log")"
  compgen -G "$staging/node_modules/@nx/nx-*" >/dev/null \
    || fail "npm installed nx@$version without its native part for this system"
  cp -R "$staging" "$place.$$"
  rm -rf "$staging"
  # Another run may have been faster; its copy is as good.
  mv -T "$place.$$" "$place" 2>/dev/null || rm -rf "$place.$$"
  [[ -d $place/node_modules ]] || fail "cannot install into $place"
}

create_workspace() {
  workspace=$run/workspace
  node "$tools/workspace.mjs" "$workspace"
  ln -s "$cache/nx-$1/node_modules" "$workspace/node_modules"
  git -C "$workspace" init --quiet
}

# Removes all that Nx remembers and all that tasks made: what is there afterwards came from the server.
wipe() {
  rm -rf "$workspace/.nx" "$workspace/out" "$workspace"/packages/*/dist "$workspace"/burst/*/dist
}

# branch_off NAME: another checkout, $run/NAME, of what is in the workspace now.
branch_off() {
  rm -rf "${run:?}/$1"
  cp -a "$run/workspace" "$run/$1"
}

# From here on, Nx and `ask` are in the one or the other checkout and give the server the URL that belongs to it.
# The last argument is the origin to be used in place of the server's own.
as_trusted() {
  workspace=$run/workspace
  server_url=${1:-$server_origin}
}

as_pull_request() {
  workspace=$run/pr
  server_url=${2:-$server_origin}/s/$1
}

# run_nx LABEL TOKEN ARGUMENT...: one `nx run-many`, to its end. Sets nx_code, nx_output.
run_nx() {
  log_mark=$(wc -l <"$server_log")
  start_nx "$@"
  finish_nx "$1"
}

# start_nx LABEL TOKEN ARGUMENT...: in an environment of its own. The token `-` means that the variable is
# not set. In the background, so that a signal to this script is not held up by Nx.
start_nx() {
  local label=$1 token=$2
  shift 2
  local environment=(
    "PATH=$PATH" "HOME=$run/home" "TMPDIR=$run/tmp" "LC_ALL=C.UTF-8" CI=true
    NX_NO_CLOUD=true NX_DAEMON=false NX_TUI=false
    "NX_SELF_HOSTED_REMOTE_CACHE_SERVER=$server_url" "${nx_settings[@]}"
  )
  [[ $token == - ]] || environment+=("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=$token")
  env -i -C "$workspace" "${environment[@]}" timeout -k 10 "$nx_timeout" \
    node_modules/.bin/nx run-many --outputStyle=static "$@" </dev/null >"$run/nx-$label.raw" 2>&1 &
  nx_pids[$label]=$!
}

finish_nx() {
  nx_code=0
  wait "${nx_pids[$1]}" || nx_code=$?
  unset "nx_pids[$1]"
  nx_output=$run/nx-$1.txt
  sed -E $'s/\x1b\\[[0-9;]*[A-Za-z]//g; s/\r//g' "$run/nx-$1.raw" >"$nx_output"
  ((nx_code != 124 && nx_code != 137)) || fail "Nx did not end within $nx_timeout s"
}

# stop_nx LABEL: at once, with all it has started (`timeout` leads their group). Asked kindly, an Nx that waits to
# repeat a request takes longer than the 10 s that `timeout` gives it.
stop_nx() {
  kill -KILL -- "-${nx_pids[$1]}"
  wait "${nx_pids[$1]}" 2>/dev/null || true
  unset "nx_pids[$1]"
}

# ---- the server --------------------------------------------------------------------------------

# The one place that knows what the server logs when it is ready.
read_server_address() {
  sed -nE '/listening/s/.*address[^0-9]*([0-9.]+:[0-9]+).*/\1/p' "$server_log" | head -n 1
}

server_is_listening() {
  kill -0 "$server_pid" 2>/dev/null || fail 'the server ended instead of listening'
  local address
  address=$(read_server_address)
  [[ -n $address ]] || return 1
  server_origin=http://$address
  # The name in the certificate of scenario_tls.
  ! grep -q 'listening.* tls=true' "$server_log" || server_origin=https://localhost:${address##*:}
  server_url=$server_origin
}

# start_server [COMMAND...]: what is or becomes the server.
start_server() {
  (($# > 0)) || set -- "$bin" serve
  server_starts=$((server_starts + 1))
  server_log=$run/server-$server_starts.log
  : >"$server_log"
  env -C "$run" CACHESRV_DB="$run/cache.db" CACHESRV_LISTEN=127.0.0.1:0 \
    "$@" </dev/null >>"$server_log" 2>&1 &
  server_pid=$!
  wait_until "$start_timeout" 'the server to listen' server_is_listening
}

kill_server() {
  kill -9 "$server_pid"
  wait "$server_pid" 2>/dev/null || true
  server_pid=''
}

server_is_gone() { ! kill -0 "$server_pid" 2>/dev/null; }

# Asks the server to stop, and expects it to end well.
stop_server() {
  local status=0
  kill -TERM "$server_pid"
  wait_until "$stop_timeout" 'the server to stop after SIGTERM' server_is_gone
  wait "$server_pid" || status=$?
  server_pid=''
  ((status == 0)) || fail "the server ended with exit code $status after SIGTERM"
}

# cachesrv ARGUMENT...: a command beside the running server, on the same file.
cachesrv() { CACHESRV_DB=${database:-$run/cache.db} "$bin" "$@" 2>>"$run/commands.log"; }

# mint VARIABLE FLAG...: creates a token; the secret alone must be on stdout.
mint() {
  local variable=$1 secret
  shift
  secret=$(cachesrv token create "$@") || fail "token create $* failed: $(tail -n 5 "$run/commands.log")"
  [[ $secret =~ ^[[:graph:]]+$ ]] || fail "token create $* did not print one word on stdout"
  secrets+=("$secret")
  printf -v "$variable" '%s' "$secret"
}

# ask TOKEN HASH: GETs one entry as a client would. Prints the status; leaves $run/body and $run/head.
ask() {
  node "$tools/ask.mjs" "$server_url/v1/cache/$2" "$1" "$run/body" "$run/head" || fail "could not ask for $2"
}

is_refused() { [[ $(ask "$1" 0) == 401 ]]; }

# ---- uploads that take as long as the test wants ------------------------------------------------

# Starts the proxy: through $hold_origin, no upload ends before `let_go`.
start_hold() {
  hold_log=$run/hold-$1.log
  : >"$hold_log"
  node "$tools/hold.mjs" "${server_origin##*:}" >>"$hold_log" 2>&1 &
  hold_pid=$!
  wait_until "$start_timeout" 'the proxy to listen' hold_is_listening
}

hold_is_listening() {
  local port
  port=$(sed -n 's/^listening //p' "$hold_log")
  [[ -n $port ]] || return 1
  hold_origin=http://127.0.0.1:$port
}

# uploads_held COUNT: so many are on their way, and only their last bytes are missing.
uploads_held() { (($(grep -c '^held ' "$hold_log") == $1)); }

let_go() { kill -USR1 "$hold_pid"; }

stop_hold() {
  kill "$hold_pid"
  wait "$hold_pid" 2>/dev/null || true
  hold_pid=''
}

# ---- what must hold ----------------------------------------------------------------------------

expect_exit() {
  ((nx_code == $1)) || fail "Nx ended with exit code $nx_code, not $1"
}

# expect_tasks HITS RAN: exactly these tasks were in the run, these restored from the server, those executed.
expect_tasks() {
  local task
  node "$tools/outcome.mjs" "$nx_output" "$workspace/.nx/cache/run.json" >"$run/outcome" 2>"$run/outcome.err" \
    || fail "cannot tell what Nx did: $(cat "$run/outcome.err")"
  {
    for task in $1; do say "$task remote"; done
    for task in $2; do say "$task ran"; done
  } | sort >"$run/expected"
  cut -d' ' -f1,2 "$run/outcome" | sort >"$run/actual"
  diff -u --label expected --label actual "$run/expected" "$run/actual" >"$run/diff" \
    || fail "not every task was what it had to be: $(cat "$run/diff")"
}

hash_of() {
  local hash
  hash=$(sed -n "s/^$1 [a-z]* //p" "$run/outcome")
  [[ -n $hash ]] || fail "Nx recorded no hash for $1"
  printf '%s' "$hash"
}

# expect_answer STATUS TOKEN TASK...: what the server says about the entries of these tasks of the last run.
expect_answer() {
  local expected=$1 token=$2 task hashes=()
  shift 2
  for task in "$@"; do hashes+=("$(hash_of "$task")"); done
  expect_status "$expected" "$token" "${hashes[@]}"
}

# expect_status STATUS TOKEN HASH...
expect_status() {
  local expected=$1
  shift
  look_at "$@"
  ! grep -vE "^[^ ]+ $expected " "$run/entries" >"$run/other" \
    || fail "GET from $server_url must answer $expected, and does not: $(cat "$run/other")"
}

# look_at TOKEN HASH...: leaves hash, status, digest and whether it is poisoned of each entry in $run/entries.
look_at() {
  local token=$1
  shift
  node "$tools/entries.mjs" "$server_url" "$token" "$poison" "$@" >"$run/entries" || fail "could not ask for $*"
}

# expect_puts STATUS TASK...: by the server's log, the last Nx sent each of these once and got this answer.
# Only the log can tell: Nx repeats, without a word, a PUT whose answer it does not like, and the 409 to
# the second attempt saves the run. That is what a server that answers 202 looks like: slow, twice the
# traffic, and no error anywhere.
expect_puts() {
  local expected=$1 task hash lines
  shift
  for task in "$@"; do
    hash=$(hash_of "$task")
    # The log is written beside the answers, so it may be a moment late.
    wait_until 10 "the log line of the PUT of $task" puts_of "$hash" >/dev/null
    lines=$(puts_of "$hash")
    (($(wc -l <<<"$lines") == 1)) || fail "Nx sent $task more than once: $lines"
    [[ "$lines " == *" status=$expected "* ]] || fail "the PUT of $task was not answered $expected: $lines"
    [[ $server_url != */s/* || "$lines " == *" scope=${server_url##*/s/} "* ]] || fail "the log names another scope: $lines"
  done
}

# The uploads of this hash that were sent to the URL in use: those to other scopes are none of them.
puts_of() {
  local base=${server_url#*://}
  base=${base#"${base%%/*}"}
  tail -n "+$((log_mark + 1))" "$server_log" | grep -E "method=PUT .*path=\"?${base%/}/+v1/cache/$1\"?( |\$)"
}

# remember NAME: keeps the state of all outputs, and what the tasks said, to compare with.
remember() {
  node "$tools/manifest.mjs" "$workspace" >"$run/$1.manifest"
  node "$tools/manifest.mjs" --follow "$workspace" >"$run/$1.followed"
  task_words >"$run/$1.words"
}

# What the tasks printed, nonces included, in an order that does not depend on scheduling.
task_words() { grep -E '^[a-z0-9]+ (made|says|warns|always) ' "$nx_output" | sort; }

# expect_same NAME: outputs and terminal output are what `remember NAME` saw.
expect_same() {
  remember now
  local kind=manifest
  [[ $links_kept == yes ]] || kind=followed
  diff -u --label built --label restored "$run/$1.$kind" "$run/now.$kind" >"$run/diff" \
    || fail "restored outputs differ from what was built: $(head -n 40 "$run/diff")"
  diff -u --label printed --label replayed "$run/$1.words" "$run/now.words" >"$run/diff" \
    || fail "the replayed terminal output differs: $(head -n 40 "$run/diff")"
}

# expect_text FILE: each line of it can be read in what Nx printed.
expect_text() {
  local line count=0
  while IFS= read -r line || [[ -n $line ]]; do
    [[ -n ${line//[[:space:]]/} ]] || continue
    grep -qF -- "$line" "$nx_output" || fail "the user does not get to read: $line"
    count=$((count + 1))
  done <"$1"
  ((count > 0)) || fail 'the refusal has no text'
}

change_source() { printf 'changed %s\n' "$(now_us)" >>"$workspace/packages/$1/src/source.txt"; }

# ---- the scenarios -----------------------------------------------------------------------------

# The first build: everything runs, everything is stored.
scenario_cold() {
  mint write_token --write --name writer
  run_nx cold "$write_token" -t build
  expect_exit 0
  expect_tasks '' "$all_builds"
  # shellcheck disable=SC2086 # a list of words
  expect_puts 200 $all_builds
  # shellcheck disable=SC2086
  expect_answer 200 "$write_token" $all_builds
  remember cold
  check_workspace_is_hard
}

# The test is worth what the workspace contains: size, count, names, links and modes are looked for.
check_workspace_is_hard() {
  local manifest=$run/cold.manifest
  grep -qE '^file .* 30000000 ' "$manifest" || fail 'the workspace has no output of 30 MB'
  (($(grep -c '/small/dist/' "$manifest") >= 500)) || fail 'the workspace lacks its 500 small files'
  (($(grep -c '^link ' "$manifest") == 3)) || fail 'the workspace lacks its links'
  grep -q '^file 0755 ' "$manifest" || fail 'the workspace has no executable'
  grep -q '🚀' "$manifest" || fail 'the workspace has no unicode names'
  (($(wc -l <"$run/cold.words") == 8)) || fail 'the tasks did not print their lines'
}

# The whole point: nothing is left here, everything comes back from the server.
scenario_warm() {
  wipe
  run_nx warm "$write_token" -t build
  expect_exit 0
  expect_tasks "$all_builds" ''
  expect_same cold
}

# Nx stores no failures (unless NX_CACHE_FAILURES=true): the task fails again each time, beside others
# that are restored.
scenario_failing_task() {
  wipe
  run_nx fail "$write_token" -t build fail
  expect_exit 1
  expect_tasks "$all_builds" 'broken:fail'
  expect_answer 404 "$write_token" broken:fail
  remember fail
  wipe
  run_nx fail-again "$write_token" -t build fail
  expect_exit 1
  expect_tasks "$all_builds" 'broken:fail'
  grep -qF 'broken always fails' "$nx_output" || fail 'the failing task did not say why'
  ! grep -qxF "$(grep '^broken made ' "$run/fail.words")" "$nx_output" || fail 'the failure was replayed from a cache'
}

# A laptop: reads what CI stored, and changes nothing for others.
scenario_read_token() {
  mint read_token --read --name reader
  change_source small
  local unchanged='big:build links:build modes:build unicode:build' changed='app:build small:build' attempt
  for attempt in first second; do
    wipe
    run_nx "read-$attempt" "$read_token" -t build
    expect_exit 0
    expect_tasks "$unchanged" "$changed"
    expect_puts 403 app:build small:build
    expect_answer 404 "$read_token" app:build small:build
    expect_answer 404 "$write_token" app:build small:build
  done
  # The one who may write still has to build it, and stores it for the reader.
  wipe
  run_nx read-write "$write_token" -t build
  expect_exit 0
  expect_tasks "$unchanged" "$changed"
  remember changed
  wipe
  run_nx read-third "$read_token" -t build
  expect_exit 0
  expect_tasks "$all_builds" ''
  expect_same changed
}

# Sixty tasks that wait for nothing: as many requests at once as Nx can make of them.
scenario_burst() {
  wipe
  run_nx burst-cold "$write_token" -t unit --parallel=60
  expect_exit 0
  expect_tasks '' "$all_units"
  # shellcheck disable=SC2086 # a list of words
  expect_puts 200 $all_units
  remember burst
  wipe
  run_nx burst-warm "$write_token" -t unit --parallel=60
  expect_exit 0
  expect_tasks "$all_units" ''
  expect_same burst
}

# Two CI jobs build the same commit at once: both end well, the first to store an entry wins, and what is
# served afterwards is what the winner stored, for each task.
scenario_two_builders() {
  local mine=$workspace rival=$run/rival task lines conflicts=0
  printf '// changed, for all tasks\n' >>"$workspace/tools/make.mjs"
  wipe
  cp -a "$mine" "$rival"
  log_mark=$(wc -l <"$server_log")
  start_nx mine "$write_token" -t unit
  workspace=$rival
  start_nx rival "$write_token" -t unit
  finish_nx rival
  expect_exit 0
  task_words >"$run/either.words"
  workspace=$mine
  finish_nx mine
  expect_exit 0
  task_words >>"$run/either.words"

  wipe
  start_nx after "$read_token" -t unit
  finish_nx after
  expect_exit 0
  expect_tasks "$all_units" ''
  for task in $all_units; do
    lines=$(puts_of "$(hash_of "$task")")
    (($(grep -c ' status=200\b' <<<"$lines") == 1)) || fail "not exactly one upload of $task was taken: $lines"
    conflicts=$((conflicts + $(grep -c ' status=409\b' <<<"$lines" || true)))
  done
  task_words >"$run/after.words"
  lines=$(grep -vxFf "$run/either.words" "$run/after.words" || true)
  [[ -z $lines ]] || fail "restored, but made by neither builder: $lines"
  notes[$version]="uploads that came second and got 409: $conflicts of 60"
}

# What was acknowledged is there after a crash: killed the moment Nx has ended, and started on the same file.
scenario_sigkill() {
  wipe
  run_nx kill-cold "$write_token" -t build unit --parallel=60
  kill_server
  expect_exit 0
  # The builders before changed an input of every task, and ran only the units.
  expect_tasks "$all_units" "$all_builds"
  remember kill
  start_server
  wipe
  run_nx kill-warm "$write_token" -t build unit --parallel=60
  expect_exit 0
  expect_tasks "$all_builds $all_units" ''
  expect_same kill
}

# `https://cache.example/` in CI settings makes Nx ask for //v1/cache/….
scenario_trailing_slash() {
  local plain=$server_url
  server_url=$plain/
  wipe
  run_nx slash "$read_token" -t build
  server_url=$plain
  expect_exit 0
  expect_tasks "$all_builds" ''
}

# Whoever comes with the wrong token reads our sentence, not a riddle.
scenario_refused() {
  local unknown revoked expired
  # Made first: it expires while the others are tried.
  mint expired --write --name short --expires 5s
  [[ $(ask "$expired" 0) == 404 ]] || fail 'a token that has not expired is not accepted'
  mint revoked --write --name doomed
  [[ $(ask "$revoked" 0) == 404 ]] || fail 'a token that is not revoked is not accepted'
  cachesrv token revoke doomed >/dev/null || fail "token revoke failed: $(tail -n 5 "$run/commands.log")"
  # Well formed, but of another server.
  database=$run/elsewhere.db mint unknown --write

  expect_refusal garbage 'not-a-token'
  expect_refusal missing -
  expect_refusal unknown "$unknown"
  expect_refusal revoked "$revoked"
  wait_until 30 'the token to expire' is_refused "$expired"
  expect_refusal expired "$expired"

  # A refused client has changed nothing.
  wipe
  run_nx refused-after "$read_token" -t build
  expect_exit 0
  expect_tasks "$all_builds" ''
}

# expect_refusal LABEL TOKEN: 401 as plain text at once, and its sentence in front of the user.
expect_refusal() {
  local label=$1 token=$2 status type
  status=$(ask "$token" 0)
  [[ $status == 401 ]] || fail "a $label token is answered $status, not 401"
  type=$(sed -nE 's/^[Cc]ontent-[Tt]ype: *([^\r]*)\r?$/\1/p' "$run/head")
  [[ $type == text/plain ]] || fail "the 401 for a $label token is \"$type\": Nx shows exactly text/plain only"
  cp "$run/body" "$run/refusal"
  wipe
  run_nx "refused-$label" "$token" -t build
  expect_text "$run/refusal"
  ! grep -qF '[remote cache]' "$nx_output" || fail "a $label token was served an entry"
  # Every version known ends the run here: a wrong token is noticed, not worked around.
  ((nx_code != 0)) || fail "Nx ended well with a $label token"
  nx_codes[$version]=${nx_codes[$version]:-}${nx_codes[$version]:+ }$label=$nx_code
}

# CVE-2025-36852, "CREEP": a pull request changes a build script that is among no task's inputs, builds before main
# does, and stores its output under the very hashes that main will ask for. Here they are stored for nobody
# but the pull request, which gets them back until main has built, and main's from then on.
scenario_creep() {
  local hashes
  poison=poison-$(now_us)
  mint isolated_token --isolated --name pull-requests
  printf '// what main and the pull request have in common\n' >>"$workspace/tools/make.mjs"
  wipe
  branch_off pr
  poison_build

  # The pull request is first.
  as_pull_request pr-1
  run_nx creep-first "$isolated_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks '' "$quick_builds"
  # shellcheck disable=SC2086 # a list of words
  expect_puts 200 $quick_builds
  hashes=$(hashes_of_run)
  remember poisoned
  expect_poison
  # shellcheck disable=SC2086
  expect_served found "$isolated_token" $quick_builds

  # What it has of it: its next run builds nothing.
  wipe
  run_nx creep-again "$isolated_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$quick_builds" ''
  expect_same poisoned
  expect_poison

  # The same token, another pull request.
  as_pull_request pr-2
  # shellcheck disable=SC2086
  expect_answer 404 "$isolated_token" $quick_builds
  wipe
  run_nx creep-other "$isolated_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks '' "$quick_builds"
  # shellcheck disable=SC2086
  expect_puts 200 $quick_builds

  # Main.
  as_trusted
  # shellcheck disable=SC2086
  expect_answer 404 "$write_token" $quick_builds
  # shellcheck disable=SC2086
  expect_answer 404 "$read_token" $quick_builds
  run_nx creep-main "$write_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks '' "$quick_builds"
  [[ $(hashes_of_run) == "$hashes" ]] || fail 'main and the pull request have different hashes: nothing was tested'
  # shellcheck disable=SC2086
  expect_puts 200 $quick_builds
  remember clean
  expect_no_poison
  # shellcheck disable=SC2086
  expect_served absent "$write_token" $quick_builds

  # From now on all get what main has built, the pull request too.
  as_pull_request pr-1
  wipe
  run_nx creep-cured "$isolated_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$quick_builds" ''
  expect_same clean
  expect_no_poison
  as_trusted
  wipe
  run_nx creep-reader "$read_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$quick_builds" ''
  expect_same clean
  expect_no_poison
  # shellcheck disable=SC2086
  expect_served absent "$read_token" $quick_builds
}

# The pull request's build script: a file more in every output, and a line more on the terminal.
poison_build() {
  cat >"$run/pr/scripts/finish.mjs" <<END
import { writeFileSync } from "node:fs";
export function finish(name, dist) {
  writeFileSync(\`\${dist}/backdoor.js\`, "$poison\\n");
  console.log(\`\${name} says $poison\`);
}
END
}

hashes_of_run() { cut -d' ' -f1,3 "$run/outcome" | sort; }

# All that a build leaves in a checkout: its outputs, and Nx's own cache and database.
poisoned_files() { (cd "$workspace" && grep -rlaF -- "$poison" .nx packages) || true; }

# Also the proof that the poison is found where it is.
expect_poison() {
  local files task
  files=$(poisoned_files)
  for task in $quick_builds; do
    grep -qx "packages/${task%:*}/dist/backdoor.js" <<<"$files" || fail "the pull request did not poison $task"
    grep -q "^\.nx/cache/$(hash_of "$task")/.*/backdoor.js\$" <<<"$files" || fail "no poison of $task in the local cache"
    grep -qxF "${task%:*} says $poison" "$nx_output" || fail "$task did not say that it is poisoned"
  done
}

expect_no_poison() {
  local files
  files=$(poisoned_files)
  [[ -z $files ]] || fail "poisoned by the pull request: $files"
  ! grep -qF -- "$poison" "$nx_output" || fail 'Nx printed what the pull request made of it'
}

# expect_served FOUND TOKEN TASK...: all are there, and the poison is in each (`found`) or in none (`absent`).
expect_served() {
  local expected=$1
  shift
  expect_answer 200 "$@"
  ! grep -v " $expected\$" "$run/entries" >"$run/other" \
    || fail "the poison must be $expected in what $server_url serves, and is not: $(cat "$run/other")"
}

# A pull request's upload is on its way while others end: a second job of the same pull request for one task, main
# for another. Both of its own come second, and replace neither the pull request's entry nor main's.
scenario_conflict() {
  local own=links:build shared=unicode:build own_hash shared_hash own_digest shared_digest
  as_trusted
  change_source links
  change_source unicode
  wipe
  branch_off pr
  branch_off second
  poison=poison-$(now_us)
  poison_build
  start_hold conflict
  log_mark=$(wc -l <"$server_log")

  as_pull_request pr-3 "$hold_origin"
  start_nx conflict-held "$isolated_token" -t build --projects=links,unicode --parallel=2
  wait_until 60 'both uploads to be on their way' uploads_held 2

  as_pull_request pr-3
  workspace=$run/second
  start_nx conflict-own "$isolated_token" -t build --projects=links
  finish_nx conflict-own
  expect_exit 0
  expect_tasks '' "$own"
  expect_puts 200 "$own"
  own_hash=$(hash_of "$own")
  own_digest=$(digest_of "$isolated_token" "$own_hash")

  as_trusted
  start_nx conflict-main "$write_token" -t build --projects=unicode
  finish_nx conflict-main
  expect_exit 0
  expect_tasks '' "$shared"
  expect_puts 200 "$shared"
  shared_hash=$(hash_of "$shared")
  shared_digest=$(digest_of "$write_token" "$shared_hash")

  # Only the two that are held from here on.
  log_mark=$(wc -l <"$server_log")
  let_go
  as_pull_request pr-3
  finish_nx conflict-held
  stop_hold
  expect_exit 0
  expect_tasks '' "$own $shared"
  expect_puts 409 "$own" "$shared"
  [[ "$(hash_of "$own") $(hash_of "$shared")" == "$own_hash $shared_hash" ]] || fail 'the jobs have different hashes'
  [[ $(digest_of "$isolated_token" "$own_hash") == "$own_digest" ]] || fail 'the pull request has replaced its own entry'
  [[ $(digest_of "$isolated_token" "$shared_hash") == "$shared_digest" ]] || fail 'the pull request is served another entry'
  expect_served absent "$isolated_token" "$own" "$shared"
  as_trusted
  [[ $(digest_of "$write_token" "$shared_hash") == "$shared_digest" ]] || fail 'the pull request has replaced an entry of main'
  expect_answer 404 "$write_token" "$own"
}

# digest_of TOKEN HASH: of the entry as it is served.
digest_of() {
  expect_status 200 "$1" "$2"
  cut -d' ' -f3 "$run/entries"
}

# Tokens are revoked, by another process, while the uploads they were accepted for are on their way: nothing is
# stored, and whoever uses them reads why, in that run and in the next.
scenario_revoked_midway() {
  local writer isolated hash digest mark puts name
  mint writer --write --name leaked-writer
  mint isolated --isolated pr-4 --name leaked-isolated
  as_trusted
  change_source big
  wipe
  branch_off pr
  branch_off second
  start_hold revoked
  mark=$(wc -l <"$server_log")
  as_trusted "$hold_origin"
  start_nx midway-writer "$writer" -t build --projects=big
  as_pull_request pr-4 "$hold_origin"
  start_nx midway-isolated "$isolated" -t build --projects=big
  # All of 30 MB but a byte, which is more than the sockets in between take: the server knows the tokens, and reads.
  wait_until 60 'both uploads to be on their way' uploads_held 2
  hash=$(sed -n 's|^held /v1/cache/||p' "$hold_log")
  [[ $hash =~ ^[A-Za-z0-9_-]+$ ]] || fail "not one upload by the writer is held: $(cat "$hold_log")"
  for name in leaked-writer leaked-isolated; do
    cachesrv token revoke "$name" >/dev/null || fail "token revoke failed: $(tail -n 5 "$run/commands.log")"
  done
  let_go

  # What was held arrives whole, and is refused. Nx tries five times more, with pauses, which are used here.
  as_pull_request pr-4
  expect_late_refusal "$mark" "$hash" leaked-isolated
  expect_status 401 "$isolated" "$hash"
  expect_status 404 "$isolated_token" "$hash"
  # One that goes on to the end is enough: it may take 20 s.
  stop_nx midway-isolated
  workspace=$run/second
  expect_refusal revoked-isolated "$isolated"
  as_trusted
  expect_late_refusal "$mark" "$hash" leaked-writer
  expect_status 401 "$writer" "$hash"
  expect_status 404 "$write_token" "$hash"
  expect_status 404 "$read_token" "$hash"
  workspace=$run/second
  expect_refusal revoked-writer "$writer"

  # Somebody who may stores it, and keeps it, whatever is still tried with the revoked tokens.
  wipe
  run_nx midway-after "$write_token" -t build --projects=big
  expect_exit 0
  expect_tasks '' big:build
  [[ $(hash_of big:build) == "$hash" ]] || fail 'the builds have different hashes: nothing was tested'
  digest=$(digest_of "$write_token" "$hash")
  finish_nx midway-writer
  stop_hold
  ((nx_code != 0)) || fail 'Nx ended well although its token was revoked'
  expect_text "$run/refusal"
  log_mark=$mark
  puts=$(puts_of "$hash" | grep -v ' status=401 ')
  [[ $puts == *' status=200 '*" token_name=writer"* && $puts != *$'\n'* ]] || fail "not just one upload was taken: $puts"
  [[ $(digest_of "$write_token" "$hash") == "$digest" ]] || fail 'a revoked token has replaced the entry'
  as_pull_request pr-4
  [[ $(digest_of "$isolated_token" "$hash") == "$digest" ]] || fail 'a revoked token has stored an entry of its own'
}

# expect_late_refusal MARK HASH TOKEN-NAME: since that line of the log, an upload of 30 MB by the token was read to its
# end and answered 401.
expect_late_refusal() {
  local lines
  log_mark=$1
  wait_until 30 "the log line of the upload by $3" late_put_of "$2" "$3" >/dev/null
  lines=$(late_put_of "$2" "$3")
  [[ $lines == *' status=401 '* ]] || fail "the upload by $3 was not refused: $lines"
}

late_put_of() { puts_of "$1" | grep -E " bytes_in=3[0-9]{7} .* token_name=$2( |\$)"; }

# The disk of the cache is full: what is stored is restored, the rest is built, and no build fails. Once there is room
# again, what is built is stored, without a restart.
scenario_full_disk() {
  local kept='links:build modes:build' changed='small:build unicode:build' disk_token disk
  database=$run/disk.db mint disk_token --write --name disk
  stop_server
  start_server_on_small_disk
  disk=/proc/$server_pid/root$run/disk
  as_trusted
  wipe
  run_nx disk-cold "$disk_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks '' "$quick_builds"
  # shellcheck disable=SC2086 # a list of words
  expect_puts 200 $quick_builds
  remember kept

  # To the last byte.
  ! head -c 1G /dev/zero 2>/dev/null >"$disk/rest" || fail 'the disk of the server is not small'
  change_source small
  change_source unicode
  wipe
  run_nx disk-full "$disk_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$kept" "$changed"
  # shellcheck disable=SC2086
  expect_puts 403 $changed
  # shellcheck disable=SC2086
  expect_answer 404 "$disk_token" $changed
  # What was restored is what was built before.
  task_words | grep -vE '^(small|unicode) ' >"$run/now.words"
  grep -vE '^(small|unicode) ' "$run/kept.words" | diff -u --label printed --label replayed - "$run/now.words" >"$run/diff" \
    || fail "the replayed terminal output differs: $(head -n 40 "$run/diff")"

  rm "$disk/rest"
  wipe
  run_nx disk-freed "$disk_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$kept" "$changed"
  # shellcheck disable=SC2086
  expect_puts 200 $changed
  remember freed
  wipe
  run_nx disk-warm "$disk_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$kept $changed" ''
  expect_same freed
  stop_server
  start_server
}

# On a disk of its own, which nobody else sees and which goes with the server.
start_server_on_small_disk() {
  local flags
  mkdir "$run/disk"
  # Without privileges in a user namespace; some containers let root mount but make no such namespace.
  for flags in -rm -m; do
    unshare "$flags" mount -t tmpfs none "$run/disk" 2>/dev/null || continue
    # shellcheck disable=SC2016 # the shell inside expands it
    start_server unshare "$flags" sh -ec 'mount -t tmpfs -o size=64m none disk
      cp -p disk.db disk/cache.db
      CACHESRV_DB=$PWD/disk/cache.db exec "$0" serve --set eviction.min_free_disk=0' "$bin"
    return
  done
  fail 'this test mounts a small disk: run it as root, or where unshare -rm works'
}

# The same over TLS, with a certificate of a private CA that the commands of the README made. Who does not know the CA, or
# says http://, is told so, the one in the server's log, the other by Nx. Nx knows SSL_CERT_FILE from 21.6 on.
scenario_tls() {
  local major minor project
  IFS=. read -r major minor _ <<<"$version"
  if ((major < 21 || (major == 21 && minor < 6))); then
    notes[$version]+=', no private CA'
    return 0
  fi
  stop_server
  make_certificate "$run/tls"
  CACHESRV_TLS_CERTIFICATE=$run/tls/cert.pem CACHESRV_TLS_KEY=$run/tls/key.pem start_server
  [[ $server_origin == https://* ]] || fail "the server does not say that it speaks TLS"
  as_trusted
  for project in ${quick_projects//,/ }; do change_source "$project"; done
  wipe
  run_nx tls-unknown "$write_token" -t build --projects="$quick_projects"
  ((nx_code != 0)) || fail 'Nx trusts a CA that it does not know'
  wait_until 10 'the log line of the handshake' grep -q 'a TLS handshake failed' "$server_log"

  nx_settings=("SSL_CERT_FILE=$run/tls/ca.pem")
  wipe
  run_nx tls-cold "$write_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks '' "$quick_builds"
  # shellcheck disable=SC2086 # a list of words
  expect_puts 200 $quick_builds
  remember tls
  wipe
  run_nx tls-warm "$read_token" -t build --projects="$quick_projects"
  expect_exit 0
  expect_tasks "$quick_builds" ''
  expect_same tls
  nx_settings=()

  server_url=http://${server_origin#https://}
  [[ $(ask "$write_token" 0) == 401 ]] || fail 'plain HTTP is not refused'
  cp "$run/body" "$run/refusal"
  wipe
  run_nx tls-plain "$write_token" -t build --projects="$quick_projects"
  ((nx_code != 0)) || fail 'Nx ended well with http:// on the TLS port'
  expect_text "$run/refusal"
  as_trusted
}

# make_certificate DIRECTORY: by the README, for localhost.
make_certificate() {
  mkdir -p "$1"
  # shellcheck disable=SC2016 # nothing is meant to expand
  sed -n '/^<!-- private ca -->$/,/^```$/{/^[<`]/d;p}' "$here/../README.md" | sed 's/cache\.example/localhost/g' >"$1/make.sh"
  grep -q 'DNS:localhost' "$1/make.sh" || fail 'the README has no commands that make a certificate'
  (cd "$1" && sh -e make.sh) >"$1/make.log" 2>&1 || fail "openssl failed: $(tail -n 5 "$1/make.log")"
}

# Ends well when asked to, and has kept its secrets and its nerve all the while.
scenario_shutdown() {
  stop_server
  local secret log
  for log in "$run"/server-*.log "$run/commands.log"; do
    for secret in "${secrets[@]}"; do
      ! grep -qF -- "$secret" "$log" || fail "a token's secret is in $(basename "$log")"
    done
    ! grep -qi 'panicked' "$log" || fail "a panic in $(basename "$log"): $(grep -i -m 1 panicked "$log")"
  done
}

# ---- putting it together -----------------------------------------------------------------------

# timed VERSION NAME COMMAND...
timed() {
  local key="$1 $2" label="nx $1, $2" started
  shift 2
  current=${label//_/ }
  started=$(now_us)
  "$@"
  seconds[$key]=$(($(now_us) - started))
  say "  $(as_seconds "${seconds[$key]}") s  $current"
  current=''
}

prepare() {
  mkdir -p "$run/home" "$run/tmp"
  create_workspace "$version"
  start_server
}

test_version() {
  version=$1
  run=$work/nx-$version
  mkdir -p "$run"
  secrets=()
  server_starts=0
  nx_output=''
  # Nx 20 packs what a link points to in place of the link, whatever the server: the archive it uploads
  # has no links. Newer ones keep them.
  links_kept=yes
  ((${version%%.*} > 20)) || links_kept=no

  local scenario
  say "nx $version"
  timed "$version" install install_nx "$version"
  timed "$version" prepare prepare
  for scenario in "${scenarios[@]}"; do
    # A minute of builds, in which the server says nothing to a client that the others do not show of each version.
    if [[ $scenario == full_disk && $version != "${versions[-1]}" ]]; then
      seconds["$version $scenario"]=0
      continue
    fi
    timed "$version" "$scenario" "scenario_$scenario"
  done
  [[ $keep == 1 ]] || rm -rf "$run"
}

print_table() {
  local scenario version total
  printf '\n%-16s' 'seconds'
  printf '%10s' "${versions[@]}"
  for scenario in install prepare "${scenarios[@]}"; do
    printf '\n%-16s' "${scenario//_/ }"
    for version in "${versions[@]}"; do printf '%10s' "$(as_seconds "${seconds["$version $scenario"]}")"; done
  done
  printf '\n%-16s' 'total'
  for version in "${versions[@]}"; do
    total=0
    for scenario in install prepare "${scenarios[@]}"; do total=$((total + seconds["$version $scenario"])); done
    printf '%10s' "$(as_seconds "$total")"
  done
  printf '\n\n'
  for version in "${versions[@]}"; do
    say "nx $version: exit codes with refused tokens: ${nx_codes[$version]}; ${notes[$version]}"
  done
}

only_workspace() {
  run=$(realpath "$1")
  install_nx "$2"
  create_workspace "$2"
}

main() {
  local wanted started
  started=$(now_us)
  check_tools
  work=$(mktemp -d "${TMPDIR:-/tmp}/cachesrv-e2e.XXXXXX")
  work=$(realpath "$work")
  if [[ ${1:-} == --workspace ]]; then
    only_workspace "$2" "$3"
    return
  fi
  find_binary
  versions=()
  for wanted in "${@:-${default_versions[@]}}"; do
    version=$(exact_version "$wanted")
    # `latest` may name a version that is in the list already.
    [[ " ${versions[*]} " == *" $version "* ]] || versions+=("$version")
  done
  for version in "${versions[@]}"; do test_version "$version"; done
  print_table
  say "e2e-nx: ok: ${#scenarios[@]} scenarios with Nx ${versions[*]}, $(as_seconds $(($(now_us) - started))) s"
}

main "$@"
