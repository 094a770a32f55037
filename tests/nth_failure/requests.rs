//! PUT and GET.

use crate::support::Random;
use crate::support::fault::{
    Fault, MAP_ENOMEM, MEMORY, OPEN_EIO, READ_EINTR, READ_EIO, STAT_EIO, Series, all, threads,
};
use crate::watched::Watched;

/// Two batches and a bit: three transactions.
const BATCHES: usize = 2_200_000;

const READS: [Fault; 6] = [READ_EIO, READ_EINTR, MEMORY, MAP_ENOMEM, OPEN_EIO, STAT_EIO];

/// With `full`, because there each commit waits for the disk, too.
const SETTINGS: [&str; 3] = [
    "durability.synchronous=full",
    "limits.upload_memory=4MiB",
    "limits.database_wait=2s",
];

const UNMAPPED: [&str; 3] = ["durability.mmap=false", SETTINGS[1], SETTINGS[2]];

fn uploads(operation: &'static str, settings: &[&str], size: usize, usual: u64) {
    let mut random = Random::seeded();
    let (mut watched, control) = Watched::start(settings);
    let series = Series {
        control: &control,
        operation,
        threads: threads::REQUEST,
        usual,
    };
    series.run(&mut random, &all(), |trap| watched.stores_in(trap, size));
    watched.ends_well(settings);
}

#[test]
fn a_small_upload_is_stored_or_refused() {
    uploads("PUT of 300 bytes", &SETTINGS, 300, 6);
}

#[test]
fn an_upload_of_several_batches_is_stored_or_refused() {
    uploads("PUT of 2.2 MB", &SETTINGS, BATCHES, 3);
}

#[test]
fn an_upload_without_a_mapping_is_stored_or_refused() {
    uploads("PUT of 20 KB, unmapped", &UNMAPPED, 20_000, 4);
}

fn downloads(operation: &'static str, settings: &[&str], size: usize) {
    let mut random = Random::seeded();
    let (mut watched, control) = Watched::start(settings);
    let number = watched.stores(size);
    let series = Series {
        control: &control,
        operation,
        threads: threads::REQUEST,
        usual: 6,
    };
    series.run(&mut random, &READS, |trap| watched.serves_in(trap, number));
    watched.ends_well(settings);
}

#[test]
fn a_small_download_is_right_or_a_miss() {
    downloads("GET of 300 bytes", &SETTINGS, 300);
    downloads("GET of 300 bytes, unmapped", &UNMAPPED, 300);
}

#[test]
fn a_download_of_several_chunks_is_right_or_a_miss_or_cut() {
    downloads("GET of 1 MB", &SETTINGS, 1_000_000);
    downloads("GET of 1 MB, unmapped", &UNMAPPED, 1_000_000);
}
