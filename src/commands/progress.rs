//! A progress bar on stderr for what may take a while: on a terminal only, and only once it has taken long
//! enough to make somebody wonder.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What ends sooner needs no bar.
const APPEARS_AFTER: Duration = Duration::from_millis(500);

/// The bar; it goes when it is dropped.
pub(super) struct Progress {
    began: Instant,
    is_wanted: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing to be seen yet.
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            is_wanted: io::stderr().is_terminal(),
            bar: None,
        }
    }

    /// Moves the bar.
    pub(super) fn show(&mut self, done: u64, total: u64, message: impl FnOnce() -> String) {
        if !self.is_wanted || self.began.elapsed() < APPEARS_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(total));
        bar.set_position(done);
        bar.set_message(message());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
