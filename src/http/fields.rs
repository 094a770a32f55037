//! The header fields that this server reads, and the framing that follows from them (RFC 9112,
//! section 6). All others pass unread.

use super::{Authorization, Reject};

/// A field that counts only where it stands once.
#[derive(Debug, Default, Clone, Copy)]
enum Once<T> {
    #[default]
    Absent,
    Here(T),
    Repeated,
}

impl<T> Once<T> {
    fn add(&mut self, value: T) {
        *self = match self {
            Self::Absent => Self::Here(value),
            Self::Here(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// What the headers of one request say.
#[derive(Debug, Default)]
pub(super) struct Fields<'b> {
    host: Once<()>,
    authorization: Once<Authorization<'b>>,
    pub(super) content_length: Option<u64>,
    pub(super) forwarded_for: Option<&'b str>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

impl<'b> Fields<'b> {
    /// Reads one header.
    pub(super) fn take(&mut self, name: &str, value: &'b str) -> Result<(), Reject> {
        if name.eq_ignore_ascii_case("host") {
            self.host.add(host(value)?);
        } else if name.eq_ignore_ascii_case("authorization") {
            self.authorization.add(Authorization::new(value));
        } else if name.eq_ignore_ascii_case("content-length") {
            // Twice is refused even where both agree: what is in front of us may have read but one.
            if self.content_length.is_some() {
                return Err(Reject::ContentLength);
            }
            self.content_length = Some(content_length(value)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Reject::TransferEncoding);
        } else if name.eq_ignore_ascii_case("connection") {
            self.take_connection(value);
        } else if name.eq_ignore_ascii_case("expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Reject::Expectation);
            }
            self.expects_continue = true;
        } else if name.eq_ignore_ascii_case("x-forwarded-for") {
            self.forwarded_for = Some(value);
        }
        Ok(())
    }

    /// The credential, where there is exactly one.
    pub(super) fn authorization(&self) -> Option<Authorization<'b>> {
        match self.authorization {
            Once::Here(value) => Some(value),
            Once::Absent | Once::Repeated => None,
        }
    }

    /// HTTP/1.1 demands `Host`; no version may have two.
    pub(super) fn check_host(&self, demanded: bool) -> Result<(), Reject> {
        match self.host {
            Once::Here(()) => Ok(()),
            Once::Absent if !demanded => Ok(()),
            Once::Absent | Once::Repeated => Err(Reject::Host),
        }
    }

    fn take_connection(&mut self, value: &str) {
        for option in value.split(',').map(str::trim) {
            self.close |= option.eq_ignore_ascii_case("close");
            self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
        }
    }
}

/// Digits only: no sign, no list, no hexadecimal, and no more than fit.
fn content_length(value: &str) -> Result<u64, Reject> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reject::ContentLength);
    }
    value.parse().map_err(|_| Reject::ContentLength)
}

/// The bytes of `uri-host [ ":" port ]`; what they name is of no interest here.
fn host(value: &str) -> Result<(), Reject> {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(&byte);
    if value.bytes().all(is_host) {
        Ok(())
    } else {
        Err(Reject::Host)
    }
}
