//! The client that an attack must not hurt: it keeps its connection, GETs a small artifact again and again, looks at
//! every byte of the answer, and takes down how long each took.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{Raw, client};

/// What it asks for.
pub const SMALL: (&str, usize) = ("small", 1000);

/// Between two requests: builds compute something, too.
const REST: Duration = Duration::from_millis(2);

/// How the witness reaches the server.
pub type Door = Box<dyn Fn() -> io::Result<Raw> + Send>;

/// A witness at work.
pub struct Witness {
    state: Arc<(Mutex<State>, Condvar)>,
    patience: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    taken: Vec<Duration>,
    failure: Option<String>,
    is_over: bool,
}

impl Witness {
    /// Goes on until it is dropped, or until one answer is not what was stored.
    pub fn start(door: Door, secret: &str, bytes: Vec<u8>, patience: Duration) -> Self {
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {secret}\r\n\r\n",
            client::path(SMALL.0)
        );
        let thread = thread::spawn(move || {
            let mut raw = None;
            loop {
                let began = Instant::now();
                let asked = ask(&mut raw, &door, &request, &bytes, patience);
                let mut state = shared.0.lock().unwrap();
                if state.is_over {
                    return;
                }
                match asked {
                    Ok(()) => state.taken.push(began.elapsed()),
                    Err(failure) => state.failure = Some(failure),
                }
                let has_failed = state.failure.is_some();
                drop(state);
                shared.1.notify_all();
                if has_failed {
                    return;
                }
                thread::sleep(REST);
            }
        });
        Self {
            state,
            patience,
            thread: Some(thread),
        }
    }

    /// How many answers there are by now.
    pub fn count(&self) -> usize {
        self.state.0.lock().unwrap().taken.len()
    }

    /// Waits for this many more answers.
    pub fn await_more(&self, count: usize) -> Result<(), String> {
        let state = self.state.0.lock().unwrap();
        let wanted = state.taken.len() + count;
        let is_short = |state: &mut State| state.taken.len() < wanted && state.failure.is_none();
        let patience = self.patience + REST * 20 * count as u32;
        let (state, _) = (self.state.1)
            .wait_timeout_while(state, patience, is_short)
            .unwrap();
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None if state.taken.len() < wanted => Err("the witness is too slow".to_owned()),
            None => Ok(()),
        }
    }

    /// The time that all but one of a hundred answers since the `from`th took at most.
    pub fn p99(&self, from: usize) -> Duration {
        let mut taken = self.state.0.lock().unwrap().taken[from..].to_vec();
        taken.sort();
        let rank = (taken.len() * 99).div_ceil(100);
        taken[rank.saturating_sub(1)]
    }

    /// Whether every answer so far was right.
    pub fn verdict(&self) -> Result<(), String> {
        let failure = self.state.0.lock().unwrap().failure.clone();
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().is_over = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One GET, over a new connection where there is none.
fn ask(
    kept: &mut Option<Raw>,
    door: &Door,
    request: &str,
    bytes: &[u8],
    patience: Duration,
) -> Result<(), String> {
    let mut attempt = || {
        let mut raw = match kept.take() {
            Some(raw) => raw,
            None => door()?,
        };
        raw.socket().set_read_timeout(Some(patience))?;
        raw.try_send(request)?;
        let answer = raw.try_answer(true)?;
        io::Result::Ok((raw, answer))
    };
    let (raw, answer) = attempt().map_err(|error| format!("the witness got no answer: {error}"))?;
    if answer.status != 200 || answer.body != bytes {
        return Err(format!("the witness got another answer: {}", answer.head));
    }
    // As good clients do, it leaves where it is told to.
    *kept = (!answer.closes()).then_some(raw);
    Ok(())
}
