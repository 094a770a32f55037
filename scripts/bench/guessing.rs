//! What guessing costs those who have a token: small GETs on one connection while others send tokens that
//! nobody made. Clients and server share the cores, so the noise floor is what as many misses with a good
//! token show, and what nginx shows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::client::Client;
use crate::guess::{bad_check, unknown_id, wrong_secret};
use crate::histogram::Histogram;
use crate::load::{self, Bodies, Slice, fresh_hash, next_random};
use crate::plan::Plan;
use crate::report::{Table, median, median_ratio, or_dash, ratio, seconds};
use crate::servers::{Kind, Server};

const OTHERS: usize = 8;

/// Guesses a second, all together, when nobody asks as fast as he can.
const PACED_PER_SECOND: f64 = 2000.0;

/// What the others do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    None,
    /// With the good token.
    Misses,
    WrongSecrets,
    UnknownIds,
    BadCheckDigits,
    /// Some of each kind of guess, at a fixed pace.
    Paced,
    PacedMisses,
}

impl Others {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Misses,
        Self::WrongSecrets,
        Self::UnknownIds,
        Self::BadCheckDigits,
        Self::PacedMisses,
        Self::Paced,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Misses => "misses",
            Self::WrongSecrets => "wrong secrets",
            Self::UnknownIds => "unknown ids",
            Self::BadCheckDigits => "bad check digits",
            Self::Paced => "all guesses, paced",
            Self::PacedMisses => "misses, paced",
        }
    }

    fn is_paced(self) -> bool {
        matches!(self, Self::Paced | Self::PacedMisses)
    }

    /// For nginx all tokens that are not its own are alike.
    fn concerns(self, kind: Kind) -> bool {
        match kind {
            Kind::Cachesrv => true,
            Kind::Nginx => !matches!(self, Self::WrongSecrets | Self::BadCheckDigits),
            _ => false,
        }
    }
}

/// A client with a good token, in one situation.
pub struct Guessed {
    kind: Kind,
    others: Others,
    others_per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Guessed {
    fn new(kind: Kind, others: Others) -> Self {
        Self {
            kind,
            others,
            others_per_second: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
        }
    }
}

/// What one server shows; nothing for those that are not compared.
pub fn run(plan: &Plan, kind: Kind) -> Result<Vec<Guessed>> {
    let concern = Others::ALL.into_iter().filter(|each| each.concerns(kind));
    let mut guessed: Vec<_> = concern.map(|others| Guessed::new(kind, others)).collect();
    if guessed.is_empty() {
        return Ok(guessed);
    }
    plan.progress(&format!("guessing, {}", kind.title()));
    let server = Server::start(kind, &plan.setup)?;
    let bodies = Bodies::new(1 << 10);
    let hashes: Vec<String> = (0..100).map(|_| fresh_hash()).collect();
    load::preload(&server, &hashes, &bodies)?;
    let slice = Slice {
        time: plan.slice / 4,
        requests_min: 500,
        requests_max: u64::MAX,
    };
    for _ in 0..plan.rounds {
        for each in &mut guessed {
            let get = || Ok(load::gets(&server, 1, slice, &hashes, &bodies)?.latencies);
            let (get, others_per_second) = beside(&server, each.others, get)?;
            each.others_per_second.push(others_per_second);
            each.p50.push(get.quantile(0.5));
            each.p99.push(get.quantile(0.99));
        }
    }
    Ok(guessed)
}

/// Measures while the others do what they do, and how often they do it in a second.
fn beside(
    server: &Server,
    others: Others,
    measure: impl FnOnce() -> Result<Histogram>,
) -> Result<(Histogram, f64)> {
    let stop = AtomicBool::new(false);
    let count = if others == Others::None { 0 } else { OTHERS };
    std::thread::scope(|scope| {
        let ask = |number| ask_on(server, others, number, &stop);
        let asking: Vec<_> = (0..count as u64)
            .map(|number| scope.spawn(move || ask(number)))
            .collect();
        let started = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        let elapsed = started.elapsed().as_secs_f64();
        let mut asked = 0;
        for other in asking {
            asked += other.join().map_err(|_| anyhow!("a guesser panicked"))??;
        }
        Ok((measured?, f64::from(asked) / elapsed))
    })
}

/// One of the others, until told to stop: how often it asked.
fn ask_on(server: &Server, others: Others, number: u64, stop: &AtomicBool) -> Result<u32> {
    let mut client = Client::connect(server.address, &server.token)?;
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ number;
    let mut random = || next_random(&mut state);
    let started = Instant::now();
    let mut asked = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let (hash, token) = (fresh_hash(), &server.token);
        match (others, asked % 3) {
            (Others::Misses | Others::PacedMisses, _) => client.miss(&hash)?,
            (Others::WrongSecrets, _) | (Others::Paced, 0) if server.kind == Kind::Cachesrv => {
                client.guess(&wrong_secret(&mut random, token), &hash)?;
            }
            (Others::BadCheckDigits, _) | (Others::Paced, 1) if server.kind == Kind::Cachesrv => {
                client.guess(&bad_check(&mut random, token), &hash)?;
            }
            _ => client.guess(&unknown_id(&mut random), &hash)?,
        }
        asked += 1;
        if others.is_paced() {
            let due = f64::from(asked) * OTHERS as f64 / PACED_PER_SECOND;
            let due = Duration::from_secs_f64(due);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    Ok(asked)
}

/// How much longer the p99 of small GETs of cachesrv is beside guesses than beside as many misses.
pub fn paced_over_misses(guessed: &[Guessed]) -> Option<f64> {
    let p99 = |others| {
        let mut ours = guessed.iter().filter(|each| each.kind == Kind::Cachesrv);
        ours.find(|each| each.others == others)
            .map(|each| &each.p99)
    };
    median_ratio(p99(Others::Paced)?, p99(Others::PacedMisses)?)
}

pub fn print(guessed: &[Guessed], plan: &Plan) {
    let headers = [
        "server",
        "the others send",
        "a second",
        "GET p50",
        "p99",
        "against quiet",
    ];
    let mut table = Table::new(
        "1 KB GETs with a good token on one connection beside eight others",
        &headers,
    );
    let mut quiet = None;
    for each in guessed {
        if each.others == Others::None {
            quiet = Some(&each.p99);
        }
        let against = quiet.and_then(|quiet| median_ratio(&each.p99, quiet));
        table.row(vec![
            each.kind.title().to_owned(),
            each.others.title().to_owned(),
            or_dash(median(&each.others_per_second), |rate| format!("{rate:.0}")),
            or_dash(median(&each.p50), seconds),
            or_dash(median(&each.p99), seconds),
            or_dash(against, ratio),
        ]);
    }
    table.note(
        "The others use the same two cores: what misses show is the noise floor. For nginx every guess is one\n\
         comparison of texts.",
    );
    table.print(plan.markdown);
}
