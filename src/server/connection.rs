//! One connection, on its own thread: read a head, let the application answer, keep or close.

use std::any::Any;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::Context;
use super::buffer::Buffer;
use super::exchange::{After, Live};
use super::linger::{Patience, linger};
use super::pace::Pace;
use super::registry::Slot;
use super::stream::Stream;
use crate::http::{
    Cut, DateCache, Head, HeadScanner, HeadSpan, Reject, Request, ServerEvent, TLS_HANDSHAKE_BYTE,
    encode,
};

/// The state of one connection between and during its requests.
pub(super) struct Connection<S> {
    stream: S,
    peer: IpAddr,
    context: Arc<Context>,
    slot: Slot,
    buffer: Buffer,
    response_head: Vec<u8>,
    dates: DateCache,
    told_to_close: bool,
}

/// What the wait for the next head ended with.
enum Arrival {
    Head(HeadSpan),
    Rejected(Reject),
    /// The client is gone, or nothing is to be said to it.
    Over,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, peer: IpAddr, context: Arc<Context>, slot: Slot) -> Self {
        Self {
            stream,
            peer,
            context,
            slot,
            buffer: Buffer::new(),
            response_head: Vec::with_capacity(512),
            dates: DateCache::default(),
            told_to_close: false,
        }
    }

    /// Serves requests until the connection ends. A panic ends this connection only.
    pub(super) fn run(mut self) {
        let (context, peer) = (Arc::clone(&self.context), self.peer);
        let served = catch_unwind(AssertUnwindSafe(|| self.serve_all()));
        if let Err(payload) = served {
            report_panic(&context, peer, payload.as_ref());
        }
    }

    /// Answers with a refusal, whatever is asked for, and ends.
    pub(super) fn refuse(mut self, reject: Reject) {
        if let After::Linger(patience) = self.send_rejection(reject) {
            self.slot.lingering();
            linger(&mut self.stream, patience, &self.context.limits);
        }
    }

    fn serve_all(&mut self) {
        loop {
            let after = match self.await_head() {
                Arrival::Head(span) => self.serve(span),
                Arrival::Rejected(reject) => self.reject(reject),
                Arrival::Over => After::Cut,
            };
            match after {
                After::KeepAlive => {}
                After::Cut => return,
                After::Linger(patience) => {
                    self.slot.lingering();
                    return linger(&mut self.stream, patience, &self.context.limits);
                }
            }
        }
    }

    fn await_head(&mut self) -> Arrival {
        if self.buffer.pending().is_empty() && !self.await_first_byte() {
            return Arrival::Over;
        }
        if S::IS_PLAIN && self.buffer.pending().first() == Some(&TLS_HANDSHAKE_BYTE) {
            let peer = self.peer;
            self.context
                .handler
                .event(&ServerEvent::TlsOnPlainPort { peer });
            return Arrival::Over;
        }
        self.await_rest_of_head()
    }

    /// Waits, idle, for the next request. False: the connection is over.
    fn await_first_byte(&mut self) -> bool {
        self.buffer.settle();
        self.slot.idle();
        let timeout = self.context.limits.idle_timeout;
        let read = self.stream.read_first(self.buffer.space(), timeout);
        self.told_to_close |= self.slot.busy();
        let Ok(Some(count)) = read else {
            // Nobody asked for anything: a good time to part.
            self.stream.say_goodbye();
            return false;
        };
        self.buffer.added(count);
        true
    }

    /// Reads until the head is complete: by one absolute deadline, which no trickle moves.
    fn await_rest_of_head(&mut self) -> Arrival {
        let deadline = Instant::now() + self.context.limits.head_timeout;
        let mut scanner = HeadScanner::default();
        loop {
            match scanner.advance(self.buffer.pending()) {
                Ok(Some(span)) => return Arrival::Head(span),
                Err(reject) => return Arrival::Rejected(reject),
                Ok(None) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arrival::Rejected(Reject::HeadTimedOut);
            }
            match self.stream.read(self.buffer.space(), left) {
                Ok(0) | Err(Cut::Closed | Cut::Aborted) => return Arrival::Over,
                Err(Cut::TimedOut) => return Arrival::Rejected(Reject::HeadTimedOut),
                Ok(count) => self.buffer.added(count),
            }
        }
    }

    fn serve(&mut self, span: HeadSpan) -> After {
        let (read, early) = self.buffer.pending().split_at(span.end);
        let head = match Head::parse(&read[span.start..]) {
            Ok(head) => head,
            Err(reject) => return self.reject(reject),
        };
        let request = request(&head, self.peer);
        let output = (&mut self.response_head, &mut self.dates);
        let below = (&mut self.stream, &mut self.slot);
        let mut live = Live::new(below, &self.context.limits, output, &head, early);
        if self.told_to_close {
            live.close_after();
        }
        let handled = answer(&self.context, &request, &mut live);
        let (left, after) = live.finish(handled);
        let used = self.buffer.pending().len() - left;
        self.buffer.consume(used);
        after
    }

    /// Answers a request that broke a rule. Where the next one would begin is unknown: this is the end.
    fn reject(&mut self, reject: Reject) -> After {
        let (status, reason) = (reject.status(), reject.reason());
        self.context.handler.rejected(self.peer, status, reason);
        self.send_rejection(reject)
    }

    fn send_rejection(&mut self, reject: Reject) -> After {
        let limits = &self.context.limits;
        let mut pace = Pace::new(limits.write_timeout, limits.body_rate_min_bytes);
        self.response_head.clear();
        encode::rejection(&mut self.response_head, reject, self.dates.now());
        match self.stream.write_all(&self.response_head, &[], &mut pace) {
            Ok(()) => After::Linger(Patience::Stranger),
            Err(_) => After::Cut,
        }
    }
}

fn request<'b>(head: &Head<'b>, peer: IpAddr) -> Request<'b> {
    Request {
        method: head.method,
        path: head.path,
        authorization: head.authorization,
        content_length: head.content_length,
        forwarded_for: head.forwarded_for,
        peer,
    }
}

/// Lets the application answer; where it panics, once more, to say so.
fn answer<S: Stream>(
    context: &Context,
    request: &Request<'_>,
    live: &mut Live<'_, S>,
) -> Result<(), Cut> {
    let handler = context.handler.as_ref();
    match catch_unwind(AssertUnwindSafe(|| handler.handle(request, live))) {
        Ok(outcome) => return outcome,
        Err(payload) => report_panic(context, request.peer, payload.as_ref()),
    }
    live.close_after();
    if live.is_begun() {
        return Err(Cut::Aborted);
    }
    let excused = catch_unwind(AssertUnwindSafe(|| handler.panicked(request, live)));
    excused.unwrap_or(Err(Cut::Aborted))
}

pub(super) fn report_panic(context: &Context, peer: IpAddr, payload: &(dyn Any + Send)) {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("no message");
    context
        .handler
        .event(&ServerEvent::Panicked { peer, message });
}
