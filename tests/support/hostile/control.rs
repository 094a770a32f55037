//! The negative control: a cache as a user would write it on tiny_http, in a process of its own. It is this test
//! binary once more. Rows that it passes say nothing about cachesrv; design/http.md lists those it fails.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, RwLock};
use std::thread;

use tiny_http::{Method, Request, Response, Server};

/// The only token that it knows.
pub const SECRET: &str = "control";

/// The test of the binary that hands over to the server.
const ENTRY: &str = "the_control_is_a_process_of_its_own";

/// Says that this process is the server.
const SERVES: &str = "CACHESRV_TEST_CONTROL";

/// A slow client holds a thread: as many as the benchmark's has.
const THREADS: usize = 64;

type Stored = Arc<RwLock<HashMap<String, Arc<Vec<u8>>>>>;

/// Completes a command that starts it.
pub fn command(command: &mut Command, directory: &Path) {
    let this = std::env::current_exe().expect("this test binary");
    command
        .arg(this)
        .args(["--exact", ENTRY, "--nocapture", "--test-threads=1"])
        .env(SERVES, "1")
        .current_dir(directory);
}

/// Serves until it is killed, where this process was started for that.
pub fn serve_if_asked() -> bool {
    if std::env::var_os(SERVES).is_none() {
        return false;
    }
    let server = Arc::new(Server::http("127.0.0.1:0").expect("a free port"));
    let stored = Stored::default();
    let serve = |_| {
        let (server, stored) = (Arc::clone(&server), Arc::clone(&stored));
        thread::spawn(move || {
            while let Ok(request) = server.recv() {
                // A client that is gone.
                let _ = answer(request, &stored);
            }
        })
    };
    let threads: Vec<_> = (0..THREADS).map(serve).collect();
    eprintln!("control info listening address={}", server.server_addr());
    for thread in threads {
        let _ = thread.join();
    }
    true
}

fn answer(mut request: Request, stored: &Stored) -> io::Result<()> {
    let expected = format!("Bearer {SECRET}");
    let is_allowed = request
        .headers()
        .iter()
        .any(|header| header.field.equiv("Authorization") && header.value.as_str() == expected);
    if !is_allowed {
        return request.respond(Response::empty(401));
    }
    let path = request.url().to_owned();
    match request.method() {
        Method::Get => {
            let found = stored.read().expect("no panic").get(&path).cloned();
            let Some(bytes) = found else {
                return request.respond(Response::empty(404));
            };
            let response = Response::from_data(bytes.to_vec());
            request.respond(response.with_chunked_threshold(usize::MAX))
        }
        Method::Put => {
            let mut bytes = Vec::new();
            request.as_reader().read_to_end(&mut bytes)?;
            stored
                .write()
                .expect("no panic")
                .insert(path, Arc::new(bytes));
            request.respond(Response::empty(200))
        }
        _ => request.respond(Response::empty(405)),
    }
}
