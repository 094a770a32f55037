//! Many connections that hold on to something: a head, an answer, a body, nothing at all.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::LARGE;
use crate::hostile::scene::{Scene, Verdict, is};
use crate::hostile::witness::SMALL;
use crate::support::{Raw, noise};

/// From one byte to the next of a head that never ends.
const TRICKLE: Duration = Duration::from_millis(500);

/// 2,000 heads that never end, however they trickle, are given up at their deadline.
pub fn heads_that_never_end(scene: &Scene) -> Verdict {
    // Nearly as much as the server takes for a head.
    let filling = "a".repeat(15_000);
    let start = format!("GET /v1/cache/x HTTP/1.1\r\nHost: t\r\nA: {filling}");
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut some = scene.crowd(10)?;
        for socket in &mut some {
            send(socket, start.as_bytes(), scene)?;
        }
        crowd.append(&mut some);
        // It is about what they hold, not about how fast they come.
        std::thread::sleep(Duration::from_millis(10));
    }
    Scene::height();
    scene.until("every head is given up with 408", || {
        std::thread::sleep(TRICKLE);
        for socket in std::mem::take(&mut crowd) {
            let (mut reader, mut writer) = (&socket, &socket);
            let mut status = [0; 12];
            match reader.read(&mut status) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // No byte moves the deadline.
                    let _ = writer.write(b"a");
                    crowd.push(socket);
                }
                Ok(12) if status == *b"HTTP/1.1 408" => {}
                other => return Err(format!("{other:?}: {}", status.escape_ascii()).into()),
            }
        }
        Ok(crowd.is_empty())
    })
}

/// Each of 500 new keep-alive connections is answered while all the others stay, and then again.
pub fn bursts_of_five_hundred(scene: &Scene) -> Verdict {
    let first = burst(scene, 500)?;
    Scene::height();
    scene.hold();
    let second = burst(scene, 500)?;
    drop((first, second));
    Ok(())
}

/// The same of small bursts, as four builds a second make them, one after the other.
pub fn bursts_of_sixteen(scene: &Scene) -> Verdict {
    scene.repeat(20, Duration::from_millis(250), |turn| {
        burst(scene, 16 + turn % 3 * 22).map(drop)
    })
}

/// So many new connections with a request each, and then with another one.
fn burst(scene: &Scene, count: usize) -> Result<Vec<Raw>, Box<dyn Error>> {
    let (request, bytes) = (scene.get(SMALL.0), noise(7, SMALL.1));
    let sockets = scene.crowd(count)?;
    let mut crowd = Vec::new();
    for mut socket in sockets {
        send(&mut socket, request.as_bytes(), scene)?;
        socket.set_nonblocking(false)?;
        crowd.push(Raw::over(socket)?);
    }
    // One time for all of them: whoever has no answer by then was starved.
    let began = Instant::now();
    let mut starved = 0;
    for raw in &mut crowd {
        let left = scene.patience.saturating_sub(began.elapsed());
        let left = left.max(Duration::from_millis(1));
        raw.socket().set_read_timeout(Some(left))?;
        let Ok(answer) = raw.try_answer(true) else {
            starved += 1;
            continue;
        };
        is(&answer, 200)?;
        if answer.body != bytes || answer.closes() {
            return Err(format!("another answer: {}", answer.head).into());
        }
    }
    if starved > 0 {
        let what = "requests without an answer while the others stay open";
        return Err(format!("{starved} {what}").into());
    }
    for raw in &mut crowd {
        raw.try_send(&request)?;
    }
    for raw in &mut crowd {
        is(&raw.try_answer(true)?, 200)?;
    }
    Ok(crowd)
}

/// 100 clients that ask for a large artifact and never read are cut.
pub fn readers_that_do_not_read(scene: &Scene) -> Verdict {
    let before = scene.holds();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut socket = scene.begin_to_connect(Some(4096))?;
        send(&mut socket, scene.get(LARGE.0).as_bytes(), scene)?;
        crowd.push(socket);
    }
    scene.until("the begin of every answer", || {
        Ok(crowd.iter().all(|socket| begin(socket).is_some()))
    })?;
    // For the others there is no memory: to them it is a miss.
    crowd.retain(|socket| begin(socket) == Some(*b"HTTP/1.1 200"));
    if crowd.len() < 90 {
        return Err(format!("only {} had an answer", crowd.len()).into());
    }
    // A hundred downloads that begin at once are work like any other, 0.2 s of it. The attack is what follows.
    scene.until_it_rests()?;
    Scene::height();
    // To read what is on its way would be the work of a reader.
    scene.hold();
    scene.until_it_holds(before, "every answer that nobody reads is cut")?;
    for socket in crowd {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(scene.patience))?;
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = (&socket).read_to_end(&mut rest);
        if rest.len() >= LARGE.1 || !rest.starts_with(b"HTTP/1.1 200") {
            return Err("an answer that nobody read went on".into());
        }
    }
    Ok(())
}

/// 100 uploads that stop in the middle are cut, and nothing of them is stored.
pub fn writers_that_stop(scene: &Scene) -> Verdict {
    let before = scene.holds();
    let mut crowd = Vec::new();
    for number in 0..100 {
        let mut raw = scene.raw()?;
        let head = scene.put(&format!("stopped{number}"), 1 << 20);
        raw.try_send(head)?;
        raw.try_send(vec![7; 1 << 19])?;
        crowd.push(raw);
    }
    Scene::height();
    scene.until_it_holds(before, "every upload that stops is cut")?;
    for raw in &mut crowd {
        let rest = raw.rest().unwrap_or_default();
        if !(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503")) {
            return Err(format!("half a body was answered: {}", rest.escape_ascii()).into());
        }
    }
    let mut raw = scene.raw()?;
    for number in 0..100 {
        raw.try_send(scene.get(&format!("stopped{number}")))?;
        is(&raw.try_answer(true)?, 404)?;
    }
    Ok(())
}

/// The default of `limits.connections_max`.
const CONNECTIONS_MAX: usize = 4096;

/// 10,000 connections are attempted that then do nothing.
pub fn idle_connections(scene: &Scene) -> Verdict {
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.extend(scene.crowd(100)?);
        // It is about what they hold, not about how fast they come.
        std::thread::sleep(Duration::from_millis(10));
    }
    // Only some are taken; the others wait in the kernel, or outside.
    scene.until("as many connections as the server takes", || {
        Ok(scene.holds().threads > CONNECTIONS_MAX)
    })?;
    Scene::height();
    scene.hold();
    let threads = scene.holds().threads;
    drop(crowd);
    if threads > CONNECTIONS_MAX + 100 {
        return Err(format!("{threads} threads are more than the server may have").into());
    }
    Ok(())
}

/// While the server has no descriptors left, who comes late waits, and is served when there are some again.
pub fn descriptors(scene: &Scene) -> Verdict {
    // A server that gave up listening is found out at the end.
    let crowd: Vec<_> = (0..100).map(|_| scene.raw()).collect();
    let mut late = scene.raw();
    let waits = late.as_mut().is_ok_and(|late| {
        let sent = late.try_send(scene.get(SMALL.0));
        sent.is_ok() && late.stays_open_for(Duration::from_secs(1))
    });
    Scene::height();
    scene.hold();
    drop(crowd);
    let mut again = scene.raw().map_err(|_| "never accepts again")?;
    again.try_send(scene.get(SMALL.0))?;
    is(
        &again.try_answer(true).map_err(|_| "never accepts again")?,
        200,
    )?;
    if !waits {
        return Err("the one that came late was not kept waiting".into());
    }
    let mut late = late?;
    late.socket().set_read_timeout(Some(scene.patience))?;
    is(&late.try_answer(true)?, 200)
}

/// The status line that has arrived, as far as it tells answers apart.
fn begin(socket: &TcpStream) -> Option<[u8; 12]> {
    let mut status = [0; 12];
    let peeked = socket.peek(&mut status).ok()?;
    (peeked == status.len()).then_some(status)
}

/// Sends all of it on a socket that does not block.
fn send(socket: &mut TcpStream, mut bytes: &[u8], scene: &Scene) -> Verdict {
    scene.until("room for a few bytes", || {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Not connected yet.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => return Err(error.into()),
        }
        Ok(bytes.is_empty())
    })
}
