//! The baseline: a cache over a directory as a user would write it on tiny_http, in its own process so that
//! its memory can be measured. `main` runs it when called with `serve-tiny-http DIRECTORY TOKEN`.
//!
//! tiny_http leaves Nagle's algorithm on and sends head and body in two writes, so that a small GET waits for
//! the client's delayed ACK, 40 ms. That is what a user of it gets.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tiny_http::{Method, Request, Response, Server};

/// As many as the benchmark has connections: a slow upload holds a thread.
const THREADS: usize = 64;

/// Serves until killed; the port goes to stdout.
pub fn serve(directory: &Path, token: &str) -> Result<()> {
    let server = Server::http("127.0.0.1:0").map_err(|error| anyhow!("tiny_http: {error}"))?;
    let address = server
        .server_addr()
        .to_ip()
        .ok_or_else(|| anyhow!("tiny_http: no address"))?;
    println!("{address}");
    io::stdout().flush()?;
    let server = Arc::new(server);
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (server, directory, expected) = (
                Arc::clone(&server),
                directory.to_owned(),
                format!("Bearer {token}"),
            );
            std::thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    if let Err(error) = answer(request, &directory, &expected, number) {
                        eprintln!("tiny_http: {error}");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        drop(thread.join());
    }
    Ok(())
}

fn answer(mut request: Request, directory: &Path, expected: &str, thread: usize) -> io::Result<()> {
    let authorized = request
        .headers()
        .iter()
        .any(|header| header.field.equiv("Authorization") && header.value.as_str() == expected);
    let Some(path) = request
        .url()
        .strip_prefix("/v1/cache/")
        .map(|hash| directory.join(hash))
    else {
        return request.respond(Response::empty(404));
    };
    if !authorized {
        return request.respond(Response::empty(401));
    }
    match *request.method() {
        Method::Get => match File::open(&path) {
            // Without the threshold, a large body would leave chunked, which Nx is not used to.
            Ok(file) => {
                request.respond(Response::from_file(file).with_chunked_threshold(usize::MAX))
            }
            Err(_) => request.respond(Response::empty(404)),
        },
        Method::Put => {
            store(&mut request, directory, &path, thread)?;
            request.respond(Response::empty(200))
        }
        _ => request.respond(Response::empty(405)),
    }
}

fn store(request: &mut Request, directory: &Path, path: &PathBuf, thread: usize) -> io::Result<()> {
    let temporary = directory.join(format!("upload-{thread}"));
    let mut file = File::create(&temporary)?;
    io::copy(request.as_reader(), &mut file)?;
    fs::rename(temporary, path)
}
