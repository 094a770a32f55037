//! Every row of the tables in the design of the HTTP layer (design/http.md of the project), and the tests that hold
//! it on a real socket. What no client can see, how the server asks the kernel for sockets, is held here.

mod support;

use std::path::Path;
use std::process::Command;

use support::dir::BINARY;
use support::{Dir, Server, eventually, noise};

/// A row of the design, and tests as `file::name`. The speed against nginx is a row of `scripts/bench.sh`.
const ROWS: &[(&str, &[&str])] = &[
    // Why cachesrv does not serve with tiny_http.
    (
        "bursts of new keep-alive connections",
        &[
            "hostile::bursts_of_sixteen_connections_are_answered",
            "hostile::bursts_of_five_hundred_connections_are_answered",
            "http_capacity::burst_of_five_hundred_new_connections_is_answered_while_all_stay_open",
        ],
    ),
    (
        "an unauthenticated terabyte",
        &["hostile::a_terabyte_of_a_stranger_costs_nothing"],
    ),
    (
        "an endless header line",
        &[
            "hostile::an_endless_header_line_is_refused_and_not_kept",
            "hostile::endless_header_lines_are_refused_and_not_kept",
            "hostile::an_endless_target_is_refused_and_not_kept",
        ],
    ),
    (
        "descriptors exhausted, then freed",
        &["hostile::a_server_without_descriptors_waits_and_recovers"],
    ),
    (
        "ambiguous lengths",
        &["hostile::requests_are_not_smuggled_in_bodies"],
    ),
    (
        "a million pipelined requests",
        &["hostile::a_million_requests_sent_ahead_are_not_read"],
    ),
    (
        "all of them against tiny_http",
        &["hostile::the_rows_of_the_design_fail_against_tiny_http"],
    ),
    // What the layer must do.
    (
        "accept: backlog and no delay",
        &["hostile_design::the_kernel_is_asked_for_a_long_queue_no_delay_and_one_write_an_answer"],
    ),
    (
        "accept: errors",
        &["http_capacity::server_without_file_descriptors_waits_and_recovers"],
    ),
    (
        "capacity",
        &[
            "hostile::ten_thousand_idle_connections_leave_the_others_be",
            "http_capacity::answers_close_above_three_quarters_of_the_connections",
            "http_capacity::known_clients_keep_their_connections_in_a_crowd_until_they_have_half_of_all",
            "http_capacity::client_over_the_limit_waits_and_is_served_once_there_is_room",
            "http_capacity::at_the_limit_only_what_has_been_idle_for_long_makes_room",
        ],
    ),
    (
        "deadline of a head",
        &[
            "hostile::two_thousand_heads_that_never_end_are_given_up",
            "http_deadlines::head_that_trickles_is_given_up_at_its_deadline",
            "http_deadlines::head_that_stops_is_given_up_at_its_deadline",
            "http_deadlines::clock_of_a_head_starts_with_its_first_byte",
        ],
    ),
    (
        "deadline of an idle connection",
        &[
            "http_deadlines::idle_connection_is_closed_without_a_word",
            "http_deadlines::idle_timeout_counts_from_the_last_answer",
        ],
    ),
    (
        "deadline of a body",
        &[
            "hostile::a_hundred_writers_that_stop_are_cut",
            "hostile::bodies_byte_by_byte_are_stored",
            "http_deadlines::body_that_stalls_is_given_up",
            "http_deadlines::body_below_the_average_rate_is_given_up_though_it_never_stalls",
        ],
    ),
    (
        "deadline of an answer",
        &[
            "hostile::a_hundred_readers_that_do_not_read_are_cut",
            "http_deadlines::client_that_does_not_read_is_given_up",
            "http_deadlines::client_that_reads_below_the_average_rate_is_given_up",
        ],
    ),
    (
        "deadline of a handshake",
        &[
            "hostile::handshakes_that_stall_anywhere_are_given_up",
            "http_tls::handshake_that_trickles_is_given_up_at_its_deadline",
            "http_tls::client_that_says_nothing_is_hung_up_on",
        ],
    ),
    (
        "wrong protocol",
        &[
            "http_framing::tls_on_the_plain_port_is_hung_up_on_at_once_and_reported",
            "http_tls::what_is_no_tls_is_told_apart",
        ],
    ),
    (
        "limits of a head",
        &[
            "http_framing::head_target_and_header_count_over_their_limits_are_refused",
            "http_framing::head_target_and_header_count_at_their_limits_are_served",
        ],
    ),
    (
        "limit of a body",
        &[
            "hostile::a_terabyte_of_a_client_costs_nothing",
            "protocol::an_artifact_over_the_limit_is_refused_after_its_body_and_the_log_says_so",
        ],
    ),
    (
        "framing",
        &[
            "http_framing::every_ambiguous_length_is_refused",
            "http_framing::every_ambiguous_line_is_refused",
            "http_framing::every_target_but_a_plain_path_is_refused",
            "http_framing::every_other_request_line_is_refused",
            "http_framing::http_1_1_without_exactly_one_host_is_refused",
        ],
    ),
    (
        "pipelining",
        &[
            "http_exchange::pipelined_requests_are_answered_in_order",
            "http_exchange::pipelined_requests_wait_unread_while_their_client_does_not_read",
        ],
    ),
    (
        "refusals",
        &[
            "hostile::an_endless_body_of_a_stranger_is_refused_and_not_kept",
            "hostile::requests_of_a_stranger_are_refused_one_by_one",
            "http_exchange::refused_body_within_the_limit_is_discarded_and_the_connection_goes_on",
            "http_exchange::refusal_arrives_while_the_client_still_sends_thirty_megabytes",
            "http_deadlines::refused_stranger_is_discarded_for_a_bounded_time_and_a_known_client_for_longer",
        ],
    ),
    (
        "Expect: 100-continue",
        &[
            "http_exchange::expectation_is_met_when_the_body_is_read",
            "http_exchange::expectation_that_is_refused_gets_the_refusal_and_no_100",
            "http_framing::expectation_of_anything_else_is_refused",
        ],
    ),
    (
        "responses",
        &[
            "http_exchange::head_of_a_response_is_complete",
            "http_exchange::response_that_fails_midway_is_cut_and_never_looks_whole",
            "hostile_design::the_kernel_is_asked_for_a_long_queue_no_delay_and_one_write_an_answer",
        ],
    ),
    (
        "panics",
        &[
            "http_exchange::panic_costs_its_own_connection_and_nothing_else",
            "http_tls::panic_of_a_handler_costs_its_connection_only",
        ],
    ),
    (
        "shutdown",
        &[
            "http_shutdown::transfers_under_way_are_finished_and_told_to_close",
            "http_shutdown::request_that_outlasts_the_grace_is_cut_and_counted",
            "http_shutdown::client_in_the_queue_of_the_listener_is_still_answered",
            "protocol::a_second_signal_ends_the_server_at_once",
            "activation::the_passed_socket_is_served_in_place_of_the_configured_address",
        ],
    ),
    (
        "TLS",
        &[
            "hostile::idle_connections_over_tls_leave_the_others_be",
            "hostile::resets_in_a_handshake",
            "hostile::floods_of_handshakes_are_borne",
            "hostile::floods_of_key_updates_are_cut",
            "hostile::renegotiation_is_refused",
            "certificates::a_renewed_certificate_is_shown_after_a_sighup_and_open_connections_go_on",
            "certificates::a_renewed_certificate_is_found_without_a_signal_once_both_files_are_there",
        ],
    ),
    (
        "client address",
        &["protocol::the_address_of_a_writer_is_believed_from_a_proxy_only"],
    ),
];

#[test]
fn every_row_of_the_design_is_held_by_tests_that_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut missing = Vec::new();
    for (row, tests) in ROWS {
        assert!(!tests.is_empty(), "{row}");
        for test in *tests {
            let (file, name) = test.split_once("::").expect("a file and a name");
            let path = folder.join(format!("{file}.rs"));
            let text = std::fs::read_to_string(path).expect("the file of a test");
            // The hostile rows are made into tests by a macro.
            let is_there = [format!("\nfn {name}() {{\n"), format!("\n    {name}:")];
            if !is_there.iter().any(|line| text.contains(line)) {
                missing.push((row, test));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// How many answers are looked at.
const ANSWERS: usize = 20;

#[test]
fn the_kernel_is_asked_for_a_long_queue_no_delay_and_one_write_an_answer() {
    let traced = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        eprintln!("strace is not here, or may not trace: nothing was looked at");
        return;
    }
    let dir = Dir::new();
    let token = dir.token("write");
    dir.evidence().exempt_mode("trace");
    let trace = dir.join("trace");
    let mut strace = dir.command("strace");
    strace
        // -D: the server is our child, and strace its grandchild.
        .args(["-D", "-f", "-qq", "-s", "16", "-e"])
        .args(["trace=listen,setsockopt,write,writev,sendto,sendmsg", "-o"])
        .args([trace.as_os_str(), BINARY.as_ref()])
        .args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Server::start_command(&mut strace);
    let body = noise(7, 777);
    assert_eq!(server.client(&token).put("1", &body).status, 200);
    let mut whole = 0;
    for _ in 0..ANSWERS {
        let answer = server.client(&token).get("1");
        assert!(answer.body == body, "{}", answer.head);
        whole = answer.head.len() + body.len();
    }
    assert_eq!(server.stop().code(), Some(0));
    eventually("strace has written all of it", || {
        let text = std::fs::read_to_string(&trace).expect("the trace");
        // A call is one line, or two where another thread came between: the first has its arguments, the second its
        // result.
        let count = |call: &str, rest: &str| {
            let is_one = |line: &&str| line.contains(call) && line.contains(rest);
            text.lines().filter(is_one).count()
        };
        let is_whole = count("writev", &format!(" = {whole}")) == ANSWERS;
        let has_no_delay = count("setsockopt(", "TCP_NODELAY, [1]") == ANSWERS + 1;
        let has_queue = count("listen(", ", 4096") == 1;
        (is_whole && has_no_delay && has_queue).then_some(())
    });
}
