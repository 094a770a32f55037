//! `cachesrv healthcheck`: one question, one exit code, one line when the answer is no.

mod support;

use std::net::TcpListener;

use support::dir::{BINARY, run};
use support::fake::{self, Fake};
use support::{Dir, Outcome, Server};

fn nothing_said() -> Outcome {
    Outcome {
        code: Some(0),
        stdout: String::new(),
        stderr: String::new(),
    }
}

/// A server that is alive and cannot serve.
fn unready() -> Fake {
    Fake::new(|asked| match asked.path.as_str() {
        "/healthz" => ("200 OK".to_owned(), "ok\n".to_owned()),
        _ => (
            "503 Service Unavailable".to_owned(),
            "the disk is full\n".to_owned(),
        ),
    })
}

/// The setting that makes `address` the one of the server.
fn listen(address: impl std::fmt::Display) -> String {
    format!("listen={address}")
}

#[test]
fn a_server_that_answers_is_healthy_and_nothing_is_said() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let listen = listen(server.address());
    for args in [
        &["healthcheck", "--set", &listen][..],
        &["healthcheck", "--ready", "--set", &listen],
    ] {
        assert_eq!(dir.cli(args), nothing_said(), "{args:?}");
    }
    let url = format!("http://{}/", server.address());
    assert_eq!(dir.cli(&["healthcheck", "--url", &url]), nothing_said());
}

#[test]
fn it_reads_the_configuration_that_the_server_reads() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let file = format!("listen = \"{}\"\n", server.address());
    std::fs::write(dir.join("cachesrv.toml"), file).expect("a file");
    dir.evidence().exempt_mode("cachesrv.toml");
    assert_eq!(
        dir.cli(&["healthcheck", "--config", "cachesrv.toml"]),
        nothing_said()
    );
    let address = server.address().to_string();
    let by_variable = run(dir
        .command(BINARY)
        .arg("healthcheck")
        .env("CACHESRV_LISTEN", &address));
    assert_eq!(by_variable, nothing_said());
}

#[test]
fn a_server_that_listens_everywhere_is_asked_over_the_loopback_interface() {
    let dir = Dir::new();
    let mut command = dir.command(BINARY);
    command.args(["serve", "--listen", "0.0.0.0:0"]);
    let server = Server::start_command(&mut command);
    assert!(server.address().ip().is_unspecified());
    let everywhere = listen(server.address());
    assert_eq!(
        dir.cli(&["healthcheck", "--set", &everywhere]),
        nothing_said()
    );
}

#[test]
fn a_server_that_is_gone_is_not_healthy() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let address = server.address();
    server.stop();
    dir.cli(&["healthcheck", "--set", &listen(address)]).failed(
        1,
        &format!("error: http://{address}/healthz: the connection is refused\n"),
    );
}

#[test]
fn a_server_that_hangs_is_not_healthy() {
    let dir = Dir::new();
    // Connections wait in its queue, and nobody accepts them.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    dir.cli(&["healthcheck", "--set", &listen(address)]).failed(
        1,
        &format!("error: http://{address}/healthz: no answer in time\n"),
    );
}

#[test]
fn alive_and_ready_are_two_questions() {
    let dir = Dir::new();
    let fake = unready();
    let listen = listen(fake.address());
    assert_eq!(dir.cli(&["healthcheck", "--set", &listen]), nothing_said());
    dir.cli(&["healthcheck", "--ready", "--set", &listen])
        .failed(
            1,
            &format!(
                "error: {}/readyz answers 503: the disk is full\n",
                fake.url()
            ),
        );
}

#[test]
fn with_tls_it_asks_by_tls_whatever_the_name_in_the_certificate() {
    let dir = Dir::new();
    let pair = fake::self_signed(90);
    let fake = Fake::tls(&pair, |_| ("200 OK".to_owned(), "ok\n".to_owned()));
    std::fs::write(dir.join("cert.pem"), &pair.certificate).expect("a file");
    dir.evidence().exempt_mode("cert.pem");
    let listen = listen(fake.address());
    let tls = [
        "--set",
        "tls.certificate=cert.pem",
        "--set",
        "tls.key=key.pem",
    ];
    let args = [&["healthcheck", "--set", &listen][..], &tls].concat();
    assert_eq!(dir.cli(&args), nothing_said());
}

#[test]
fn a_redirect_is_not_an_answer_and_is_not_followed() {
    let dir = Dir::new();
    let fake = Fake::new(|_| {
        (
            "302 Found\r\nLocation: http://127.0.0.1:1/".to_owned(),
            String::new(),
        )
    });
    dir.cli(&["healthcheck", "--url", &fake.url()])
        .failed(1, &format!("error: {}/healthz answers 302\n", fake.url()));
}

#[test]
fn no_proxy_of_the_environment_is_asked() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let url = format!("http://{}", server.address());
    let mut command = dir.command(BINARY);
    command.args(["healthcheck", "--url", &url]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    assert_eq!(run(&mut command), nothing_said());
}

#[test]
fn port_0_and_no_url_are_usage_errors() {
    let dir = Dir::new();
    dir.cli(&["healthcheck", "--set", "listen=127.0.0.1:0"])
        .failed(
            2,
            "error: the server listens on port 0, which is any free port: its log says which\n\
         try: cachesrv healthcheck --url http://127.0.0.1:8787\n",
        );
    dir.cli(&["healthcheck", "--url", "https://"]).failed(
        2,
        "error: --url: 'https://' names no host\n\
         try: cachesrv healthcheck --url http://127.0.0.1:8787\n",
    );
    dir.cli(&["healthcheck", "--url", "127.0.0.1:8787"]).failed(
        2,
        "error: --url: '127.0.0.1:8787' does not begin with http:// or https://\n\
         try: cachesrv healthcheck --url http://127.0.0.1:8787\n",
    );
}
