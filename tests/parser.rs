//! The parsers under bytes that nobody would send: heads, whole conversations, tokens, paths and
//! configuration files.
//!
//! The checks stand in tests/fuzz/src/checks, for the coverage-guided fuzzer has the same. Here they are
//! called with its corpus, and with what proptest makes of a grammar: valid heads, lines that are nearly
//! valid, mutations of both, any split into reads. `CACHESRV_TEST_ROUNDS` raises the number of cases, and
//! `CACHESRV_TEST_SEED` repeats a run.

mod support;

#[path = "fuzz/src/checks/mod.rs"]
mod checks;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

use checks::restated::{self, Reading};
use support::{Random, rounds};

/// Cases of each property in CI.
const CASES: u64 = 400;

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: u32::try_from(rounds(CASES)).expect("not more than 2^32 rounds"),
        // A failure prints the bytes; what is worth keeping goes into the corpus.
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(Random::seeded().number()),
        ..ProptestConfig::default()
    }
}

#[test]
fn corpus_of_the_fuzzer_keeps_every_rule() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (target, check) in checks::TARGETS {
        let folder = std::fs::read_dir(corpus.join(target)).expect("the corpus of the target");
        let mut files: Vec<_> = folder.map(|file| file.expect("a file").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in files {
            // Seen where the check fails.
            println!("{}", file.display());
            check(&std::fs::read(&file).expect("a file of the corpus"));
        }
    }
}

/// Each doubtful line in a request, with what somebody may take for its body, before another request.
fn judge_doubtful_lines(check: checks::Check) {
    const NEXT: &str = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    for line in DOUBTFUL {
        for rest in ["", "abc", "5\r\nabcde\r\n0\r\n\r\n", NEXT] {
            for version in ["1.1", "1.0"] {
                let head = format!("PUT /a HTTP/{version}\r\nHost: a\r\n{line}\r\n\r\n");
                let bytes = format!("{head}{rest}{NEXT}");
                // Seen where the check fails.
                println!("{bytes:?}");
                check(bytes.as_bytes());
            }
        }
    }
}

#[test]
fn lines_that_parsers_disagree_about_are_judged_by_the_rules() {
    judge_doubtful_lines(checks::head::check);
    judge_doubtful_lines(checks::connection::check);
}

#[test]
fn hyper_takes_no_other_request_out_of_lines_that_parsers_disagree_about() {
    judge_doubtful_lines(checks::differential::check);
}

/// A line that says nothing wrong, as often as it stands there.
fn harmless_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}:[ \t]{0,2}[ -~]{0,20}[ \t]{0,2}",
        Just("accept: */*".to_owned()),
        Just("Authorization: Bearer abc".to_owned()),
        Just("X-Forwarded-For: 10.0.0.1, 10.0.0.2".to_owned()),
        Just("Connection: close".to_owned()),
        Just("Connection: TE , Keep-Alive".to_owned()),
    ]
}

/// Lines that parsers disagree about, or that count only once.
const DOUBTFUL: &[&str] = &[
    "Content-Length: +5",
    "Content-Length: 0x5",
    "Content-Length: 5, 5",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 00",
    "Content-Length:",
    "Content-Length : 3",
    "Content-Length\t: 3",
    "Content-Length: 3\nA: b",
    "Content-Length: 3\rA: b",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "transfer-encoding:\tchunked",
    "Expect: 100-Continue",
    "Expect: a-miracle",
    "Host: b",
    "Host: a, b",
    " folded",
    "\tfolded",
    "no colon",
    ": nameless",
    "A\u{0}: b",
    "A: \u{7f}",
    "A: ä",
    "",
    "Content-Length: 3\r\nContent-Length: 3",
    "Content-Length: 3\r\nContent-Length: 0",
    "Content-Length: 3\r\nTransfer-Encoding: chunked",
    "Connection: close\r\nConnection: keep-alive",
    "Expect: 100-continue\r\nContent-Length: 3",
];

/// A request line, mostly valid.
fn request_line() -> impl Strategy<Value = String> {
    let method = select(vec!["GET", "HEAD", "PUT", "PUT", "POST", "CONNECT", "get"]);
    let target = prop_oneof![
        12 => select(vec!["/discard", "/ignore", "/early", "/short", "/long", "/nothing"])
            .prop_map(str::to_owned),
        12 => "/v1/cache/[a-z0-9]{1,8}(\\?[a-z%=&]{0,5})?",
        1 => "[!-~]{1,10}",
        1 => "/[!-~]{1,10}",
        1 => (2040_usize..2055).prop_map(|length| "/".repeat(length)),
    ];
    let version = prop_oneof![
        20 => Just("HTTP/1.1"),
        3 => Just("HTTP/1.0"),
        1 => select(vec!["HTTP/1.2", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", ""]),
    ];
    (method, target, version)
        .prop_map(|(method, target, version)| format!("{method} {target} {version}"))
}

/// A request with a body of the length that it announces, or nearly.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec(harmless_line(), 0..5);
    let doubtful = prop::option::weighted(0.08, select(DOUBTFUL));
    let many = prop_oneof![20 => Just(0), 1 => 55_usize..70];
    let body = prop::option::of("[a-z\r\n]{0,100}");
    let waits = prop::bool::weighted(0.2);
    let blank = prop_oneof![20 => Just(""), 5 => Just("\r\n"), 1 => Just("\r\n\r\n")];
    (request_line(), lines, doubtful, many, body, waits, blank).prop_map(
        |(first, mut lines, doubtful, many, body, waits, blank)| {
            lines.extend(doubtful.map(str::to_owned));
            lines.extend(std::iter::repeat_n("A: b".to_owned(), many));
            lines.push("Host: localhost:8787".to_owned());
            if waits {
                lines.push("Expect: 100-continue".to_owned());
            }
            let body = body.inspect(|body| lines.push(format!("Content-Length: {}", body.len())));
            let head = lines.join("\r\n");
            let body = body.unwrap_or_default();
            format!("{blank}{first}\r\n{head}\r\n\r\n{body}").into_bytes()
        },
    )
}

/// A conversation: requests sent ahead, with a few bytes changed, taken away or put in, cut off anywhere.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let requests = prop::collection::vec(request(), 1..6);
    let change = (
        any::<Index>(),
        0_usize..3,
        prop::collection::vec(byte(), 0..3),
    );
    let changes = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(change, 1..3),
    ];
    let cut = prop::option::weighted(0.2, any::<Index>());
    (requests, changes, cut).prop_map(|(requests, changes, cut)| {
        let mut bytes = requests.concat();
        for (at, removed, inserted) in changes {
            let from = at.index(bytes.len());
            let to = (from + removed).min(bytes.len());
            bytes.splice(from..to, inserted);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    })
}

/// How many whole requests a conversation begins with, and whether a broken rule ends it.
fn look_at(bytes: &[u8]) -> (usize, bool) {
    let (mut rest, mut count) = (bytes, 0);
    loop {
        match restated::read(rest) {
            Reading::Incomplete => return (count, false),
            Reading::Refused => return (count, true),
            Reading::Head(head) => {
                let length =
                    usize::try_from(head.content_length.unwrap_or(0)).unwrap_or(usize::MAX);
                let Some(later) = rest[head.end..].get(length..) else {
                    return (count, false);
                };
                rest = later;
                count += 1;
            }
        }
    }
}

#[test]
fn conversations_of_the_grammar_are_served_and_refused_alike() {
    const SAMPLES: usize = 500;
    let mut runner = TestRunner::deterministic();
    let mut sample = || {
        conversation()
            .new_tree(&mut runner)
            .expect("a conversation")
            .current()
    };
    let looks: Vec<_> = (0..SAMPLES).map(|_| look_at(&sample())).collect();
    let share = |is: fn(&(usize, bool)) -> bool| looks.iter().filter(|look| is(look)).count();
    let (served, several, refused) = (
        share(|(count, _)| *count > 0),
        share(|(count, _)| *count > 1),
        share(|(_, refused)| *refused),
    );
    println!(
        "of {SAMPLES}: {served} begin with a request, {several} with two, {refused} are refused"
    );
    assert!(served > SAMPLES / 2 && several > SAMPLES / 4 && refused > SAMPLES / 4);
}

/// Any byte, and those often that mean something.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        any::<u8>(),
        select(b"\r\n \t:,/?%+-0159\x16\0\x7f".to_vec())
    ]
}

/// The lengths of reads; some find nothing.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![0_usize..4, 1_usize..60, 1_usize..5000];
    (prop::collection::vec(length, 0..12), 1_usize..200).prop_map(|(mut lengths, last)| {
        lengths.push(last);
        lengths
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_head_is_the_same_for_any_split_and_keeps_the_rules(
        bytes in conversation(),
        lengths in lengths(),
    ) {
        checks::head::check_split(&bytes, &lengths);
    }

    #[test]
    fn a_conversation_has_the_same_answers_for_any_split(
        bytes in conversation(),
        lengths in lengths(),
    ) {
        checks::connection::check_split(&bytes, &lengths);
    }

    #[test]
    fn hyper_takes_the_same_requests_out_of_the_same_bytes(bytes in conversation()) {
        checks::differential::check(&bytes);
    }

    #[test]
    fn any_bytes_at_all_keep_every_rule(bytes in prop::collection::vec(byte(), 0..300)) {
        for (_, check) in checks::TARGETS {
            check(&bytes);
        }
    }

    #[test]
    fn a_head_near_its_limit_is_judged_to_the_byte(
        fill in 16_300_usize..16_400,
        blank in any::<bool>(),
        lengths in lengths(),
    ) {
        let blank = if blank { "\r\n" } else { "" };
        let mut bytes = format!("{blank}GET / HTTP/1.1\r\nHost: a\r\nA: ").into_bytes();
        bytes.resize(fill, b'a');
        bytes.extend_from_slice(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n");
        checks::head::check_split(&bytes, &lengths);
        checks::connection::check_split(&bytes, &lengths);
    }

    #[test]
    fn a_request_line_near_its_limit_is_judged_to_the_byte(
        method in 1_usize..80,
        target in 2_030_usize..2_060,
        lengths in lengths(),
    ) {
        let (method, target) = ("M".repeat(method), "/".repeat(target));
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        checks::head::check_split(&bytes, &lengths);
    }

    #[test]
    fn text_like_a_token_counts_and_is_shown_by_the_rules(
        text in "(Bearer {0,2}|[bB]asic |)(csrv_[0-9A-Za-z]{12}_[0-9A-Za-z]{43,49}|[csrv_ä('/]{0,30}){1,3}",
    ) {
        checks::token::check(text.as_bytes());
    }

    #[test]
    fn any_path_is_named_by_the_rules(path in "/?(/[ws](/[a-z.%ä]{0,3}){0,2}/?){0,3}/v1/cache/[0-9a-z/]{0,4}") {
        checks::route::check(path.as_bytes());
    }
}
