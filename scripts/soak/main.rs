//! The soak: minutes or hours of everything at once, and a book of what was promised. `scripts/soak.sh` runs it.
//!
//! Clients store and read (`load`), an operator restarts and kills the server, makes backups and rotates tokens
//! (`chores`), an observer watches the process (`watch`). Each answer is held against the book (`book`): bytes are
//! those that were stored, a miss is one that eviction explains, and nothing fails but what was in flight at a
//! kill. In the second half nobody restarts the server, and it has to end with the memory, descriptors, threads and log
//! that it had early in that half. At the end the file is checked, and a backup of it restored (`ending`). Whatever
//! the promise: one that is broken is printed and makes the exit code 1.

mod book;
mod chores;
mod ending;
#[path = "../../tests/support/footprint.rs"]
mod footprint;
mod load;
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

use crate::world::World;

/// The part of its life in which the last process fills its caches and buffers.
const WARM_UP_SHARE: u32 = 4;

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
    load::fill(&world)?;
    load::pin(&world)?;
    world.say("the budget is filled; the load begins, with restarts and kills");
    let (began, peaks) = (Instant::now(), watch::Peaks::default());
    session(&world, &peaks, length / 2, |left| {
        operator.act(&world, left);
    });
    world.say("the rest is the life of one process");
    let restarted = operator.restart(&world);
    world.must("a restart", restarted);
    let life = live(&world, &peaks, length / 2);
    let ended = ending::run(&world, operator)?;
    report::print(&world, &life, &peaks, &ended, began.elapsed());
    Ok(if world.broken().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All clients and chores at work for a while; `act` is called again and again with the time that is left.
fn session(world: &World, peaks: &watch::Peaks, length: Duration, mut act: impl FnMut(Duration)) {
    let began = Instant::now();
    world.begin_session();
    // What is read all the time is read until the last command has ended, or it would grow too old.
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| load::read_pins(world, &has_ended));
        std::thread::scope(|scope| {
            load::start(world, scope);
            chores::start(world, scope);
            watch::start(world, scope, peaks);
            while began.elapsed() < length && !world.is_stopping() && !world.has_failed_hopelessly()
            {
                act(length.saturating_sub(began.elapsed()));
            }
            world.stop();
        });
        has_ended.store(true, Ordering::SeqCst);
    });
}

/// The same without restarts, so that whatever leaks gathers: at the end the server has what it had after the warm-up.
fn live(world: &World, peaks: &watch::Peaks, length: Duration) -> watch::Life {
    let warm_up = length / WARM_UP_SHARE;
    session(world, peaks, warm_up, |left| world.rest(left));
    let (before, answered) = (watch::at_rest(world), world.answered());
    world.say("it has warmed up");
    session(world, peaks, length.saturating_sub(warm_up), |left| {
        world.rest(left);
    });
    world.say("the load is over; checking what is left");
    load::read_everything(world);
    let life = watch::Life {
        before,
        after: watch::at_rest(world),
        answered: world.answered() - answered,
    };
    life.check(world);
    life
}
