#!/usr/bin/env bash
# Runs the suites that try to break cachesrv for longer than CI can, in the release profile. See --help.
#
# A suite is one or more files of tests/. Its random tests read how many rounds they make, and from which seed, from
# two variables (tests/support/random.rs); this script sets them. A new suite is a row in `suites` below.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."

# Suite, rounds, files of tests/ without their ending (`lib:NAME` are tests inside src/), what it does.
readonly suites='
hostile     | 50      | hostile hostile_design      | clients that break HTTP, TLS and the time limits, alone and by the thousand
parser      | 200000  | parser                      | request heads in pieces, mutated, and held against a second parser
crash       | 500     | crash                       | kills the server at random moments under load; what it acknowledged must be there
power_loss  | 500     | power_loss                  | cuts the power: of what was not synced any part may be lost
nth_failure | 200     | nth_failure full_disk       | makes the first, second, third … system call fail, of each kind
damage      | 500     | damage damage_log hostile_schema | changes bytes, pages and the schema of the file
processes   | 50      | processes                   | several programs on one file: servers, commands, backups, strangers
model       | 1000000 | lib:model_tests             | random operations, and after each what a model says must be there
leaks       | 100     | leaks                       | thousands of requests of every kind, and what the process has afterwards
'
readonly fuzz_dir=tests/fuzz fuzz_minutes=5

usage() {
    cat <<'END'
Runs the suites that try to break cachesrv for longer than CI can, in the release profile.

  scripts/survive.sh SUITE [--rounds N] [--minutes M] [--seed S]
  scripts/survive.sh leaks --valgrind

  --rounds N    rounds of each random test [default: below]
  --minutes M   goes on, each time with the next seed, until M minutes have passed; for fuzz, of each target
  --seed S      repeats the choices of an earlier run [default: by the clock]
  --valgrind    runs the debug build under valgrind, with a few requests of each kind (leaks only)

Exits 1 when anything failed. A failing run is repeated by the seed in the last line.

Suite        Rounds   What
END
    rows | while read -r suite rounds _ what; do printf '%-12s %-8s %s\n' "$suite" "$rounds" "$what"; done
    printf '%-12s %-8s %s\n' fuzz "$fuzz_minutes min" "cargo fuzz, every target in $fuzz_dir" \
        all '' 'every suite, one after the other'
}

fail() {
    echo "error: $1" >&2
    [ -z "${2:-}" ] || echo "try: $2" >&2
    exit "${3:-1}"
}

# The table with words for columns: suite, rounds, files joined by commas, what it does.
rows() {
    local suite rounds files what
    while IFS='|' read -r suite rounds files what; do
        [ -n "$suite" ] || continue
        read -r suite <<<"$suite"
        read -ra files <<<"$files"
        printf '%s %s %s %s\n' "$suite" "${rounds// /}" "$(IFS=, && echo "${files[*]}")" "${what# }"
    done <<<"$suites"
}

# The arguments of `cargo test` for the files of a suite that are there.
targets() {
    local file
    for file in ${1//,/ }; do
        case $file in
        lib:*) ! grep -qr "mod ${file#lib:};" src || printf '%s\n' --lib "${file#lib:}" ;;
        *) [ ! -e "tests/$file.rs" ] || printf '%s\n' --test "$file" ;;
        esac
    done
}

# run_tests SUITE ROUNDS FILES: with `seed` and `valgrind`.
run_tests() {
    local suite=$1 rounds=$2 profile=(--release) target variables=()
    mapfile -t target < <(targets "$3")
    [ ${#target[@]} -gt 0 ] || fail "there is no suite '$suite' here: tests/${3//,/.rs, tests/}.rs would hold it" '' 3
    variables=("CACHESRV_TEST_ROUNDS=$rounds" "CACHESRV_TEST_SEED=$seed")
    [ "$suite" != hostile ] || variables+=(CACHESRV_TEST_LATENCY=1)
    if [ -n "$valgrind" ]; then
        # With the names of functions in its stacks, and every check of a debug build.
        profile=()
        variables+=(CACHESRV_TEST_VALGRIND=1)
    fi
    env "${variables[@]}" cargo test --locked "${profile[@]}" "${target[@]}" -- --nocapture
}

run_fuzz() {
    local seconds=$((minutes * 60)) target targets failed=0
    [ -d "$fuzz_dir" ] || fail "there is no suite 'fuzz' here: $fuzz_dir would hold it" '' 3
    command -v cargo-fuzz >/dev/null || fail "cargo-fuzz is not installed" "cargo install --locked cargo-fuzz"
    [ "$seconds" -gt 0 ] || seconds=$((fuzz_minutes * 60))
    # Coverage needs a flag of the compiler that is not stable.
    export RUSTC_BOOTSTRAP=1
    targets=$(cargo fuzz list --fuzz-dir "$fuzz_dir") || return 1
    [ -n "$targets" ] || fail "there is no target in '$fuzz_dir'"
    while read -r target; do
        echo "== fuzz $target, $seconds s"
        cargo fuzz run --fuzz-dir "$fuzz_dir" "$target" -- \
            "-max_total_time=$seconds" "-seed=$((seed % 2147483647 + 1))" -print_final_stats=1 </dev/null || failed=1
    done <<<"$targets"
    return "$failed"
}

# run_suite SUITE: once, or until the time is over. Leaves a line for the table.
run_suite() {
    local suite=$1 row began=$SECONDS result=ok runs=0 end=$((SECONDS + minutes * 60))
    row=$(rows | grep "^$suite ") || [ "$suite" = fuzz ] || fail "no suite is called '$suite'" "scripts/survive.sh --help" 2
    while [ "$runs" = 0 ] || { [ "$result" = ok ] && [ "$SECONDS" -lt "$end" ]; }; do
        seed=$((first_seed + runs))
        runs=$((runs + 1))
        echo "== $suite, seed $seed"
        if [ "$suite" = fuzz ]; then
            (run_fuzz) || result=$?
            break
        fi
        # shellcheck disable=SC2086 # columns
        set -- $row
        (run_tests "$1" "${rounds:-$2}" "$3") || result=$?
    done
    case $result in
    ok) ;;
    3) result=missing ;;
    *) result=FAILED ;;
    esac
    table+=$(printf '%-12s %-7s %5d run(s) %7d s   seed %s' "$suite" "$result" "$runs" "$((SECONDS - began))" "$seed")$'\n'
    [ "$result" = ok ]
}

wanted='' rounds='' minutes=0 valgrind='' first_seed=$(date +%N)
first_seed=$((10#$first_seed))
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --rounds | --minutes | --seed)
        [[ ${2:-} =~ ^(0|[1-9][0-9]*)$ ]] || fail "$1 wants a whole number" "scripts/survive.sh --help" 2
        [ "$1 $2" != '--rounds 0' ] || fail "no round at all tests nothing" "scripts/survive.sh --help" 2
        case $1 in
        --rounds) rounds=$2 ;;
        --minutes) minutes=$2 ;;
        --seed) first_seed=$2 ;;
        esac
        shift
        ;;
    --valgrind) valgrind=1 ;;
    -*) fail "there is no option '$1'" "scripts/survive.sh --help" 2 ;;
    *)
        [ -z "$wanted" ] || fail "one suite at a time, or 'all'" "scripts/survive.sh --help" 2
        wanted=$1
        ;;
    esac
    shift
done
[ -n "$wanted" ] || fail "which suite?" "scripts/survive.sh --help" 2
if [ -n "$valgrind" ]; then
    [ "$wanted" = leaks ] || fail "--valgrind is for leaks only" "scripts/survive.sh leaks --valgrind" 2
    command -v valgrind >/dev/null || fail "valgrind is not installed" "sudo apt-get install valgrind"
    rounds=${rounds:-3}
fi

table='' failed=0
if [ "$wanted" = all ]; then
    for suite in $(rows | cut -d ' ' -f 1) fuzz; do
        run_suite "$suite" || failed=1
    done
else
    run_suite "$wanted" || failed=1
fi
printf '\n%s' "$table"
exit "$failed"
