//! The soak: minutes or hours of everything at once, and a book of what was promised. `scripts/soak.sh` runs it.
//!
//! Clients store and read (`load`), an operator restarts and kills the server, makes backups and rotates tokens
//! (`chores`), an observer watches the process (`watch`). Each answer is held against the book (`book`): bytes are
//! those that were stored, a miss is one that eviction explains, and nothing fails but what was in flight at a
//! kill. At the end the file is checked, and a backup of it restored (`ending`). Whatever the promise: one that is
//! broken is printed and makes the exit code 1.

mod book;
mod chores;
mod ending;
mod load;
#[path = "../bench/process.rs"]
#[allow(dead_code)] // The benchmark measures more.
mod process;
#[path = "../../tests/support/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "../../tests/support/raw.rs"]
mod raw;
mod report;
mod server;
mod watch;
mod wire;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

use crate::world::World;

/// Mixed load, eviction, backups, kills and restarts, with a book of every promise.
#[derive(Parser)]
#[command(name = "soak.sh")]
pub struct Options {
    /// How long the load lasts; setting up and checking come on top
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,

    /// Repeats the choices of an earlier run, not its timing
    #[arg(long)]
    seed: Option<u64>,

    /// The cachesrv to soak [default: the release build]
    #[arg(long)]
    cachesrv: Option<PathBuf>,

    /// Where to work: some 12 GB [default: the directory of the build]
    #[arg(long)]
    dir: Option<PathBuf>,

    /// `cargo bench` adds this.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let world = World::new(&options)?;
    world.say(&format!(
        "seed {}, {} s of load in {}",
        world.seed,
        length.as_secs(),
        world.dir.display()
    ));
    let mut operator = chores::Operator::start(&world)?;
    let before = watch::at_rest(&world);
    load::fill(&world)?;
    load::pin(&world)?;
    world.say("the budget is filled; the load begins");
    let (began, peaks) = (Instant::now(), watch::Peaks::default());
    std::thread::scope(|scope| {
        load::start(&world, scope);
        chores::start(&world, scope);
        watch::start(&world, scope, &peaks);
        while began.elapsed() < length && !world.has_failed_hopelessly() {
            operator.act(&world, length.saturating_sub(began.elapsed()));
        }
        world.stop();
    });
    world.say("the load is over; checking what is left");
    load::read_everything(&world);
    let after = watch::at_rest(&world);
    let ended = ending::run(&world, operator)?;
    report::print(&world, &before, &after, &peaks, &ended, began.elapsed());
    Ok(if world.broken().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
