//! The options, and the plan that they make.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use crate::load::Slice;
use crate::servers::{Kind, Setup};

/// Compare cachesrv with nginx, a tiny_http server and SQLite alone.
#[derive(Parser)]
#[command(name = "scripts/bench.sh")]
#[allow(clippy::struct_excessive_bools)] // Flags of a command line are independent.
pub struct Options {
    /// Sizes of the artifacts (1K = 1024 bytes)
    #[arg(long, value_delimiter = ',', value_parser = parse_size, default_value = "1K,64K,1M,16M,200M")]
    sizes: Vec<usize>,

    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    connections: Vec<usize>,

    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "cachesrv,nginx,tiny-http,sqlite"
    )]
    servers: Vec<Kind>,

    /// Which parts to run
    #[arg(long, value_delimiter = ',', default_value = "get,put,probes")]
    parts: Vec<Part>,

    /// Rounds of each cell [default: 3, or 1 with --quick]
    #[arg(long)]
    rounds: Option<usize>,

    /// Time of one server in one cell and round [default: 800, or 250 with --quick]
    #[arg(long)]
    slice_ms: Option<u64>,

    /// Most bytes that one server stores in one cell and round [default: 1.6e9, or 4.3e8 with --quick]
    #[arg(long)]
    put_bytes: Option<u64>,

    /// One short round of everything in about three minutes: a look, too noisy for verdicts
    #[arg(long)]
    quick: bool,

    /// Entries of the database whose upkeep is measured (`--parts upkeep`), and the size of each
    #[arg(long, default_value_t = 200_000)]
    upkeep_entries: u64,
    /// See --upkeep-entries
    #[arg(long, value_parser = parse_size, default_value = "105K")]
    upkeep_size: usize,

    /// Print Markdown
    #[arg(long)]
    markdown: bool,

    /// Where to put databases and files (up to 10 GB) [default: target/bench]
    #[arg(long)]
    work_dir: Option<PathBuf>,

    /// The cachesrv to measure [default: the release build]
    #[arg(long)]
    cachesrv: Option<PathBuf>,

    /// Let the nginx workers share one listening socket instead of one each
    #[arg(long)]
    nginx_shared_socket: bool,

    /// Given by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Get,
    Put,
    Probes,
    /// Start, backup, verify and eviction of a large database: up to 60 GB of disk, not among the defaults
    Upkeep,
}

/// What is going to be run.
pub struct Plan {
    pub sizes: Vec<usize>,
    pub connections: Vec<usize>,
    servers: Vec<Kind>,
    pub parts: Vec<Part>,
    pub rounds: usize,
    pub slice: Duration,
    pub put_bytes: u64,
    pub upkeep_entries: u64,
    pub upkeep_size_bytes: usize,
    pub markdown: bool,
    pub setup: Setup,
    pub cores: usize,
    started: Instant,
}

impl Plan {
    pub fn new(options: Options) -> Result<Self> {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        let work_dir = std::path::absolute(options.work_dir.unwrap_or(target))?;
        std::fs::create_dir_all(&work_dir)
            .with_context(|| format!("creating {}", work_dir.display()))?;
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_cachesrv"));
        let quick = |quick, full| if options.quick { quick } else { full };
        Ok(Self {
            sizes: options.sizes,
            connections: options.connections,
            servers: options.servers,
            parts: options.parts,
            rounds: options.rounds.unwrap_or(quick(1, 3) as usize).max(1),
            slice: Duration::from_millis(options.slice_ms.unwrap_or(quick(250, 800))),
            put_bytes: options
                .put_bytes
                .unwrap_or(quick(430_000_000, 1_680_000_000)),
            upkeep_entries: options.upkeep_entries,
            upkeep_size_bytes: options.upkeep_size,
            markdown: options.markdown,
            setup: Setup {
                cachesrv: std::path::absolute(options.cachesrv.unwrap_or_else(built))?,
                work_dir,
                nginx_reuseport: !options.nginx_shared_socket,
            },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            started: Instant::now(),
        })
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.servers.contains(&kind)
    }

    pub fn http_kinds(&self) -> impl Iterator<Item = Kind> {
        self.servers.iter().copied().filter(|kind| kind.is_server())
    }

    /// So many times the length of a slice.
    pub fn slice(&self, times: u32, requests_min: u64, requests_max: u64) -> Slice {
        Slice {
            time: self.slice * times,
            requests_min,
            requests_max,
        }
    }

    pub fn progress(&self, what: &str) {
        eprintln!(
            "bench: {:4.0} s  {what}",
            self.started.elapsed().as_secs_f64()
        );
    }
}

fn parse_size(text: &str) -> Result<usize> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: usize = digits.parse().with_context(|| format!("no size: {text}"))?;
    Ok(match &text[digits.len()..] {
        "" | "B" => number,
        "K" => number << 10,
        "M" => number << 20,
        _ => bail!("no size: {text} (write 64K or 16M)"),
    })
}
