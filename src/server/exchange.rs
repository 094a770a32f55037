//! What a handler holds while it answers one request: the body coming in, the response going out.

use super::limits::Limits;
use super::linger::{Patience, discard_buffer};
use super::pace::Pace;
use super::registry::Slot;
use super::stream::Stream;
use crate::http::encode::{self, Persistence};
use crate::http::{Cut, DateCache, Exchange, Head, Incoming, Method, Outgoing, ResponseHead};

/// The exchange of one request over the stream of its connection.
pub(super) struct Live<'c, S> {
    stream: &'c mut S,
    slot: &'c mut Slot,
    /// What was read together with the head: the first bytes of the body, then the next request.
    early: &'c [u8],
    incoming: Incoming,
    incoming_pace: Pace,
    /// The response, once it was begun.
    outgoing: Option<Outgoing>,
    outgoing_pace: Pace,
    /// The head of the response until the first bytes of its body take it along.
    unsent: &'c mut Vec<u8>,
    dates: &'c mut DateCache,
    is_head: bool,
    is_http_1_0: bool,
    keep_alive: bool,
    patience: Patience,
}

/// What becomes of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may follow.
    KeepAlive,
    /// The answer was the last; it has to arrive.
    Linger(Patience),
    /// Nothing can be saved.
    Cut,
}

impl<'c, S: Stream> Live<'c, S> {
    pub(super) fn new(
        (stream, slot): (&'c mut S, &'c mut Slot),
        limits: &Limits,
        (unsent, dates): (&'c mut Vec<u8>, &'c mut DateCache),
        head: &Head<'_>,
        early: &'c [u8],
    ) -> Self {
        unsent.clear();
        Self {
            stream,
            slot,
            early,
            incoming: Incoming::new(head.content_length.unwrap_or(0), head.expects_continue),
            incoming_pace: Pace::new(limits.body_timeout, limits.body_rate_min_bytes),
            outgoing: None,
            outgoing_pace: Pace::new(limits.write_timeout, limits.body_rate_min_bytes),
            unsent,
            dates,
            is_head: head.method == Method::Head,
            is_http_1_0: head.is_http_1_0,
            keep_alive: head.keep_alive,
            patience: Patience::Stranger,
        }
    }

    /// The response was begun.
    pub(super) fn is_begun(&self) -> bool {
        self.outgoing.is_some()
    }

    /// This request is the last of its connection.
    pub(super) fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Ends the exchange: how much was not taken of what came with the head, and what follows.
    pub(super) fn finish(mut self, handled: Result<(), Cut>) -> (usize, After) {
        let after = match handled.and_then(|()| self.complete()) {
            Err(_) => After::Cut,
            Ok(()) if self.keep_alive => After::KeepAlive,
            Ok(()) if self.incoming.remaining() == 0 => After::Linger(Patience::Complete),
            Ok(()) => After::Linger(self.patience),
        };
        (self.early.len(), after)
    }

    /// A response that is not whole must not look whole.
    fn complete(&mut self) -> Result<(), Cut> {
        match &self.outgoing {
            Some(outgoing) if outgoing.is_complete() => self.send(&[]),
            _ => Err(Cut::Aborted),
        }
    }

    /// Sends `bytes` after the head, where that is still to be sent.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        let pace = &mut self.outgoing_pace;
        self.stream.write_all(self.unsent, bytes, pace)?;
        self.unsent.clear();
        Ok(())
    }

    /// Tells a client that waits for it to send its body.
    fn ask_for_body(&mut self) -> Result<(), Cut> {
        if !self.incoming.awaits_continue() {
            return Ok(());
        }
        if self.is_begun() {
            return Err(Cut::Aborted);
        }
        self.incoming.go_on();
        if self.early.is_empty() {
            let pace = &mut self.outgoing_pace;
            self.stream.write_all(encode::CONTINUE, &[], pace)?;
        }
        Ok(())
    }

    /// Takes bytes of the body that came with the head, or reads from the stream.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Cut> {
        if self.early.is_empty() {
            let pace = &mut self.incoming_pace;
            return match self.stream.read_paced(buffer, pace)? {
                0 => Err(Cut::Closed),
                count => Ok(count),
            };
        }
        let count = buffer.len().min(self.early.len());
        let (taken, rest) = self.early.split_at(count);
        buffer[..count].copy_from_slice(taken);
        self.early = rest;
        Ok(count)
    }
}

impl<S: Stream> Exchange for Live<'_, S> {
    fn body_remaining(&self) -> u64 {
        self.incoming.remaining()
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, Cut> {
        let wanted = self.incoming.clamp(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        self.ask_for_body()?;
        let count = self.receive(&mut buffer[..wanted])?;
        self.incoming.took(count);
        Ok(count)
    }

    fn discard_body(&mut self, limit_bytes: u64) -> Result<(), Cut> {
        let remaining = self.incoming.remaining();
        if remaining == 0 || remaining > limit_bytes || self.incoming.awaits_continue() {
            return Ok(());
        }
        let mut buffer = discard_buffer();
        while self.read_body(&mut buffer)? > 0 {}
        Ok(())
    }

    fn trust_client(&mut self) {
        self.patience = Patience::Trusted;
        self.slot.known();
    }

    fn begin(&mut self, response: &ResponseHead<'_>) -> Result<(), Cut> {
        if self.is_begun() {
            return Err(Cut::Aborted);
        }
        let body_unread = self.incoming.remaining() > 0;
        self.keep_alive &= !body_unread && !self.slot.wants_close();
        let persistence = match (self.keep_alive, self.is_http_1_0) {
            (false, _) => Persistence::Close,
            (true, false) => Persistence::KeepAlive,
            (true, true) => Persistence::KeepAliveSaid,
        };
        encode::head(self.unsent, response, self.dates.now(), persistence);
        self.outgoing = Some(Outgoing::new(response.content_length, self.is_head));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        let outgoing = self.outgoing.as_mut().ok_or(Cut::Aborted)?;
        match outgoing.admit(bytes)? {
            [] => Ok(()),
            admitted => self.send(admitted),
        }
    }
}
