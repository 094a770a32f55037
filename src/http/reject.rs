//! Why a request is refused before the application sees it: the one table of reasons and statuses.

use super::Status;

/// A rule of HTTP, or a limit of ours, that a request head broke. The connection closes after the
/// answer: where one request ends and the next begins is no longer certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// A CR without LF or a LF without CR.
    BareLineEnd,
    /// A byte outside of printable ASCII and tab.
    ForbiddenByte,
    /// More than one empty line before the request line.
    EmptyRequestLine,
    /// Not `method SP target SP version`.
    RequestLine,
    /// A header line that is none: space before the colon, folded, no colon.
    HeaderLine,
    /// The target is not a plain path, or its path has a percent sign or a fragment.
    Target,
    /// The target is longer than its limit.
    TargetTooLong,
    /// The head is longer than its limit.
    HeadTooLarge,
    /// More headers than the limit.
    TooManyHeaders,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// HTTP/1.1 without `Host`, more than one, or one that is no host.
    Host,
    /// `Content-Length` more than once, not a number, or one too large.
    ContentLength,
    /// `Transfer-Encoding`, which no client of ours sends.
    TransferEncoding,
    /// `Expect` other than `100-continue`.
    Expectation,
    /// The head was not complete in time.
    HeadTimedOut,
    /// HTTP where TLS is spoken. The token has travelled in the clear.
    PlainOnTlsPort,
}

impl Reject {
    /// The status of the answer.
    pub fn status(self) -> Status {
        Status(match self {
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Version => 505,
            Self::Expectation => 417,
            Self::HeadTimedOut => 408,
            // The one status whose text Nx shows.
            Self::PlainOnTlsPort => 401,
            _ => 400,
        })
    }

    /// The sentence for the client and the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BareLineEnd => "a line of the request head does not end in CR LF",
            Self::ForbiddenByte => "the request head has a byte that is not printable ASCII",
            Self::EmptyRequestLine => "the request line is empty",
            Self::RequestLine => "the request line is malformed",
            Self::HeaderLine => "a header line is malformed",
            Self::Target => "the request target is not a plain path",
            Self::TargetTooLong => "the request target is over 2 KiB",
            Self::HeadTooLarge => "the request head is over 16 KiB",
            Self::TooManyHeaders => "the request has over 64 headers",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            Self::Host => "the request needs exactly one valid Host header",
            Self::ContentLength => "Content-Length is not one plain number",
            Self::TransferEncoding => "Transfer-Encoding is not accepted, send Content-Length",
            Self::Expectation => "only Expect: 100-continue is known",
            Self::HeadTimedOut => "the request head did not arrive in time",
            Self::PlainOnTlsPort => "this server speaks TLS: its URL has to begin with https://",
        }
    }
}
