//! Two parsers, one stream of bytes: what cachesrv takes for requests, hyper takes for the same requests,
//! with the same bodies, and the same bytes begin the next one. A difference there is how requests are
//! smuggled past whatever stands in front.
//!
//! hyper takes more than cachesrv. There cachesrv refuses and closes, and no more is compared. What only
//! hyper accepts:
//!
//! * a bare LF as the end of a line, bytes above ASCII in a value or target, any number of empty lines
//!   before the request line;
//! * `Content-Length` more than once where all agree; `Transfer-Encoding: chunked`, also beside a length;
//! * HTTP/1.1 without `Host`, more than one, and one that is no host; any `Expect`;
//! * a target in absolute, authority or asterisk form, with a percent sign or a fragment, with one of the
//!   characters ``"[]\^`{|}`` as far as hyper takes them, or longer than 2 KiB;
//! * a head over 16 KiB, a request line with a very long method, 65 to 100 headers.
//!
//! What only cachesrv accepts: a `Content-Length` of the two largest numbers of 64 bits, which hyper needs
//! for itself. Nobody has such a body, and both read it as the same number.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use cachesrv::http::{Cut, Exchange, Handler, Method, Request, ResponseHead, ServerEvent, Status};
use cachesrv::server::{Limits, Transport, rehearse};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::head::method;

/// The largest length that hyper takes.
const HYPERS_LENGTH_MAX: u64 = u64::MAX - 2;

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    let ours = cachesrv_on(bytes);
    let theirs = hyper_on(bytes);
    for (at, taken) in ours.taken.iter().enumerate() {
        if taken.content_length > Some(HYPERS_LENGTH_MAX) {
            return;
        }
        let same = theirs.taken.get(at);
        assert_eq!(Some(taken), same, "request {at}: cachesrv, hyper");
        let (kept, same) = (ours.kept(at), theirs.kept(at));
        assert_eq!(kept, same, "kept open after request {at}: cachesrv, hyper");
    }
    let next = theirs.taken.get(ours.taken.len());
    assert!(ours.refused || next.is_none(), "only hyper sees {next:?}");
}

/// A request with the whole of its body.
#[derive(Debug, PartialEq)]
struct Taken {
    method: Method,
    path: String,
    authorization: Option<String>,
    forwarded_for: Option<String>,
    content_length: Option<u64>,
    body: Vec<u8>,
}

/// What one of them made of the bytes.
#[derive(Debug, Default)]
struct Conversation {
    taken: Vec<Taken>,
    /// It refused a head.
    refused: bool,
    written: Vec<u8>,
}

impl Conversation {
    /// Whether the answer with this number leaves the connection open.
    fn kept(&self, number: usize) -> bool {
        let text = String::from_utf8_lossy(&self.written).to_ascii_lowercase();
        let heads = text.split("http/1.").skip(1);
        let mut answers = heads.filter(|head| !head.starts_with("1 100 "));
        let head = answers.nth(number).expect("an answer to each request");
        if head.starts_with('0') {
            head.contains("\r\nconnection: keep-alive\r\n")
        } else {
            !head.contains("\r\nconnection: close\r\n")
        }
    }
}

fn cachesrv_on(bytes: &[u8]) -> Conversation {
    let app = Arc::new(App::default());
    let handler = Arc::clone(&app) as Arc<dyn Handler>;
    let written = rehearse(Transport::Plain, handler, Limits::default(), &[bytes]);
    let conversation = std::mem::take(&mut *app.0.lock().expect("no panic before"));
    Conversation {
        written,
        ..conversation
    }
}

/// The application on top of cachesrv: takes requests with their bodies, and has nothing.
#[derive(Default)]
struct App(Mutex<Conversation>);

impl Handler for App {
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        let mut body = Vec::new();
        let mut buffer = [0; 512];
        while let count @ 1.. = exchange.read_body(&mut buffer)? {
            body.extend_from_slice(&buffer[..count]);
        }
        let taken = Taken {
            method: request.method,
            path: request.path.to_owned(),
            authorization: request.authorization.map(|value| value.expose().to_owned()),
            forwarded_for: request.forwarded_for.map(str::to_owned),
            content_length: request.content_length,
            body,
        };
        self.0.lock().expect("no panic before").taken.push(taken);
        exchange.begin(&ResponseHead {
            status: Status(404),
            content_type: "text/plain",
            content_length: 0,
            headers: &[],
        })
    }

    fn panicked(&self, _: &Request<'_>, _: &mut dyn Exchange) -> Result<(), Cut> {
        Err(Cut::Aborted)
    }

    fn rejected(&self, _: std::net::IpAddr, _: Status, _: &str) {
        self.0.lock().expect("no panic before").refused = true;
    }

    /// A TLS hello, which is no request to hyper, either; or a panic.
    fn event(&self, event: &ServerEvent<'_>) {
        assert!(!matches!(event, ServerEvent::Panicked { .. }), "{event:?}");
        self.0.lock().expect("no panic before").refused = true;
    }
}

fn hyper_on(bytes: &[u8]) -> Conversation {
    let taken = Rc::new(RefCell::new(Vec::new()));
    let mut written = Vec::new();
    let memory = Memory {
        unread: bytes,
        written: &mut written,
    };
    let service = service_fn(|request| answered(request, Rc::clone(&taken)));
    let mut builder = http1::Builder::new();
    // The client has sent all it will, and still wants its answers.
    builder.half_close(true).auto_date_header(false);
    run(builder.serve_connection(memory, service));
    Conversation {
        taken: taken.take(),
        refused: false,
        written,
    }
}

/// Nothing here ever waits: whoever is not ready has woken himself.
fn run(connection: impl Future) {
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if connection.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
    panic!("hyper does not come to an end");
}

/// The same application on top of hyper.
async fn answered(
    request: hyper::Request<Incoming>,
    taken: Rc<RefCell<Vec<Taken>>>,
) -> hyper::Result<hyper::Response<String>> {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await {
        if let Some(data) = frame?.data_ref() {
            body.extend_from_slice(data);
        }
    }
    let values = |name: &str| {
        let values = head.headers.get_all(name).iter();
        let text = |value: &hyper::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        values.map(text).collect::<Vec<_>>()
    };
    let [authorization, lengths] =
        [AUTHORIZATION, CONTENT_LENGTH].map(|name| values(name.as_str()));
    taken.borrow_mut().push(Taken {
        method: method(head.method.as_str()),
        path: head.uri.path().to_owned(),
        authorization: match &authorization[..] {
            [value] => Some(value.clone()),
            _ => None,
        },
        forwarded_for: values("x-forwarded-for").pop(),
        content_length: lengths.first().and_then(|length| length.parse().ok()),
        body,
    });
    let mut response = hyper::Response::new(String::new());
    *response.status_mut() = hyper::StatusCode::NOT_FOUND;
    Ok(response)
}

/// A transport that has all its bytes, and takes any.
struct Memory<'m> {
    unread: &'m [u8],
    written: &'m mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = cursor.remaining().min(self.unread.len());
        let (now, later) = self.unread.split_at(count);
        cursor.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
