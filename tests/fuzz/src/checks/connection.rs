//! A whole conversation through the real connection loop: requests sent ahead, their bodies, and what
//! breaks off. For every split into reads the answers are those that the restated rules foresee.
//!
//! Two things may differ between splits and are taken out before the comparison: `Date`, and whether a
//! client that asked for `100 Continue` got it (it does not where its body came along unasked).

use std::sync::{Arc, Mutex};

use cachesrv::http::{
    Authorization, Cut, Exchange, Handler, Method, Request, ResponseHead, ServerEvent, Status,
};
use cachesrv::server::{Limits, Transport, rehearse};

use super::head;
use super::restated::{self, Head, Reading};
use super::split::{Choices, pieces};

/// What [`App`] discards of a body.
const DISCARD_MAX: u64 = 64;

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    check_split(bytes, &Choices::of(bytes).lengths());
}

/// The same for a split that the caller chooses; a length of 0 is a read that finds nothing.
pub fn check_split(bytes: &[u8], lengths: &[usize]) {
    let pieces = pieces(bytes, lengths);
    let plain = foreseen(Transport::Plain, bytes);
    check_pieces(Transport::Plain, &[bytes], &plain);
    check_pieces(Transport::Plain, &pieces, &plain);
    let secure = foreseen(Transport::Tls, bytes);
    check_pieces(Transport::Tls, &pieces, &secure);
}

fn check_pieces(transport: Transport, pieces: &[&[u8]], expected: &Conversation) {
    let app = Arc::new(App::default());
    let handler = Arc::clone(&app) as Arc<dyn Handler>;
    let written = rehearse(transport, handler, Limits::default(), pieces);
    let said = app.said.lock().expect("no panic before");
    let answers = answers(&written, &expected.shapes);
    assert_eq!(answers, expected.answers, "the answers, the foreseen ones");
    assert_eq!(*said, expected.said, "told to the application, foreseen");
}

/// One answer on the wire, or the beginning of one.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The status, what it says of the connection, and the body.
    Whole(u16, Persistence, Vec<u8>),
    /// A refusal by the layer below, which closes.
    Refusal,
    /// A body that was cut off.
    Cut(Vec<u8>),
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Persistence {
    Open,
    OpenAndSaid,
    Closes,
}

/// What becomes of a conversation.
#[derive(Debug, Default)]
struct Conversation {
    answers: Vec<Answer>,
    /// What is to be known of each request to read its answer.
    shapes: Vec<Shape>,
    /// How often the application was called, or told of a refusal, an event or a panic.
    said: Vec<&'static str>,
}

/// What the form of an answer depends on.
#[derive(Debug, Default, Clone, Copy)]
struct Shape {
    /// Its body is announced and not sent.
    is_head: bool,
    /// `100 Continue` may stand before it.
    may_go_on: bool,
}

/// What the rules and [`App`] say of these bytes.
fn foreseen(transport: Transport, bytes: &[u8]) -> Conversation {
    let mut all = Conversation::default();
    let mut rest = bytes;
    loop {
        if transport == Transport::Plain && rest.first() == Some(&0x16) {
            all.said.push("event");
            return all;
        }
        let head = match restated::read(rest) {
            Reading::Incomplete => return all,
            Reading::Refused => {
                all.said.push("rejected");
                all.answers.push(Answer::Refusal);
                return all;
            }
            Reading::Head(head) => head,
        };
        all.said.push("handled");
        let behind = &rest[head.end..];
        let outcome = Foreseen::of(&head, behind);
        all.shapes.push(Shape::of(&head));
        all.answers.extend(outcome.answer);
        match outcome.taken {
            Some(taken) => rest = &behind[taken..],
            None => return all,
        }
    }
}

impl Shape {
    fn of(head: &Head<'_>) -> Self {
        let waits = head.content_length > Some(0) && head.expects_continue();
        Self {
            is_head: head.method == "HEAD",
            may_go_on: waits && matches!(Behaviour::of(head.path), Behaviour::Echo),
        }
    }
}

/// What becomes of one request.
struct Foreseen {
    answer: Option<Answer>,
    /// Bytes of the body, where another request may follow.
    taken: Option<usize>,
}

impl Foreseen {
    fn of(head: &Head<'_>, behind: &[u8]) -> Self {
        let length = head.content_length.unwrap_or(0);
        let body =
            usize::try_from(length).map_or(behind, |length| &behind[..length.min(behind.len())]);
        let is_whole = body.len() as u64 == length;
        let waits = length > 0 && head.expects_continue();
        let is_head = head.method == "HEAD";
        let persistence = |closes: bool| match (closes || !head.keep_alive(), head.is_http_1_0) {
            (true, _) => Persistence::Closes,
            (false, true) => Persistence::OpenAndSaid,
            (false, false) => Persistence::Open,
        };
        // A whole answer; `closes` whatever the client wants.
        let answered = |text: Vec<u8>, closes: bool| {
            let persistence = persistence(closes);
            let text = if is_head { Vec::new() } else { text };
            Self {
                answer: Some(Answer::Whole(200, persistence, text)),
                taken: (persistence != Persistence::Closes).then_some(body.len()),
            }
        };
        let nothing = Self {
            answer: None,
            taken: None,
        };
        match Behaviour::of(head.path) {
            Behaviour::Ignore => answered(b"ignored".to_vec(), length > 0),
            Behaviour::Discard if length > DISCARD_MAX || waits => {
                answered(b"discarded".to_vec(), true)
            }
            Behaviour::Discard if is_whole => answered(b"discarded".to_vec(), false),
            // The response is on the wire before the body fails; of HEAD nothing leaves before its end.
            Behaviour::Early if waits || !is_whole => Self {
                answer: (!is_head)
                    .then(|| answered(b"early".to_vec(), true).answer)
                    .flatten(),
                taken: None,
            },
            Behaviour::Early => answered(b"early".to_vec(), length > 0),
            Behaviour::Short | Behaviour::Long if is_head => answered(Vec::new(), length > 0),
            Behaviour::Short => Self {
                answer: Some(Answer::Cut(b"short".to_vec())),
                taken: None,
            },
            Behaviour::Echo if is_whole => {
                let text = echo(
                    head::method(head.method),
                    head.path,
                    head.content_length,
                    head.authorization(),
                    head.values("x-forwarded-for").last().copied(),
                    body,
                );
                answered(text, false)
            }
            Behaviour::Echo | Behaviour::Discard | Behaviour::Long | Behaviour::Nothing => nothing,
        }
    }
}

/// What the application does; the path says it.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    /// Reads the body and repeats the request.
    Echo,
    /// Discards the body, if it is short.
    Discard,
    /// Answers without a look at the body.
    Ignore,
    /// Answers, then reads the body.
    Early,
    /// Writes less than it announced.
    Short,
    /// Writes more than it announced.
    Long,
    /// Gives up.
    Nothing,
}

impl Behaviour {
    fn of(path: &str) -> Self {
        match path {
            "/discard" => Self::Discard,
            "/ignore" => Self::Ignore,
            "/early" => Self::Early,
            "/short" => Self::Short,
            "/long" => Self::Long,
            "/nothing" => Self::Nothing,
            _ => Self::Echo,
        }
    }
}

/// The application; remembers what it was told.
#[derive(Default)]
struct App {
    said: Mutex<Vec<&'static str>>,
}

impl App {
    fn note(&self, what: &'static str) {
        self.said.lock().expect("no panic before").push(what);
    }
}

impl Handler for App {
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.note("handled");
        match Behaviour::of(request.path) {
            Behaviour::Echo => {
                let body = body(exchange)?;
                let text = echo(
                    request.method,
                    request.path,
                    request.content_length,
                    request.authorization.map(Authorization::expose),
                    request.forwarded_for,
                    &body,
                );
                answer(exchange, text.len(), &text)
            }
            Behaviour::Discard => {
                exchange.discard_body(DISCARD_MAX)?;
                answer(exchange, 9, b"discarded")
            }
            Behaviour::Ignore => answer(exchange, 7, b"ignored"),
            Behaviour::Early => {
                answer(exchange, 5, b"early")?;
                body(exchange).map(drop)
            }
            Behaviour::Short => answer(exchange, 10, b"short"),
            Behaviour::Long => answer(exchange, 3, b"long"),
            Behaviour::Nothing => Err(Cut::Aborted),
        }
    }

    fn panicked(&self, _: &Request<'_>, _: &mut dyn Exchange) -> Result<(), Cut> {
        self.note("panicked");
        Err(Cut::Aborted)
    }

    fn rejected(&self, _: std::net::IpAddr, status: Status, reason: &str) {
        assert!((400..=505).contains(&status.0) && !reason.is_empty());
        self.note("rejected");
    }

    fn event(&self, event: &ServerEvent<'_>) {
        self.note(match event {
            ServerEvent::Panicked { .. } => "panicked",
            _ => "event",
        });
    }
}

/// The whole body, by short reads.
fn body(exchange: &mut dyn Exchange) -> Result<Vec<u8>, Cut> {
    let mut body = Vec::new();
    let mut buffer = [0; 100];
    loop {
        match exchange.read_body(&mut buffer)? {
            0 => return Ok(body),
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
}

fn answer(exchange: &mut dyn Exchange, length: usize, text: &[u8]) -> Result<(), Cut> {
    exchange.begin(&ResponseHead {
        status: Status(200),
        content_type: "text/plain",
        content_length: length as u64,
        headers: &[],
    })?;
    exchange.write(text)
}

fn echo(
    method: Method,
    path: &str,
    content_length: Option<u64>,
    authorization: Option<&str>,
    forwarded_for: Option<&str>,
    body: &[u8],
) -> Vec<u8> {
    let method = method.as_str();
    let mut text =
        format!("{method} {path} {content_length:?} {authorization:?} {forwarded_for:?} ");
    text.reserve(body.len());
    let mut text = text.into_bytes();
    text.extend_from_slice(body);
    text
}

/// Takes what was written apart.
fn answers(written: &[u8], shapes: &[Shape]) -> Vec<Answer> {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut all = Vec::new();
    let mut rest = written;
    let mut shapes = shapes.iter().copied();
    while !rest.is_empty() {
        let shape = shapes.next().unwrap_or_default();
        if shape.may_go_on {
            rest = rest.strip_prefix(CONTINUE).unwrap_or(rest);
        }
        if !rest.is_empty() {
            let (answer, later) = first_answer(rest, shape.is_head);
            all.push(answer);
            rest = later;
        }
    }
    all
}

fn first_answer(written: &[u8], is_head: bool) -> (Answer, &[u8]) {
    let end = written.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.expect("a whole head");
    let head = std::str::from_utf8(&written[..end]).expect("ASCII");
    let behind = &written[end + 4..];
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|head| head.get(..3));
    let status: u16 = status
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length
        .and_then(|length| length.parse().ok())
        .expect("a length");
    let persistence = match head
        .lines()
        .find_map(|line| line.strip_prefix("Connection: "))
    {
        None => Persistence::Open,
        Some("keep-alive") => Persistence::OpenAndSaid,
        Some("close") => Persistence::Closes,
        Some(other) => panic!("Connection: {other}"),
    };
    if status != 200 {
        assert_eq!((persistence, behind.len()), (Persistence::Closes, length));
        return (Answer::Refusal, &[]);
    }
    if is_head {
        return (Answer::Whole(status, persistence, Vec::new()), behind);
    }
    if behind.len() < length {
        return (Answer::Cut(behind.to_vec()), &[]);
    }
    let (body, later) = behind.split_at(length);
    (Answer::Whole(status, persistence, body.to_vec()), later)
}
