//! The results of the matrix of sizes and connections, and their tables.

use std::time::Duration;

use crate::load::Outcome;
use crate::plan::Plan;
use crate::process::Memory;
use crate::report::{
    Table, median, median_ratio, megabytes, or_dash, ratio, seconds, size, three_digits,
};
use crate::servers::Kind;

/// Below this size requests a second say more than bytes a second.
const COUNTED_BELOW_BYTES: usize = 16 * 1024;

/// The rounds of one server in one cell.
#[derive(Default)]
pub struct Column {
    throughput: Vec<f64>,
    /// As `throughput`, with the work after the last answer counted in.
    sustained: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Column {
    pub fn push(&mut self, outcome: &Outcome, afterwards: Duration) {
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
pub struct Cell {
    size_bytes: usize,
    pub connections: usize,
    pub columns: [Column; 4],
    /// SQLite alone with each setting of the automatic checkpoint.
    pub limits: [Column; 2],
}

impl Cell {
    pub fn new(size_bytes: usize, connections: usize) -> Self {
        Self {
            size_bytes,
            connections,
            columns: Default::default(),
            limits: Default::default(),
        }
    }

    /// The limit is the better of the settings, the folding in of the log included.
    pub fn keep_better_limit(&mut self) {
        let [default, tuned] = std::mem::take(&mut self.limits);
        let tuned_is_better = tuned.sustained_median() > default.sustained_median();
        let mut better = if tuned_is_better { tuned } else { default };
        better.throughput.clone_from(&better.sustained);
        self.columns[Kind::Sqlite as usize] = better;
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
pub struct Footprint {
    what: String,
    peaks: [Memory; 4],
}

impl Footprint {
    pub fn new(verb: &str, size_bytes: usize) -> Self {
        Self {
            what: format!("{verb} {}", size(size_bytes)),
            peaks: Default::default(),
        }
    }

    pub fn include(&mut self, kind: Kind, memory: Memory) {
        let peak = &mut self.peaks[kind as usize];
        peak.anonymous_bytes = peak.anonymous_bytes.max(memory.anonymous_bytes);
        peak.file_bytes = peak.file_bytes.max(memory.file_bytes);
    }
}

/// What the matrix has shown, for the tables and for the targets.
#[derive(Default)]
pub struct Matrix {
    pub gets: Vec<Cell>,
    pub puts: Vec<Cell>,
    pub footprints: Vec<Footprint>,
    /// The longest write-ahead log of cachesrv.
    pub log_bytes: u64,
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
