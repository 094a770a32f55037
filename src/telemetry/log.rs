//! The log: lines go into the queue, and one thread writes them in batches.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::line::{Format, Level, Line, Value};
use super::queue::{Batch, Queue};
use super::request::RequestLine;

/// How long a flush waits for a sink that takes nothing; an exit must not hang on a stopped terminal.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    /// Where the lines of this thread are put together, outside the lock.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where lines go. Cheap to write to from any thread, and never waits for the sink.
#[derive(Debug)]
pub struct Log {
    format: Format,
    requests: bool,
    queue: Arc<Queue>,
}

impl Log {
    /// A log to stderr. Without `requests`, [`Log::request`] does nothing.
    pub fn to_stderr(format: Format, requests: bool) -> io::Result<Arc<Self>> {
        Self::to(Box::new(io::stderr()), format, requests)
    }

    /// A log to any sink.
    pub fn to(
        sink: Box<dyn Write + Send>,
        format: Format,
        requests: bool,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Queue::default());
        let of_thread = Arc::clone(&queue);
        let writer = move || write_batches(&of_thread, sink, format);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(writer)?;
        Ok(Arc::new(Self {
            format,
            requests,
            queue,
        }))
    }

    /// Something was lost, or somebody has to act.
    pub fn error(&self, message: &'static str, fields: &[(&'static str, Value<'_>)]) {
        self.event(Level::Error, message, fields);
    }

    /// Something is not as it should be; the server goes on.
    pub fn warn(&self, message: &'static str, fields: &[(&'static str, Value<'_>)]) {
        self.event(Level::Warn, message, fields);
    }

    /// What happens on a good day.
    pub fn info(&self, message: &'static str, fields: &[(&'static str, Value<'_>)]) {
        self.event(Level::Info, message, fields);
    }

    /// Whether requests are logged; spares whoever would gather what goes into the line.
    pub fn logs_requests(&self) -> bool {
        self.requests
    }

    /// One request.
    pub fn request(&self, request: &RequestLine<'_>) {
        if self.requests {
            self.line(Level::Info, "request", |line| request.write(line));
        }
    }

    /// How many lines were lost since the start, because the sink did not take them.
    pub fn lost_lines(&self) -> u64 {
        self.queue.lost_lines()
    }

    /// Waits until everything logged so far is written, two seconds at most.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_LIMIT);
    }

    /// Flushes when the guard is dropped, however the function is left. Threads may hold the log longer
    /// than `main`, so dropping the log itself is not enough.
    pub fn flush_on_drop(self: &Arc<Self>) -> FlushOnDrop {
        FlushOnDrop(Arc::clone(self))
    }

    fn event(&self, level: Level, message: &'static str, fields: &[(&'static str, Value<'_>)]) {
        self.line(level, message, |line| {
            for (key, value) in fields {
                line.field(key, *value);
            }
        });
    }

    fn line(&self, level: Level, message: &'static str, fields: impl FnOnce(&mut Line<'_>)) {
        let push = |scratch: &mut String| {
            scratch.clear();
            let mut line = Line::begin(scratch, self.format, Timestamp::now(), level, message);
            fields(&mut line);
            line.end();
            self.queue.push(scratch, level != Level::Info);
        };
        // The buffer is taken out meanwhile: a value that logs while it is printed finds an empty one.
        let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        push(&mut scratch);
        let _ = SCRATCH.try_with(|slot| slot.replace(scratch));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
        self.queue.close();
    }
}

/// Flushes the log when it is dropped.
#[derive(Debug)]
pub struct FlushOnDrop(Arc<Log>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush();
    }
}

fn write_batches(queue: &Queue, mut sink: Box<dyn Write + Send>, format: Format) {
    let mut batch = Batch::default();
    while queue.take(&mut batch) {
        if batch.dropped_lines > 0 {
            append_dropped(&mut batch, format);
        }
        let written = sink
            .write_all(batch.text.as_bytes())
            .and_then(|()| sink.flush());
        // There is no other place to complain in; the loss is told when the sink takes lines again.
        queue.finish(&batch, written.is_ok());
    }
}

/// Says at the end of a batch how many lines are missing.
fn append_dropped(batch: &mut Batch, format: Format) {
    let dropped_lines = batch.dropped_lines;
    let mut line = Line::begin(
        &mut batch.text,
        format,
        Timestamp::now(),
        Level::Warn,
        "log lines were dropped",
    );
    line.field("lines", Value::Number(dropped_lines));
    line.end();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::telemetry::QUEUE_MAX_BYTES;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn text(&self) -> String {
            let bytes = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            String::from_utf8(bytes).unwrap()
        }

        /// The lines without their times.
        fn lines(&self) -> Vec<String> {
            let text = self.text();
            text.lines()
                .map(|line| line.split_once(' ').unwrap().1.to_owned())
                .collect()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes nothing until it is let go, and says when it was first asked to.
    struct Stuck {
        asked: Sender<()>,
        go: Receiver<()>,
        then: Kept,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(());
            let _ = self.go.recv();
            self.then.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(requests: bool) -> (Arc<Log>, Kept) {
        let kept = Kept::default();
        (
            Log::to(Box::new(kept.clone()), Format::Text, requests).unwrap(),
            kept,
        )
    }

    #[test]
    fn lines_are_written_in_order_with_their_levels() {
        let (log, kept) = log(true);
        log.info("listening", &[("address", "127.0.0.1:8787".into())]);
        log.warn("slow", &[("wait_ms", 5_u64.into())]);
        log.error("failed", &[("path", "a b".into())]);
        log.flush();
        let lines = kept.lines();
        assert_eq!(
            lines,
            [
                "info listening address=127.0.0.1:8787",
                "warn slow wait_ms=5",
                "error failed path=\"a b\""
            ]
        );
    }

    #[test]
    fn a_request_has_fixed_keys_in_a_fixed_order() {
        let (log, kept) = log(true);
        log.request(&RequestLine {
            method: Some("PUT"),
            path: Some("/v1/cache/42"),
            status: Some(200),
            bytes_in: Some(1024),
            bytes_out: Some(0),
            duration_us: Some(314),
            peer: Some([10, 0, 0, 7].into()),
            token: Some("AbCdEfGhIjKl"),
            token_name: Some("ci main"),
            workspace: Some("default"),
            scope: Some("pr-1"),
            hash: Some("42"),
            reason: Some("x=y"),
        });
        log.request(&RequestLine {
            reason: Some("bad\nhead"),
            status: Some(400),
            ..RequestLine::default()
        });
        log.flush();
        assert_eq!(
            kept.lines(),
            [
                "info request method=PUT path=/v1/cache/42 status=200 bytes_in=1024 bytes_out=0 \
                 duration_us=314 peer=10.0.0.7 token=AbCdEfGhIjKl token_name=\"ci main\" \
                 workspace=default scope=pr-1 hash=42 reason=\"x=y\"",
                "info request status=400 reason=\"bad\\nhead\"",
            ]
        );
    }

    #[test]
    fn requests_that_are_not_wanted_leave_no_line() {
        let (log, kept) = log(false);
        log.request(&RequestLine::default());
        log.info("other", &[]);
        log.flush();
        assert_eq!(kept.lines(), ["info other"]);
        assert!(!log.logs_requests());
    }

    #[test]
    fn the_last_lines_are_written_when_the_log_or_its_guard_is_dropped() {
        let (log, kept) = log(true);
        {
            let _guard = log.flush_on_drop();
            log.info("first", &[]);
        }
        assert_eq!(kept.lines(), ["info first"]);
        log.info("last", &[]);
        drop(log);
        assert_eq!(kept.lines(), ["info first", "info last"]);
    }

    #[test]
    fn a_stuck_sink_blocks_nobody_and_what_was_lost_is_told() {
        let (asked, was_asked) = channel();
        let (let_go, go) = channel();
        let kept = Kept::default();
        let sink = Box::new(Stuck {
            asked,
            go,
            then: kept.clone(),
        });
        let log = Log::to(sink, Format::Text, true).unwrap();
        log.warn("first", &[]);
        was_asked.recv().unwrap();
        let padding = "x".repeat(1000);
        let count = 2 * QUEUE_MAX_BYTES / padding.len();
        (0..count).for_each(|_| log.info("line", &[("text", padding.as_str().into())]));
        drop(let_go);
        log.flush();
        let lines = kept.lines();
        let told = lines
            .last()
            .unwrap()
            .strip_prefix("warn log lines were dropped lines=")
            .unwrap();
        let written = lines
            .iter()
            .filter(|line| line.starts_with("info line"))
            .count();
        assert!(written > 0 && written < count, "{written} of {count}");
        assert_eq!(written + told.parse::<usize>().unwrap(), count);
    }

    #[test]
    fn many_threads_never_mix_their_lines() {
        let (log, kept) = log(true);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..200_u64 {
                        log.info("n", &[("a", n.into()), ("b", n.into())]);
                    }
                });
            }
        });
        log.flush();
        let lines = kept.lines();
        assert_eq!(lines.len(), 1600);
        for line in lines {
            let (a, b) = line
                .strip_prefix("info n a=")
                .unwrap()
                .split_once(" b=")
                .unwrap();
            assert_eq!(a, b);
        }
    }

    #[test]
    fn json_lines_are_json_also_when_lines_were_dropped() {
        let mut batch = Batch::default();
        batch.dropped_lines = 3;
        append_dropped(&mut batch, Format::Json);
        let value: serde_json::Value = serde_json::from_str(&batch.text).unwrap();
        assert_eq!(
            (value["level"].as_str(), value["lines"].as_u64()),
            (Some("warn"), Some(3))
        );
    }
}
