//! A new connection on a port that speaks TLS, up to its first request; and what is said of those that
//! do not come so far.

use std::net::{IpAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::{AlertDescription, Error, PeerIncompatible};

use super::super::Context;
use super::super::accept::thread_of;
use super::super::connection::{Connection, report_panic};
use super::super::registry::Slot;
use super::super::stream::Wire;
use super::Tls;
use super::records::{Broken, Records};
use crate::http::{Cut, Reject, ServerEvent, TLS_HANDSHAKE_BYTE};

/// Serves a connection from its first byte on. A panic ends this connection only.
pub(in super::super) fn serve(
    socket: Arc<TcpStream>,
    peer: IpAddr,
    context: &Arc<Context>,
    slot: Slot,
    tls: &Tls,
) {
    let wire = Wire::new(socket);
    let served = AssertUnwindSafe(|| begin(wire, peer, context, slot, tls));
    if let Err(payload) = catch_unwind(served) {
        report_panic(context, peer, payload.as_ref());
    }
}

fn begin(mut wire: Wire, peer: IpAddr, context: &Arc<Context>, slot: Slot, tls: &Tls) {
    let timeout = context.limits.handshake_timeout;
    let deadline = Instant::now() + timeout;
    let first = wire.peek(timeout);
    slot.busy();
    match first {
        // Somebody looked whether the port is open.
        Ok(None) | Err(Cut::Closed | Cut::Aborted) => {}
        Err(Cut::TimedOut) => report(context, peer, "the client was silent"),
        Ok(Some(TLS_HANDSHAKE_BYTE)) => {
            let config = Arc::clone(&tls.config);
            match Records::agree(wire, config, deadline, context.limits.write_timeout) {
                Ok(records) => hand_over(records, peer, context, slot),
                Err(broken) => report(context, peer, &reason(&broken)),
            }
        }
        Ok(Some(byte)) if byte.is_ascii_alphabetic() => {
            context.report(&ServerEvent::PlainOnTlsPort { peer });
            Connection::new(wire, peer, Arc::clone(context), slot).refuse(Reject::PlainOnTlsPort);
        }
        Ok(Some(_)) => report(context, peer, "what the client sent is not TLS"),
    }
}

/// Serves what was agreed on from another thread, with a fresh stack. A handshake goes 8 KiB deeper than the wait
/// for a request, and a connection that stayed on its stack would keep those pages for as long as it is idle: a
/// fifth of all that it holds.
fn hand_over(records: Records, peer: IpAddr, context: &Arc<Context>, slot: Slot) {
    let thread = thread_of(slot.id());
    let connection = Connection::new(records, peer, Arc::clone(context), slot);
    let place = Arc::new(Mutex::new(Some(connection)));
    let other = Arc::clone(&place);
    if thread.spawn(move || serve_once(other)).is_err() {
        // The client shook hands already: where no thread can be started, this one goes on.
        serve_once(place);
    }
}

/// Serves the connection, if it is still there.
fn serve_once(place: Arc<Mutex<Option<Connection<Records>>>>) {
    let connection = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Nobody else looks; the connection has moved, and its room here would be kept for its whole life.
    drop(place);
    if let Some(connection) = connection {
        connection.run();
    }
}

/// Tells the application of a handshake that failed, at most once a second.
fn report(context: &Context, peer: IpAddr, reason: &str) {
    if let Some(suppressed) = context.handshakes_failed.due() {
        context.report(&ServerEvent::HandshakeFailed {
            peer,
            reason,
            suppressed,
        });
    }
}

/// What an operator can make something of; in the words of rustls, where it is a rare one.
fn reason(broken: &Broken) -> String {
    let plain = match broken {
        Broken::Wire(Cut::TimedOut) => "the client was too slow",
        Broken::Wire(_) => "the client closed the connection; it may not trust the certificate",
        Broken::Protocol(error) => match error {
            Error::AlertReceived(AlertDescription::UnknownCA) => {
                "the client does not know who issued the certificate: give it the CA (SSL_CERT_FILE), \
                 or tls.certificate the whole chain"
            }
            Error::AlertReceived(AlertDescription::CertificateExpired) => {
                "the client says that the certificate has expired"
            }
            Error::AlertReceived(
                alert @ (AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::DecryptError),
            ) => return format!("the client refuses the certificate ({alert:?})"),
            Error::AlertReceived(alert) => {
                return format!("the client refused to go on ({alert:?})");
            }
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                // TLS 1.1 has none.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ) => "the client speaks no TLS 1.2 or 1.3",
            Error::PeerIncompatible(why) => {
                return format!("the client has nothing in common with this server ({why:?})");
            }
            Error::NoApplicationProtocol => "the client does not speak HTTP/1.1 (ALPN)",
            Error::InvalidMessage(_) => "what the client sent is not TLS",
            other => return other.to_string(),
        },
    };
    plain.to_owned()
}
