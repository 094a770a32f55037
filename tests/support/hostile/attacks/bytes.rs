//! Bytes that are too many, too few at a time, or not what they say.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::hostile::scene::{Scene, Verdict, is};
use crate::hostile::witness::SMALL;
use crate::support::raw::{get, put};
use crate::support::{Raw, noise};

/// A million requests are sent ahead and no answer is read: the server stops reading.
pub fn pipelined_requests(scene: &Scene) -> Verdict {
    const REQUESTS: usize = 1_000_000;
    const TOGETHER: usize = 1000;
    let before = scene.holds();
    let mut socket = scene.begin_to_connect(Some(4096))?;
    let request = scene.get(SMALL.0);
    let together = request.repeat(TOGETHER);
    let whole = request.len() * REQUESTS;
    let (mut sent, mut progress) = (0, Instant::now());
    while sent < whole && progress.elapsed() < Duration::from_secs(1) {
        match socket.write(&together.as_bytes()[sent % together.len()..]) {
            Ok(count) => {
                sent += count;
                progress = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Scene::height();
    if sent >= whole {
        return Err("the server read a million requests ahead".into());
    }
    scene.until_it_holds(before, "a client that reads no answer is cut")
}

/// A header line without an end is refused while it is being sent, and what follows is not kept.
pub fn endless_header_line(scene: &Scene) -> Verdict {
    endless(scene, "GET / HTTP/1.1\r\nHost: t\r\nA: ", b"b", "431")
}

/// The same for a target.
pub fn endless_target(scene: &Scene) -> Verdict {
    endless(scene, "GET /", b"b", "414")
}

/// The same for header lines.
pub fn endless_header_lines(scene: &Scene) -> Verdict {
    endless(scene, "GET / HTTP/1.1\r\nHost: t\r\n", b"A: b\r\n", "431")
}

/// The same for a body of a stranger, who is refused at once.
pub fn endless_body_of_a_stranger(scene: &Scene) -> Verdict {
    endless(scene, &put("/v1/cache/x", u64::MAX / 2), b"b", "401")
}

/// Sends `start` and then `each` for ever, on four connections; all are answered with `status`.
fn endless(scene: &Scene, start: &str, each: &[u8], status: &str) -> Verdict {
    const BYTES: usize = 128 << 20;
    let block = each.repeat((256 << 10) / each.len());
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let mut socket = scene.connect()?;
        socket.write_all(start.as_bytes())?;
        socket.set_nonblocking(true)?;
        crowd.push((socket, 0, Vec::new()));
    }
    Scene::height();
    let began = Instant::now();
    while !crowd.is_empty() {
        for (mut socket, mut sent, mut answer) in std::mem::take(&mut crowd) {
            match socket.write(&block[sent % block.len()..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A reset overtakes the answer.
                Err(error) => return Err(format!("{error} after {sent} bytes").into()),
            }
            read_what_is_there(&socket, &mut answer);
            if sent < BYTES && began.elapsed() < scene.patience {
                crowd.push((socket, sent, answer));
            } else if !answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()) {
                let answer = answer.escape_ascii();
                return Err(format!("no answer {status} after {sent} bytes: {answer}").into());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn read_what_is_there(mut socket: &TcpStream, into: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    while let Ok(count) = socket.read(&mut buffer) {
        if count == 0 {
            return;
        }
        into.extend_from_slice(&buffer[..count]);
    }
}

/// A stranger announces a terabyte, and is refused; nobody makes room for it.
pub fn terabyte_of_a_stranger(scene: &Scene) -> Verdict {
    let mut all_close = true;
    scene.repeat(20, Duration::from_millis(20), |_| {
        let mut raw = scene.raw()?;
        raw.try_send(put("/v1/cache/x", 1_000_000_000_000))?;
        let answer = raw.try_answer(true)?;
        all_close &= answer.closes();
        is(&answer, 401)
    })?;
    if !all_close {
        return Err("the terabyte would be the next request".into());
    }
    Ok(())
}

/// The same by somebody with a token: it is over the limit of an artifact.
pub fn terabyte_of_a_client(scene: &Scene) -> Verdict {
    scene.repeat(20, Duration::from_millis(20), |_| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.put("terabyte", 1_000_000_000_000))?;
        is(&raw.try_answer(true)?, 403)
    })
}

/// Bodies that arrive one byte at a time are stored like any other.
pub fn bodies_byte_by_byte(scene: &Scene) -> Verdict {
    const CLIENTS: usize = 20;
    scene.repeat(1, Duration::ZERO, |turn| {
        let body = noise(turn as u64, 500);
        let mut crowd = Vec::new();
        for client in 0..CLIENTS {
            let mut raw = scene.raw()?;
            raw.try_send(scene.put(&format!("slow{turn}x{client}"), body.len() as u64))?;
            crowd.push(raw);
        }
        for byte in &body {
            for raw in &mut crowd {
                raw.try_send([*byte])?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for (client, raw) in crowd.iter_mut().enumerate() {
            is(&raw.try_answer(true)?, 200)?;
            raw.try_send(scene.get(&format!("slow{turn}x{client}")))?;
            let answer = raw.try_answer(true)?;
            is(&answer, 200)?;
            if answer.body != body {
                return Err("another body than was sent byte by byte".into());
            }
        }
        Ok(())
    })
}

/// Lengths on which two parsers might disagree.
const AMBIGUOUS: [&str; 8] = [
    "Content-Length: 5\r\nContent-Length: 0",
    "Content-Length: -5",
    "Content-Length: 5, 5",
    "Content-Length: 0x5",
    "Content-Length: +5",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Content-Length : 5",
];

/// A body is never taken for a request: behind an ambiguous length there is a refusal, and the end.
pub fn smuggled_requests(scene: &Scene) -> Verdict {
    let hidden = scene.get(SMALL.0);
    let mut smuggled = Vec::new();
    scene.repeat(2, Duration::ZERO, |_| {
        for lines in AMBIGUOUS {
            // It is about what is believed, not about how many ask.
            std::thread::sleep(Duration::from_millis(2));
            let secret = &scene.secret;
            let head = format!(
                "PUT /v1/cache/x HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {secret}\r\n{lines}\r\n\r\n"
            );
            let mut raw = scene.raw()?;
            raw.try_send(head + &hidden)?;
            raw.finish_sending();
            let answers = raw.rest().unwrap_or_default();
            let answers = String::from_utf8_lossy(&answers);
            let count = answers.matches("HTTP/1.1 ").count();
            if count != 1 || !answers.starts_with("HTTP/1.1 400") {
                smuggled.push(lines);
            }
        }
        Ok(())
    })?;
    if smuggled.is_empty() {
        return Ok(());
    }
    smuggled.truncate(AMBIGUOUS.len());
    Err(format!("the body was taken for a request, or not refused: {smuggled:?}").into())
}

/// A stranger who floods requests over connections that stay is told so, each time.
pub fn requests_of_a_stranger(scene: &Scene) -> Verdict {
    let mut raw: Option<Raw> = None;
    scene.repeat(500, Duration::from_millis(1), |_| {
        let mut client = match raw.take() {
            Some(client) => client,
            None => scene.raw()?,
        };
        client.try_send(get("/v1/cache/x"))?;
        let answer = client.try_answer(true)?;
        is(&answer, 401)?;
        raw = (!answer.closes()).then_some(client);
        Ok(())
    })
}
