//! One head: the same for any split into reads, and what the restated rules say of it.

use cachesrv::http::{Head, HeadScanner, Method};

use super::restated::{self, Reading};
use super::split::Choices;

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    // Also where no scanner has looked before: it is public.
    let _ = Head::parse(bytes);
    check_split(bytes, &Choices::of(bytes).lengths());
}

/// The same for a split that the caller chooses: reads of these lengths, again and again.
pub fn check_split(bytes: &[u8], lengths: &[usize]) {
    let whole = read(bytes, &[bytes.len().max(1)]);
    assert_eq!(read(bytes, lengths), whole, "reads of {lengths:?}");
    assert_eq!(read(bytes, &[1]), whole, "reads of one byte");
    assert_eq!(whole, expected(bytes), "by the rules as restated");
}

/// The end of reading a head, without borrowed parts. Not why it was refused: that is for people.
#[derive(Debug, PartialEq)]
enum Outcome {
    Incomplete,
    Refused,
    Read(Box<Parts>),
}

#[derive(Debug, PartialEq)]
struct Parts {
    span: (usize, usize),
    method: Method,
    path: String,
    authorization: Option<String>,
    forwarded_for: Option<String>,
    content_length: Option<u64>,
    expects_continue: bool,
    keep_alive: bool,
    is_http_1_0: bool,
}

fn read(bytes: &[u8], lengths: &[usize]) -> Outcome {
    let mut scanner = HeadScanner::default();
    let mut filled = 0;
    for length in lengths.iter().cycle() {
        filled = (filled + length).min(bytes.len());
        match scanner.advance(&bytes[..filled]) {
            Err(_) => return Outcome::Refused,
            Ok(Some(span)) => return parsed(bytes, (span.start, span.end)),
            Ok(None) if filled == bytes.len() => return Outcome::Incomplete,
            Ok(None) => {}
        }
    }
    unreachable!("the lengths never end")
}

fn parsed(bytes: &[u8], span: (usize, usize)) -> Outcome {
    let Ok(head) = Head::parse(&bytes[span.0..span.1]) else {
        return Outcome::Refused;
    };
    Outcome::Read(Box::new(Parts {
        span,
        method: head.method,
        path: head.path.to_owned(),
        authorization: head.authorization.map(|value| value.expose().to_owned()),
        forwarded_for: head.forwarded_for.map(str::to_owned),
        content_length: head.content_length,
        expects_continue: head.expects_continue,
        keep_alive: head.keep_alive,
        is_http_1_0: head.is_http_1_0,
    }))
}

fn expected(bytes: &[u8]) -> Outcome {
    let head = match restated::read(bytes) {
        Reading::Incomplete => return Outcome::Incomplete,
        Reading::Refused => return Outcome::Refused,
        Reading::Head(head) => head,
    };
    Outcome::Read(Box::new(Parts {
        span: (head.start, head.end),
        method: method(head.method),
        path: head.path.to_owned(),
        authorization: head.authorization().map(str::to_owned),
        forwarded_for: head
            .values("x-forwarded-for")
            .last()
            .copied()
            .map(str::to_owned),
        content_length: head.content_length,
        expects_continue: head.expects_continue(),
        keep_alive: head.keep_alive(),
        is_http_1_0: head.is_http_1_0,
    }))
}

/// The method of that name, as the application tells them apart.
pub fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "PUT" => Method::Put,
        _ => Method::Other,
    }
}
