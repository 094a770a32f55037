//! An exchange that remembers what it did, for the log line.

use std::time::Instant;

use crate::auth::{self, Grant};
use crate::http::{Cut, Exchange, Method, ResponseHead, Status};
use crate::store::TokenRecord;

use super::TEXT;
use super::reason::Reason;

/// One request: the way to its body and its response, and what is known of it so far.
pub(super) struct Record<'e, 'x> {
    exchange: &'e mut (dyn Exchange + 'x),
    pub started: Instant,
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub grant: Option<Grant>,
    /// Whether a living token came with the request.
    pub is_known: bool,
    /// The token of a request that was refused, where its holder sent it.
    pub refused: Option<TokenRecord>,
    /// Why the answer is what it is, where that is not plain.
    pub reason: Option<Reason>,
    /// Whether the answer is a head alone.
    is_head: bool,
}

impl<'e, 'x> Record<'e, 'x> {
    pub fn new(exchange: &'e mut (dyn Exchange + 'x), method: Method) -> Self {
        Self {
            exchange,
            started: Instant::now(),
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            grant: None,
            is_known: false,
            refused: None,
            reason: None,
            is_head: method == Method::Head,
        }
    }

    /// Notes who asks. From now on the body of a refused request is read to its end.
    pub fn admit(&mut self, grant: Grant) {
        self.trust_client();
        self.grant = Some(grant);
    }

    fn trust_client(&mut self) {
        self.exchange.trust_client();
        self.is_known = true;
    }

    /// Notes whose token was refused, if that is certain. One that is alive, and was used at the wrong
    /// place, has its body read to its end like any other: its owner shall read our sentence.
    pub fn note_refused(&mut self, token: TokenRecord, refusal: auth::Refusal) {
        if refusal.is_about_place() {
            self.trust_client();
        }
        if refusal.is_told_to_holder() {
            self.refused = Some(token);
        }
    }

    pub fn body_remaining(&self) -> u64 {
        self.exchange.body_remaining()
    }

    pub fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, Cut> {
        let count = self.exchange.read_body(buffer)?;
        self.bytes_in += count as u64;
        Ok(count)
    }

    pub fn discard_body(&mut self, limit_bytes: u64) -> Result<(), Cut> {
        let before = self.exchange.body_remaining();
        let outcome = self.exchange.discard_body(limit_bytes);
        self.bytes_in += before - self.exchange.body_remaining();
        outcome
    }

    pub fn begin(&mut self, head: &ResponseHead<'_>) -> Result<(), Cut> {
        self.status = Some(head.status.0);
        self.exchange.begin(head)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.exchange.write(bytes)?;
        if !self.is_head {
            self.bytes_out += bytes.len() as u64;
        }
        Ok(())
    }

    /// A whole response with a short text.
    pub fn send_text(
        &mut self,
        status: Status,
        headers: &[(&'static str, &str)],
        text: &str,
    ) -> Result<(), Cut> {
        self.send(status, TEXT, headers, text)
    }

    /// A whole response with a text of this type.
    pub fn send(
        &mut self,
        status: Status,
        content_type: &'static str,
        headers: &[(&'static str, &str)],
        text: &str,
    ) -> Result<(), Cut> {
        let content_length = text.len() as u64;
        self.begin(&ResponseHead {
            status,
            content_type,
            content_length,
            headers,
        })?;
        self.write(text.as_bytes())
    }
}
