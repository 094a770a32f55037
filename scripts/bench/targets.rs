//! The targets of design/storage.md and design/trust.md, each with what was measured: reached or not.

use crate::guessing::{self, Guessed};
use crate::matrix::Matrix;
use crate::plan::Plan;
use crate::probes::Probed;
use crate::report::{Table, or_dash, ratio, seconds, three_digits};

/// One target.
struct Target {
    name: &'static str,
    limit: Limit,
    measured: Option<f64>,
    show: fn(f64) -> String,
    place: String,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn is_kept_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    fn text(self, show: fn(f64) -> String) -> String {
        match self {
            Self::AtLeast(limit) => format!(">= {}", show(limit)),
            Self::AtMost(limit) => format!("<= {}", show(limit)),
        }
    }
}

pub fn print(plan: &Plan, matrix: &Matrix, probed: Option<&Probed>, guessed: &[Guessed]) {
    let mut table = Table::new(
        "Targets",
        &["target", "limit", "measured", "verdict", "where"],
    );
    let targets = ratios(matrix).into_iter().chain(limits(matrix, probed));
    for target in targets.chain([guesses(guessed)]) {
        let verdict = match target.measured {
            None => "not measured",
            Some(value) if target.limit.is_kept_by(value) => "reached",
            Some(_) => "NOT REACHED",
        };
        table.row(vec![
            target.name.to_owned(),
            target.limit.text(target.show),
            or_dash(target.measured, target.show),
            verdict.to_owned(),
            target.place,
        ]);
    }
    table.print(plan.markdown);
}

fn ratios(matrix: &Matrix) -> [Target; 3] {
    let lowest = |name, limit, worst: Option<(f64, String)>| {
        let (measured, place) = worst.unzip();
        Target {
            name,
            limit: Limit::AtLeast(limit),
            measured,
            show: ratio,
            place: place.unwrap_or_default(),
        }
    };
    let shared = matrix
        .shared_commits()
        .map(|ratio| (ratio, "1 KB at 64".to_owned()));
    [
        lowest("GET over nginx, lowest", 1.0, matrix.worst_get()),
        lowest(
            "PUT over SQLite from 64 KB up, lowest",
            0.9,
            matrix.worst_put(),
        ),
        lowest("PUT over SQLite, shared commits", 1.0, shared),
    ]
}

fn limits(matrix: &Matrix, probed: Option<&Probed>) -> [Target; 6] {
    let at_most = |name, limit, measured, show, place: &str| Target {
        name,
        limit: Limit::AtMost(limit),
        measured,
        show,
        place: place.to_owned(),
    };
    let megabytes = |bytes| format!("{} MB", three_digits(bytes / 1e6));
    let micros = |micros| format!("{} µs", three_digits(micros));
    let anonymous = probed.map(|probed| probed.upload_anonymous_bytes() as f64);
    let log = matrix
        .log_bytes
        .max(probed.map_or(0, |probed| probed.log_bytes));
    let log = (log > 0).then_some(log as f64);
    let put = probed.map(Probed::put_beside_uploads);
    let get = probed.map(Probed::get_beside_uploads);
    let paced = probed.map(Probed::get_beside_paced_uploads);
    [
        at_most(
            "small PUT p99 beside eight uploads",
            0.06,
            put,
            seconds,
            "full speed",
        ),
        at_most(
            "small GET p99 beside uploads, of quiet",
            3.0,
            get,
            ratio,
            "full speed",
        ),
        at_most(
            "small GET p99 beside uploads, of quiet",
            3.0,
            paced,
            ratio,
            "gigabit",
        ),
        at_most(
            "anonymous memory, eight 200 MB uploads",
            100e6,
            anonymous,
            megabytes,
            "",
        ),
        at_most(
            "CPU of a miss",
            30.0,
            probed.map(Probed::miss_micros),
            micros,
            "1 connection",
        ),
        at_most("longest log", 256.0 * 1_048_576.0, log, megabytes, ""),
    ]
}

fn guesses(guessed: &[Guessed]) -> Target {
    Target {
        name: "small GET p99 beside guesses, of misses",
        limit: Limit::AtMost(2.0),
        measured: guessing::paced_over_misses(guessed),
        show: ratio,
        place: "2000 a second".to_owned(),
    }
}
