//! Clients that store artifacts one after the other until they are told to stop, and remember what was
//! acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Client, Server, Token, noise};

/// Uploads at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    stored: Arc<Mutex<Vec<(u64, usize)>>>,
    clients: Vec<JoinHandle<()>>,
}

/// The sizes of the artifacts, in turn.
const SIZES: [usize; 4] = [300, 20_000, 100_000, 600_000];

/// What each client rests after each artifact: a load that a slow machine carries beside everything else.
const REST: std::time::Duration = std::time::Duration::from_millis(20);

impl Load {
    /// Starts this many clients.
    pub fn start(server: &Server, token: &Token, clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stored = Arc::new(Mutex::new(Vec::new()));
        let start = |client: u64| {
            let connection = server.client(token);
            let (stop, stored) = (Arc::clone(&stop), Arc::clone(&stored));
            std::thread::spawn(move || store(connection, client, &stop, &stored))
        };
        Self {
            clients: (0..clients).map(start).collect(),
            stop,
            stored,
        }
    }

    /// What was acknowledged until now: hashes and sizes.
    pub fn acknowledged(&self) -> Vec<(u64, usize)> {
        self.stored.lock().unwrap().clone()
    }

    /// Ends it; what was acknowledged.
    pub fn stop(mut self) -> Vec<(u64, usize)> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client");
        }
        self.acknowledged()
    }
}

fn store(mut client: Client, number: u64, stop: &AtomicBool, stored: &Mutex<Vec<(u64, usize)>>) {
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let hash = number * 1_000_000 + turn;
        let size = SIZES[turn as usize % SIZES.len()];
        let answer = client.put(&hash.to_string(), &noise(hash, size));
        assert_eq!(answer.status, 200, "{}", answer.head);
        stored.lock().unwrap().push((hash, size));
        std::thread::sleep(REST);
    }
}

/// Every one of these artifacts is there, byte for byte.
#[track_caller]
pub fn serves(server: &Server, token: &Token, artifacts: &[(u64, usize)]) {
    let mut client = server.client(token);
    for &(hash, size) in artifacts {
        let answer = client.get(&hash.to_string());
        assert_eq!(answer.status, 200, "{hash} is not there");
        assert!(answer.body == noise(hash, size), "{hash} has other bytes");
    }
}
