//! cachesrv beside nginx, a tiny_http server and SQLite alone: the same artifacts, one interleaved run.
//! `scripts/bench.sh` runs it; `--help` lists the options.
//!
//! Client and servers share the machine, and every server is asked by the same code (`client`, `load`), so
//! the ratios count, not the numbers. Each round visits the servers one after the other; a number is the
//! median of its rounds, a ratio the median of the rounds' ratios.

mod cells;
mod client;
#[path = "../../tests/support/guess.rs"]
mod guess;
mod guessing;
mod histogram;
mod load;
mod matrix;
mod plan;
mod probes;
mod process;
mod report;
mod servers;
mod sqlite;
mod targets;
mod tiny;
mod upkeep;

use anyhow::Result;
use clap::Parser;

use crate::matrix::Matrix;
use crate::plan::{Options, Part, Plan};
use crate::servers::Kind;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, directory, token] = arguments.as_slice()
        && command == "serve-tiny-http"
    {
        return tiny::serve(directory.as_ref(), token);
    }
    let plan = Plan::new(Options::parse())?;
    plan.setup.sweep()?;
    let mut matrix = Matrix::default();
    if plan.parts.contains(&Part::Get) {
        cells::gets(&plan, &mut matrix)?;
    }
    if plan.parts.contains(&Part::Put) {
        cells::puts(&plan, &mut matrix)?;
    }
    let (mut probed, mut guessed) = (Vec::new(), Vec::new());
    if plan.parts.contains(&Part::Probes) {
        for kind in plan.http_kinds() {
            probed.push(probes::run(&plan, kind)?);
            guessed.extend(guessing::run(&plan, kind)?);
        }
    }
    let upkeep = plan.parts.contains(&Part::Upkeep);
    let upkeep = upkeep.then(|| upkeep::run(&plan)).transpose()?;
    print_head(&plan);
    matrix.print(&plan);
    if !probed.is_empty() {
        probes::print(&probed, &plan);
        guessing::print(&guessed, &plan);
    }
    if let Some(upkeep) = &upkeep {
        upkeep::print(upkeep, &plan);
    }
    if plan.has(Kind::Cachesrv) && plan.parts.iter().any(|part| *part != Part::Upkeep) {
        targets::print(
            &plan,
            &matrix,
            probed.iter().find(|each| each.kind == Kind::Cachesrv),
            &guessed,
        );
    }
    plan.progress("done");
    Ok(())
}

fn print_head(plan: &Plan) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    println!(
        "{} cores shared by client and servers, {} rounds of {} ms, medians; load average at the end {load}.",
        plan.cores,
        plan.rounds,
        plan.slice.as_millis()
    );
    println!(
        "nginx: one worker a core, sendfile, open_file_cache, dav PUT, token compared as text. tiny: files on tiny_http,\n\
         which leaves Nagle's algorithm on: a small GET waits 40 ms for the client's delayed ACK.\n\
         SQLite: the same rows by rusqlite alone: no HTTP, no checksums; one writer, readers up to the cores, the last\n\
         fold of the log included in PUT. `/x` is cachesrv over x (for PUT /SQLite with our log folded in as well).\n\
         A PUT slice stores at most {} MB, so that of 64 connections {} upload 200 MB at a time. nginx and tiny_http\n\
         never sync what they store; cachesrv and SQLite sync at each checkpoint.\n",
        plan.put_bytes / 1_000_000,
        (plan.put_bytes / (200 << 20)).max(2)
    );
}
