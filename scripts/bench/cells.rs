//! Runs the matrix: GET and PUT, each size at each number of connections, one server after the other in every
//! round.

use std::time::Duration;

use anyhow::Result;

use crate::load::{self, Bodies, Slice, fresh_hash};
use crate::matrix::{Cell, Footprint, Matrix};
use crate::plan::Plan;
use crate::process::{Peak, settle};
use crate::report::size;
use crate::servers::{Kind, Server};
use crate::sqlite::{CHECKPOINT_PAGES, Database};

/// Artifacts kept for GETs: at least two, at most so many bytes or so many of them.
const GET_SET_BYTES: usize = 400_000_000;
const GET_SET_COUNT: usize = 1000;

/// Reads what was stored before, warm.
pub fn gets(plan: &Plan, matrix: &mut Matrix) -> Result<()> {
    for &size_bytes in &plan.sizes {
        let mut shelf = Shelf::fill(plan, size_bytes)?;
        let mut footprint = Footprint::new("GET", size_bytes);
        for &connections in &plan.connections {
            plan.progress(&format!("GET {} at {connections}", size(size_bytes)));
            let mut cell = Cell::new(size_bytes, connections);
            for _ in 0..plan.rounds {
                shelf.round(plan, connections, &mut cell, &mut footprint)?;
            }
            matrix.gets.push(cell);
        }
        matrix.footprints.push(footprint);
    }
    Ok(())
}

/// Every server and SQLite alone, with the same artifacts.
struct Shelf {
    bodies: Bodies,
    hashes: Vec<String>,
    servers: Vec<Server>,
    database: Option<Database>,
}

impl Shelf {
    fn fill(plan: &Plan, size_bytes: usize) -> Result<Self> {
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
        let mut database = None;
        if plan.has(Kind::Sqlite) {
            let limit = Database::create(&plan.setup)?;
            limit.preload(&hashes, &bodies)?;
            database = Some(limit);
        }
        Ok(Self {
            bodies,
            hashes,
            servers,
            database,
        })
    }

    fn round(
        &mut self,
        plan: &Plan,
        connections: usize,
        cell: &mut Cell,
        footprint: &mut Footprint,
    ) -> Result<()> {
        let slice = plan.slice(1, connections as u64, u64::MAX);
        for server in &mut self.servers {
            let watch = Peak::watch(server.pids(), None);
            let outcome = load::gets(server, connections, slice, &self.hashes, &self.bodies);
            server.check_alive()?;
            cell.columns[server.kind as usize].push(&outcome?, Duration::ZERO);
            footprint.include(server.kind, watch.memory());
        }
        if let Some(database) = &self.database {
            let threads = connections.min(plan.cores);
            let outcome = database.gets(threads, slice, &self.hashes, &self.bodies)?;
            cell.columns[Kind::Sqlite as usize].push(&outcome, Duration::ZERO);
        }
        Ok(())
    }
}

/// Stores new artifacts, every slice on an empty server so that the disk stays small.
pub fn puts(plan: &Plan, matrix: &mut Matrix) -> Result<()> {
    for &size_bytes in &plan.sizes {
        let bodies = Bodies::new(size_bytes);
        let mut footprint = Footprint::new("PUT", size_bytes);
        for &connections in &plan.connections {
            plan.progress(&format!("PUT {} at {connections}", size(size_bytes)));
            let mut cell = Cell::new(size_bytes, connections);
            for _ in 0..plan.rounds {
                let log_bytes = put_round(plan, &bodies, &mut cell, &mut footprint)?;
                matrix.log_bytes = matrix.log_bytes.max(log_bytes);
            }
            cell.keep_better_limit();
            matrix.puts.push(cell);
        }
        matrix.footprints.push(footprint);
    }
    Ok(())
}

/// Returns the longest log of cachesrv.
fn put_round(
    plan: &Plan,
    bodies: &Bodies,
    cell: &mut Cell,
    footprint: &mut Footprint,
) -> Result<u64> {
    let requests_max = (plan.put_bytes / bodies.size_bytes as u64).max(2);
    let slice = plan.slice(1, (cell.connections as u64).min(requests_max), requests_max);
    let mut log_bytes = 0;
    for kind in plan.http_kinds() {
        settle_disk();
        let mut server = Server::start(kind, &plan.setup)?;
        let watch = Peak::watch(server.pids(), server.log());
        let outcome = load::puts(&server, cell.connections, slice, bodies);
        server.check_alive()?;
        let outcome = outcome?;
        // nginx and tiny_http never sync what they wrote; there is nothing to wait for.
        let afterwards = match kind {
            Kind::Cachesrv => settle(&server.pids(), server.log().as_deref()),
            _ => Duration::ZERO,
        };
        cell.columns[kind as usize].push(&outcome, afterwards);
        footprint.include(kind, watch.memory());
        log_bytes = log_bytes.max(watch.log_bytes());
    }
    if plan.has(Kind::Sqlite) {
        sqlite_slices(plan, slice, bodies, cell)?;
    }
    Ok(log_bytes)
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
