//! Random choices and bytes that a seed repeats: SplitMix64, which needs no more than a few lines.

/// A source of random numbers; prints its seed, which the variable `CACHESRV_TEST_SEED` can set.
pub struct Random(u64);

impl Random {
    /// Takes the seed from the variable, or from the clock.
    pub fn seeded() -> Self {
        let given = std::env::var("CACHESRV_TEST_SEED").ok();
        let seed = given.map_or_else(
            || {
                std::time::UNIX_EPOCH
                    .elapsed()
                    .unwrap()
                    .subsec_nanos()
                    .into()
            },
            |text| text.parse().expect("CACHESRV_TEST_SEED is a number"),
        );
        println!("to repeat this run: CACHESRV_TEST_SEED={seed}");
        Self(seed)
    }

    /// Takes the seed from the variable, or this one: where CI makes a sample of what a long run makes whole, and what
    /// that run would find is not the fault of the change at hand.
    pub fn sample(seed: u64) -> Self {
        let given = std::env::var("CACHESRV_TEST_SEED").is_ok();
        if given { Self::seeded() } else { Self(seed) }
    }

    /// The source with this seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source, for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// How many rounds a random test makes: `usual` in CI, or what the variable `CACHESRV_TEST_ROUNDS` says, by which
/// `scripts/survive.sh` makes the long runs.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("CACHESRV_TEST_ROUNDS").map_or(usual, |text| {
        text.parse().expect("CACHESRV_TEST_ROUNDS is a number")
    })
}

/// `length` bytes that no compression helps with; the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; length];
    // By words: debug builds are slow with iterators over bytes.
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&random.number().to_le_bytes()[..word.len()]);
    }
    bytes
}
