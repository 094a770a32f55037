//! Handshakes that stall, and what a client can ask for after one.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;

use crate::hostile::scene::{Scene, Verdict, is};
use crate::hostile::witness::SMALL;
use crate::support::{Raw, rounds};

/// Handshakes that stop before, within and after each record that the client has to send, in both versions.
pub fn handshakes_that_stall(scene: &Scene) -> Verdict {
    let before = scene.holds();
    let mut crowd = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = scene.trusted(&[version])?;
        for flight in 0..2 {
            for cut in 0.. {
                let (socket, was_whole) = stalled(scene, &config, flight, cut)?;
                crowd.push(socket);
                if was_whole {
                    break;
                }
            }
        }
        // And many that stop where the server has done the most for them.
        for _ in 0..100 {
            crowd.push(stalled(scene, &config, 1, 0)?.0);
        }
    }
    Scene::height();
    scene.until_it_holds(before, "every handshake that stalls is given up")
}

/// A connection on which `flight` is cut: at the start, then in the middle and at the end of each record. The last
/// byte of the last flight is never sent. True: there is no later place to cut.
fn stalled(
    scene: &Scene,
    config: &Arc<ClientConfig>,
    flight: usize,
    cut: usize,
) -> Result<(TcpStream, bool), Box<dyn Error>> {
    let mut socket = scene.connect()?;
    let mut client = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    for _ in 0..flight {
        socket.write_all(&written(&mut client)?)?;
        while !client.wants_write() {
            if client.read_tls(&mut socket)? == 0 {
                return Err("the server hung up in a handshake".into());
            }
            client.process_new_packets()?;
        }
    }
    let bytes = written(&mut client)?;
    let cuts = cuts(&bytes, flight == 1);
    let at = cuts[cut.min(cuts.len() - 1)];
    socket.write_all(&bytes[..at])?;
    Ok((socket, cut + 1 >= cuts.len()))
}

pub(super) fn written(client: &mut ClientConnection) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// The places where records begin and end, and their middles.
fn cuts(bytes: &[u8], is_last: bool) -> Vec<usize> {
    let (mut cuts, mut at) = (vec![0], 0);
    while at + 5 <= bytes.len() {
        let length = usize::from(bytes[at + 3]) << 8 | usize::from(bytes[at + 4]);
        // In the header of the record, in the middle of its content, and at its end.
        cuts.extend([at + 3, at + 5 + length / 2, at + 5 + length]);
        at += 5 + length;
    }
    if is_last {
        cuts.pop();
        cuts.push(bytes.len() - 1);
    }
    cuts
}

/// Connections after their handshake that do nothing, or begin a head and do not end it.
pub fn idle_connections(scene: &Scene) -> Verdict {
    let config = scene.trusted(&[&TLS13])?;
    let mut crowd = Vec::new();
    for number in 0..rounds(500) {
        let mut raw = Raw::try_connect_tls(scene.address, &config)?;
        if number % 2 == 0 {
            raw.try_send("GET /v1/cache/x HTTP/1.1\r\nHost: t\r\nA: ")?;
        }
        crowd.push(raw);
    }
    Scene::height();
    scene.hold();
    Ok(())
}

/// Handshakes that are reset at the same places.
pub fn resets(scene: &Scene) -> Verdict {
    let configs = [scene.trusted(&[&TLS13])?, scene.trusted(&[&TLS12])?];
    scene.repeat(200, Duration::from_millis(5), |turn| {
        let (config, flight, cut) = (&configs[turn % 2], turn / 2 % 2, turn / 4 % 10);
        let (socket, _) = stalled(scene, config, flight, cut)?;
        Ok(SockRef::from(&socket).set_linger(Some(Duration::ZERO))?)
    })
}

/// Handshakes one after the other, of clients that then go without a word.
pub fn floods_of_handshakes(scene: &Scene) -> Verdict {
    let configs = [scene.trusted(&[&TLS13])?, scene.trusted(&[&TLS12])?];
    scene.repeat(200, Duration::from_millis(5), |turn| {
        let raw = Raw::try_connect_tls(scene.address, &configs[turn % 2])?;
        if turn % 3 == 0 {
            SockRef::from(raw.socket()).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    })
}

/// Connections that change their keys again and again, and ask the server to do so, too.
pub fn floods_of_key_updates(scene: &Scene) -> Verdict {
    let config = scene.trusted(&[&TLS13])?;
    scene.repeat(5, Duration::from_millis(5), |_| {
        let mut raw = Raw::try_connect_tls(scene.address, &config)?;
        raw.try_send(scene.get(SMALL.0))?;
        is(&raw.try_answer(true)?, 200)?;
        // Without a byte of a request between them.
        for _ in 0..1000 {
            if raw.change_keys().is_err() {
                break;
            }
        }
        hung_up_on(raw.socket())
    })?;
    // With requests between them, they are somebody's right, as long as he reads the answers.
    let mut raw = Raw::try_connect_tls(scene.address, &config)?;
    for _ in 0..1000 {
        raw.change_keys()?;
        raw.try_send(scene.get(SMALL.0))?;
        is(&raw.try_answer(true)?, 200)?;
    }
    Ok(())
}

/// The server has ended the connection, in whatever way.
pub(super) fn hung_up_on(mut socket: &TcpStream) -> Verdict {
    match socket.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err("the server listens to a thousand of them".into())
        }
        _ => Ok(()),
    }
}
