//! The heads of requests and responses, as the application sees them.

use std::net::IpAddr;

/// The head of a request.
#[derive(Debug)]
pub struct Request<'b> {
    /// The method.
    pub method: Method,
    /// The path as sent, without the query; starts with `/`, holds no percent sign and only ASCII.
    pub path: &'b str,
    /// The value of `Authorization`, where the request has exactly one.
    pub authorization: Option<Authorization<'b>>,
    /// The length of the body; `None` where the request announced none.
    pub content_length: Option<u64>,
    /// The value of the last `X-Forwarded-For`, unparsed: the one that the nearest proxy wrote.
    pub forwarded_for: Option<&'b str>,
    /// The address of the peer of the socket.
    pub peer: IpAddr,
}

/// The value of `Authorization`: a credential, so it cannot be printed by accident.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Authorization<'b>(&'b str);

impl<'b> Authorization<'b> {
    /// Wraps the value of the header.
    pub fn new(value: &'b str) -> Self {
        Self(value)
    }

    /// The value itself; for the one place that takes it apart.
    pub fn expose(self) -> &'b str {
        self.0
    }
}

impl std::fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(redacted)")
    }
}

/// The methods that this server tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// Any other well-formed method.
    Other,
}

impl Method {
    /// The name, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Other => "other",
        }
    }

    /// The method of that name; methods are case-sensitive.
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            _ => Self::Other,
        }
    }
}

/// The head of a response. `Date`, `Content-Length` and `Connection` are added below.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'r> {
    /// The status; one that has a body (not 1xx, 204 or 304).
    pub status: Status,
    /// `Content-Type`, sent exactly as given: Nx compares it to the letter.
    pub content_type: &'static str,
    /// The exact length of the body in bytes.
    pub content_length: u64,
    /// Further headers, names as they go on the wire. A control character in a value is sent as `?`,
    /// so that no value can begin a header or a response of its own.
    pub headers: &'r [(&'static str, &'r str)],
}

/// The statuses that this server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// The words after the number; nobody reads them but people.
    pub fn reason_phrase(self) -> &'static str {
        match self.0 {
            200 => "OK",
            201 => "Created",
            202 => "Accepted",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            413 => "Content Too Large",
            414 => "URI Too Long",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            507 => "Insufficient Storage",
            _ => "Status",
        }
    }
}
