//! The matrix: GET and PUT, each size at each number of connections, one server after the other in every round.

use std::time::Duration;

use anyhow::Result;

use crate::load::{self, Bodies, Outcome, Slice, fresh_hash};
use crate::plan::Plan;
use crate::process::{Memory, Peak, settle};
use crate::report::{
    Table, median, median_ratio, megabytes, or_dash, ratio, seconds, size, three_digits,
};
use crate::servers::{Kind, Server};
use crate::sqlite::{CHECKPOINT_PAGES, Database};

/// Artifacts kept for GETs: at least two, at most so many bytes or so many of them.
const GET_SET_BYTES: usize = 400_000_000;
const GET_SET_COUNT: usize = 1000;

/// Below this size requests a second say more than bytes a second.
const COUNTED_BELOW_BYTES: usize = 16 * 1024;

/// The rounds of one server in one cell.
#[derive(Default)]
struct Column {
    throughput: Vec<f64>,
    /// As `throughput`, with the work after the last answer counted in.
    sustained: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Column {
    fn push(&mut self, outcome: &Outcome, afterwards: Duration) {
        let throughput = if outcome.bytes < outcome.latencies.count() * COUNTED_BELOW_BYTES as u64 {
            outcome.requests_per_second()
        } else {
            outcome.bytes_per_second()
        };
        let elapsed = outcome.elapsed.as_secs_f64();
        self.throughput.push(throughput);
        self.sustained
            .push(throughput * elapsed / (elapsed + afterwards.as_secs_f64()));
        self.p50.push(outcome.latencies.quantile(0.5));
        self.p99.push(outcome.latencies.quantile(0.99));
    }

    fn sustained_median(&self) -> f64 {
        median(&self.sustained).unwrap_or(0.0)
    }
}

/// One line of a table: a size at a number of connections.
struct Cell {
    size_bytes: usize,
    connections: usize,
    columns: [Column; 4],
    /// SQLite alone with each setting of the automatic checkpoint.
    limits: [Column; 2],
}

impl Cell {
    fn new(size_bytes: usize, connections: usize) -> Self {
        Self {
            size_bytes,
            connections,
            columns: Default::default(),
            limits: Default::default(),
        }
    }

    fn of(&self, kind: Kind) -> &Column {
        &self.columns[kind as usize]
    }

    fn throughput(&self, values: &[f64]) -> String {
        let counted = self.size_bytes < COUNTED_BELOW_BYTES;
        let unit = if counted { 1e3 } else { 1e6 };
        or_dash(median(values), |value| three_digits(value / unit))
    }
}

/// The largest memory of each server at one size.
struct Footprint {
    what: String,
    peaks: [Memory; 4],
}

impl Footprint {
    fn new(verb: &str, size_bytes: usize) -> Self {
        Self {
            what: format!("{verb} {}", size(size_bytes)),
            peaks: Default::default(),
        }
    }

    fn include(&mut self, kind: Kind, memory: Memory) {
        let peak = &mut self.peaks[kind as usize];
        peak.anonymous_bytes = peak.anonymous_bytes.max(memory.anonymous_bytes);
        peak.file_bytes = peak.file_bytes.max(memory.file_bytes);
    }
}

/// What the matrix has shown, for the tables and for the targets.
#[derive(Default)]
pub struct Matrix {
    gets: Vec<Cell>,
    puts: Vec<Cell>,
    footprints: Vec<Footprint>,
    /// The longest write-ahead log of cachesrv.
    pub log_bytes: u64,
}

/// Reads what was stored before, warm.
pub fn gets(plan: &Plan, matrix: &mut Matrix) -> Result<()> {
    for &size_bytes in &plan.sizes {
        let bodies = Bodies::new(size_bytes);
        let count = (GET_SET_BYTES / size_bytes).clamp(2, GET_SET_COUNT);
        let hashes: Vec<String> = (0..count).map(|_| fresh_hash()).collect();
        let mut servers = Vec::new();
        for kind in plan.http_kinds() {
            let server = Server::start(kind, &plan.setup)?;
            load::preload(&server, &hashes, &bodies)?;
            settle(&server.pids(), server.log().as_deref());
            servers.push(server);
        }
        let database = plan
            .has(Kind::Sqlite)
            .then(|| Database::create(&plan.setup))
            .transpose()?;
        if let Some(database) = &database {
            database.preload(&hashes, &bodies)?;
        }
        let mut footprint = Footprint::new("GET", size_bytes);
        for &connections in &plan.connections {
            plan.progress(&format!("GET {} at {connections}", size(size_bytes)));
            let mut cell = Cell::new(size_bytes, connections);
            let slice = plan.slice(1, connections as u64, u64::MAX);
            for _ in 0..plan.rounds {
                for server in &mut servers {
                    let watch = Peak::watch(server.pids(), None);
                    let outcome = load::gets(server, connections, slice, &hashes, &bodies);
                    server.check_alive()?;
                    cell.columns[server.kind as usize].push(&outcome?, Duration::ZERO);
                    footprint.include(server.kind, watch.memory());
                }
                if let Some(database) = &database {
                    let threads = connections.min(plan.cores);
                    let outcome = database.gets(threads, slice, &hashes, &bodies)?;
                    cell.columns[Kind::Sqlite as usize].push(&outcome, Duration::ZERO);
                }
            }
            matrix.gets.push(cell);
        }
        matrix.footprints.push(footprint);
    }
    Ok(())
}

/// Stores new artifacts, every slice on an empty server so that the disk stays small.
pub fn puts(plan: &Plan, matrix: &mut Matrix) -> Result<()> {
    for &size_bytes in &plan.sizes {
        let bodies = Bodies::new(size_bytes);
        let mut footprint = Footprint::new("PUT", size_bytes);
        for &connections in &plan.connections {
            plan.progress(&format!("PUT {} at {connections}", size(size_bytes)));
            let mut cell = Cell::new(size_bytes, connections);
            let requests_max = (plan.put_bytes / size_bytes as u64).max(2);
            let slice = plan.slice(1, (connections as u64).min(requests_max), requests_max);
            for _ in 0..plan.rounds {
                for kind in plan.http_kinds() {
                    let log_bytes = put_slice(
                        plan,
                        kind,
                        connections,
                        slice,
                        &bodies,
                        &mut cell,
                        &mut footprint,
                    )?;
                    matrix.log_bytes = matrix.log_bytes.max(log_bytes);
                }
                if plan.has(Kind::Sqlite) {
                    sqlite_slices(plan, slice, &bodies, &mut cell)?;
                }
            }
            keep_better(&mut cell);
            matrix.puts.push(cell);
        }
        matrix.footprints.push(footprint);
    }
    Ok(())
}

fn put_slice(
    plan: &Plan,
    kind: Kind,
    connections: usize,
    slice: Slice,
    bodies: &Bodies,
    cell: &mut Cell,
    footprint: &mut Footprint,
) -> Result<u64> {
    settle_disk();
    let mut server = Server::start(kind, &plan.setup)?;
    let watch = Peak::watch(server.pids(), server.log());
    let outcome = load::puts(&server, connections, slice, bodies);
    server.check_alive()?;
    let outcome = outcome?;
    // nginx and tiny_http never sync what they wrote; there is nothing to wait for.
    let afterwards = match kind {
        Kind::Cachesrv => settle(&server.pids(), server.log().as_deref()),
        _ => Duration::ZERO,
    };
    cell.columns[kind as usize].push(&outcome, afterwards);
    footprint.include(kind, watch.memory());
    Ok(watch.log_bytes())
}

/// Nobody pays for what the one before has left in the page cache.
fn settle_disk() {
    rustix::fs::sync();
}

/// The limit with each setting of the automatic checkpoint.
fn sqlite_slices(plan: &Plan, slice: Slice, bodies: &Bodies, cell: &mut Cell) -> Result<()> {
    for (limit, pages) in cell.limits.iter_mut().zip(CHECKPOINT_PAGES) {
        settle_disk();
        let database = Database::create(&plan.setup)?;
        let alone = Slice {
            requests_min: 2,
            ..slice
        };
        let written = database.puts(pages, alone, bodies)?;
        limit.push(&written.outcome, written.fold);
    }
    Ok(())
}

/// The limit is the better of the settings, the folding in of the log included.
fn keep_better(cell: &mut Cell) {
    let [default, tuned] = std::mem::take(&mut cell.limits);
    let mut better = if tuned.sustained_median() > default.sustained_median() {
        tuned
    } else {
        default
    };
    better.throughput.clone_from(&better.sustained);
    cell.columns[Kind::Sqlite as usize] = better;
}

impl Matrix {
    pub fn print(&self, plan: &Plan) {
        if !self.gets.is_empty() {
            print_cells("GET: MB/s (1 KB: thousand requests/s)", &self.gets, plan);
        }
        if !self.puts.is_empty() {
            print_cells("PUT: MB/s (1 KB: thousand requests/s)", &self.puts, plan);
            self.print_sustained(plan);
        }
        self.print_footprints(plan);
    }

    /// PUT with the work that cachesrv leaves for after the answer, against the same of SQLite alone.
    fn print_sustained(&self, plan: &Plan) {
        if !(plan.has(Kind::Cachesrv) && plan.has(Kind::Sqlite)) {
            return;
        }
        let headers = [
            "size",
            "conns",
            "cachesrv to last answer",
            "log folded in",
            "SQLite, folded in",
            "ratio",
        ];
        let mut table = Table::new(
            "PUT against the limit of one SQLite file, checkpoints included on both sides",
            &headers,
        );
        for cell in &self.puts {
            let (ours, limit) = (cell.of(Kind::Cachesrv), cell.of(Kind::Sqlite));
            table.row(vec![
                size(cell.size_bytes),
                cell.connections.to_string(),
                cell.throughput(&ours.throughput),
                cell.throughput(&ours.sustained),
                cell.throughput(&limit.sustained),
                or_dash(median_ratio(&ours.sustained, &limit.sustained), ratio),
            ]);
        }
        table.print(plan.markdown);
    }

    fn print_footprints(&self, plan: &Plan) {
        if self.footprints.is_empty() {
            return;
        }
        let kinds: Vec<Kind> = plan.http_kinds().collect();
        let headers = std::iter::once("what").chain(kinds.iter().map(|kind| kind.title()));
        let headers: Vec<&str> = headers.collect();
        let mut table = Table::new("Peak memory, MB: anonymous + mapped file pages", &headers);
        for footprint in &self.footprints {
            let show = |kind: &Kind| {
                let peak = footprint.peaks[*kind as usize];
                format!(
                    "{} + {}",
                    megabytes(peak.anonymous_bytes as f64),
                    megabytes(peak.file_bytes as f64)
                )
            };
            let cells = std::iter::once(footprint.what.clone()).chain(kinds.iter().map(show));
            table.row(cells.collect());
        }
        table.print(plan.markdown);
    }

    /// The lowest ratio against nginx over all GET cells, and where it was.
    pub fn worst_get(&self) -> Option<(f64, String)> {
        worst(&self.gets, |cell| {
            median_ratio(
                &cell.of(Kind::Cachesrv).throughput,
                &cell.of(Kind::Nginx).throughput,
            )
        })
    }

    /// The lowest ratio against SQLite over the PUT cells of large artifacts.
    pub fn worst_put(&self) -> Option<(f64, String)> {
        worst(&self.puts, |cell| {
            let large = cell.size_bytes >= COUNTED_BELOW_BYTES;
            let ratio = median_ratio(
                &cell.of(Kind::Cachesrv).sustained,
                &cell.of(Kind::Sqlite).sustained,
            );
            ratio.filter(|_| large)
        })
    }

    /// The ratio against SQLite of small PUTs on many connections, where commits can be shared.
    pub fn shared_commits(&self) -> Option<f64> {
        let shared = |cell: &&Cell| cell.size_bytes < COUNTED_BELOW_BYTES && cell.connections == 64;
        let cell = self.puts.iter().find(shared)?;
        median_ratio(
            &cell.of(Kind::Cachesrv).sustained,
            &cell.of(Kind::Sqlite).sustained,
        )
    }
}

fn worst(cells: &[Cell], ratio: impl Fn(&Cell) -> Option<f64>) -> Option<(f64, String)> {
    let place = |cell: &Cell| format!("{} at {}", size(cell.size_bytes), cell.connections);
    let ratios = cells
        .iter()
        .filter_map(|cell| Some((ratio(cell)?, place(cell))));
    ratios.min_by(|one, other| one.0.total_cmp(&other.0))
}

fn print_cells(title: &str, cells: &[Cell], plan: &Plan) {
    let headers = [
        "size", "conns", "cachesrv", "nginx", "tiny", "SQLite", "/nginx", "/tiny", "/SQLite",
        "p50 c", "nginx", "tiny", "p99 c", "nginx", "tiny",
    ];
    let mut table = Table::new(title, &headers);
    for cell in cells {
        let [ours, nginx, tiny, limit] = &cell.columns;
        let mut row = vec![size(cell.size_bytes), cell.connections.to_string()];
        for column in &cell.columns {
            row.push(cell.throughput(&column.throughput));
        }
        for other in [nginx, tiny] {
            row.push(or_dash(
                median_ratio(&ours.throughput, &other.throughput),
                ratio,
            ));
        }
        // Against SQLite, the work after the last answer counts on both sides.
        row.push(or_dash(
            median_ratio(&ours.sustained, &limit.sustained),
            ratio,
        ));
        for column in [ours, nginx, tiny] {
            row.push(or_dash(median(&column.p50), seconds));
        }
        for column in [ours, nginx, tiny] {
            row.push(or_dash(median(&column.p99), seconds));
        }
        table.row(row);
    }
    table.print(plan.markdown);
}
