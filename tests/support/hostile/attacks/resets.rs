//! Connections that are reset: not closed, but torn down without a word, at every stage of a request.

use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use super::LARGE;
use crate::hostile::scene::{Scene, Verdict, is};
use crate::hostile::witness::SMALL;

/// How often, at least; and the rest between two of them.
const TIMES: usize = 300;
const REST: Duration = Duration::from_millis(2);

/// The same where each costs megabytes: it is about the resets, and a client that merely reads as fast as it can takes
/// as much of the machine.
const LONG_REST: Duration = Duration::from_millis(20);

pub fn after_the_connect(scene: &Scene) -> Verdict {
    scene.repeat(TIMES, REST, |_| reset(&scene.connect()?))
}

pub fn in_the_head(scene: &Scene) -> Verdict {
    let head = scene.get(SMALL.0);
    scene.repeat(TIMES, REST, |turn| {
        let mut raw = scene.raw()?;
        raw.try_send(&head[..=(turn % (head.len() - 1))])?;
        reset(raw.socket())
    })
}

pub fn after_the_head_of_an_upload(scene: &Scene) -> Verdict {
    scene.repeat(TIMES, REST, |turn| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.put(&format!("reset{turn}"), 100_000))?;
        reset(raw.socket())
    })
}

pub fn in_the_body(scene: &Scene) -> Verdict {
    scene.repeat(TIMES, REST, |turn| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.put("cut", 400_000))?;
        raw.try_send(vec![7; turn * 1000 % 399_000])?;
        reset(raw.socket())
    })?;
    let mut raw = scene.raw()?;
    raw.try_send(scene.get("cut"))?;
    is(&raw.try_answer(true)?, 404)
}

/// With all of the request sent, and nothing of the answer awaited.
pub fn before_the_answer(scene: &Scene) -> Verdict {
    scene.repeat(TIMES, REST, |_| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.get(LARGE.0))?;
        reset(raw.socket())
    })
}

pub fn in_the_answer(scene: &Scene) -> Verdict {
    scene.repeat(TIMES / 3, LONG_REST, |turn| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.get(LARGE.0))?;
        is(&raw.answer_to_head(), 200)?;
        raw.body(turn * 30_000 % LARGE.1);
        reset(raw.socket())
    })
}

/// After a whole request and a whole answer, on a connection that would stay.
pub fn between_requests(scene: &Scene) -> Verdict {
    scene.repeat(TIMES, REST, |_| {
        let mut raw = scene.raw()?;
        raw.try_send(scene.get(SMALL.0))?;
        is(&raw.try_answer(true)?, 200)?;
        reset(raw.socket())
    })
}

/// From now on, closing it resets it.
fn reset(socket: &TcpStream) -> Verdict {
    Ok(SockRef::from(socket).set_linger(Some(Duration::ZERO))?)
}
