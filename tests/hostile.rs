//! Hostile clients, against the real binary: what one of them does must not take the cache from the others.
//!
//! Each row is one attack by a process of its own; what is asserted of every one, and how, is in
//! `support/hostile/mod.rs`. `CACHESRV_TEST_LATENCY=1` adds the times (`scripts/survive.sh hostile`, on a quiet
//! machine); with `--nocapture` each row prints what it measured.
//!
//! The same rows are held against a cache on tiny_http, which fails where the design says why it is not used.

#[path = "support/hostile/mod.rs"]
mod hostile;
mod support;

use hostile::attacks::{bytes, crowds, renegotiation, resets, tls};
use hostile::scene::Scene;
use hostile::{Kind, Row, control, fails, survives};

/// Makes a table of rows, and a test of each.
macro_rules! rows {
    ($($name:ident: $row:expr;)*) => {
        const ROWS: &[(&str, Row)] = &[$((stringify!($name), $row)),*];

        $(#[test]
        fn $name() {
            survives(stringify!($name), row(stringify!($name)));
        })*
    };
}

rows! {
    two_thousand_heads_that_never_end_are_given_up:
        Row::of(crowds::heads_that_never_end).with(&["limits.head_timeout=6s"]);
    bursts_of_five_hundred_connections_are_answered:
        Row::of(crowds::bursts_of_five_hundred);
    bursts_of_sixteen_connections_are_answered: Row::of(crowds::bursts_of_sixteen);
    a_hundred_readers_that_do_not_read_are_cut:
        Row::of(crowds::readers_that_do_not_read)
            .with(&["limits.write_timeout=6s", "limits.database_wait=1s"])
            .with_large();
    a_hundred_writers_that_stop_are_cut:
        Row::of(crowds::writers_that_stop).with(&["limits.body_timeout=2s"]);
    ten_thousand_idle_connections_leave_the_others_be:
        Row::of(crowds::idle_connections);
    a_server_without_descriptors_waits_and_recovers:
        Row::of(crowds::descriptors).with_open_files(80, "cannot accept connections");

    a_million_requests_sent_ahead_are_not_read:
        Row::of(bytes::pipelined_requests).with(&["limits.write_timeout=2s"]);
    an_endless_header_line_is_refused_and_not_kept:
        Row::of(bytes::endless_header_line);
    an_endless_target_is_refused_and_not_kept:
        Row::of(bytes::endless_target);
    endless_header_lines_are_refused_and_not_kept:
        Row::of(bytes::endless_header_lines);
    an_endless_body_of_a_stranger_is_refused_and_not_kept:
        Row::of(bytes::endless_body_of_a_stranger);
    a_terabyte_of_a_stranger_costs_nothing:
        Row::of(bytes::terabyte_of_a_stranger);
    a_terabyte_of_a_client_costs_nothing:
        Row::of(bytes::terabyte_of_a_client);
    bodies_byte_by_byte_are_stored:
        Row::of(bytes::bodies_byte_by_byte);
    requests_are_not_smuggled_in_bodies:
        Row::of(bytes::smuggled_requests);
    requests_of_a_stranger_are_refused_one_by_one:
        Row::of(bytes::requests_of_a_stranger);

    resets_after_the_connect: Row::of(resets::after_the_connect);
    resets_in_the_head: Row::of(resets::in_the_head);
    resets_after_the_head_of_an_upload: Row::of(resets::after_the_head_of_an_upload);
    resets_in_the_body: Row::of(resets::in_the_body);
    resets_before_the_answer: Row::of(resets::before_the_answer).with_large();
    resets_in_the_answer: Row::of(resets::in_the_answer).with_large();
    resets_between_requests: Row::of(resets::between_requests);

    handshakes_that_stall_anywhere_are_given_up: Row::of(tls::handshakes_that_stall).over_tls();
    idle_connections_over_tls_leave_the_others_be: Row::of(tls::idle_connections).over_tls();
    resets_in_a_handshake: Row::of(tls::resets).over_tls();
    floods_of_handshakes_are_borne: Row::of(tls::floods_of_handshakes).over_tls();
    floods_of_key_updates_are_cut: Row::of(tls::floods_of_key_updates).over_tls();
    renegotiation_is_refused: Row::of(renegotiation::renegotiation).over_tls();
}

fn row(name: &str) -> &'static Row {
    let found = ROWS.iter().find(|(other, _)| *other == name);
    &found
        .unwrap_or_else(|| panic!("no attack is called {name}"))
        .1
}

/// Rows that tell tiny_http from cachesrv, and what they say of it. The first are those of design/http.md.
const CONTROL: &[(&str, &str)] = &[
    (
        "bursts_of_sixteen_connections_are_answered",
        "requests without an answer",
    ),
    (
        "a_terabyte_of_a_stranger_costs_nothing",
        "the server has ended",
    ),
    (
        "an_endless_header_line_is_refused_and_not_kept",
        "its memory passed the bound",
    ),
    (
        "a_server_without_descriptors_waits_and_recovers",
        "never accepts again",
    ),
    (
        "requests_are_not_smuggled_in_bodies",
        "was taken for a request",
    ),
    (
        "a_million_requests_sent_ahead_are_not_read",
        "its memory passed the bound",
    ),
];

#[test]
fn the_rows_of_the_design_fail_against_tiny_http() {
    let mut wrong = Vec::new();
    for (name, expected) in CONTROL {
        let failure = fails(name, row(name), Kind::TinyHttp);
        println!("control: {name}: {failure:?}");
        if !failure
            .as_ref()
            .is_err_and(|failure| failure.contains(expected))
        {
            wrong.push((name, failure));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The entry of attackers: each is this test in a process of its own, where a variable names its attack.
#[test]
fn an_attacker_is_a_process_of_its_own() {
    if let Some((name, scene)) = Scene::given() {
        Scene::tell(&(row(&name).attack)(&scene));
    }
}

/// The entry of the control.
#[test]
fn the_control_is_a_process_of_its_own() {
    control::serve_if_asked();
}
