//! Secrets as they are stored: an Argon2id hash and a pre-tag.
//!
//! The hash is a PHC string with OWASP's profile (19 MiB, two passes, one lane); with 256 random bits
//! behind it, a stolen database yields no credential. A string is verified with its own parameters,
//! within limits, so that they can be raised later without invalidating a token.
//!
//! The pre-tag, four bytes of SHA-256, tells a wrong secret from the right one without Argon2, except
//! once in 2^32, and except for what the holder of the right one, who knows the tag, has searched out. It
//! takes 32 bits from a thief's search and leaves him 224.
//!
//! Every run of Argon2 in this process is here, under a permit, and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error as Argon2Error, PasswordHasher};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Error as MemoryError, Params, Version};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::permit::{Permit, Permits};
use super::token::{PublicId, Secret};
use super::turn::Turns;

/// How long a request waits for the right to run Argon2, or for another one that verifies the same
/// token. Nx waits 120 s for an answer to a GET.
pub const VERIFY_WAIT_MAX: Duration = Duration::from_secs(20);

/// The length of every hash this server makes, in bytes.
const HASH_LEN: usize = 32;

/// The most that a stored hash may ask for; a damaged database must not make a request take gigabytes.
const COST_MAX: Cost = Cost {
    memory_kib: 256 * 1024,
    passes: 16,
    lanes: 16,
};

/// What is asked of the allocator for a run at the least, in blocks of 1 KiB; what a run does not need is never
/// touched. glibc maps large pieces and unmaps them when they are freed, but takes one of up to 32 MiB that is freed
/// for a sign that such sizes come again: from then on it takes them from its arenas and keeps as much in each.
/// After the first Argon2 of 19 MiB, arenas kept up to 38 MiB each: a soak had its peak at 165 MiB so, and another, with
/// pieces of this size, at 81.
const RESERVED_BLOCKS: usize = 33 * 1024;

/// The first four bytes of the SHA-256 of a secret.
pub type SecretTag = [u8; 4];

/// What one run of Argon2id takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB (`m`).
    pub memory_kib: u32,
    /// Passes over the memory (`t`).
    pub passes: u32,
    /// Lanes (`p`).
    pub lanes: u32,
}

impl Cost {
    /// The cost of new hashes: OWASP's profile for Argon2id.
    pub const CURRENT: Self = Self {
        memory_kib: 19_456,
        passes: 2,
        lanes: 1,
    };

    fn is_within(self, max: Self) -> bool {
        self.memory_kib <= max.memory_kib && self.passes <= max.passes && self.lanes <= max.lanes
    }
}

/// What a verification found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The secret is the one that was hashed.
    Right,
    /// It is another one.
    Wrong,
}

/// A secret was neither hashed nor verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// No permit came free in time.
    #[error("too many tokens are being verified: none got its turn within {} s", VERIFY_WAIT_MAX.as_secs())]
    Busy,
    /// What is stored is not an Argon2id PHC string of ours.
    #[error("the stored hash of the token's secret is damaged")]
    Undecodable,
    /// Argon2 itself failed, for instance for want of memory.
    #[error("argon2 failed")]
    Argon2(#[source] Argon2Error),
    /// The thread that verified this secret for all who waited has panicked.
    #[error("the verification of the token's secret was abandoned")]
    Abandoned,
}

/// A secret in the form that is stored.
#[derive(Debug, Clone)]
pub struct HashedSecret {
    /// The Argon2id hash, a PHC string.
    pub phc: String,
    /// The pre-tag.
    pub tag: SecretTag,
}

/// Runs Argon2id: at a cost, under a permit, and counted.
pub(super) struct Hasher {
    cost: Cost,
    argon2: Argon2<'static>,
    turns: Turns,
    permits: Permits,
    wait_max: Duration,
    runs: AtomicU64,
}

impl Hasher {
    /// A hasher for new secrets at `cost`.
    pub(super) fn new(cost: Cost) -> Result<Self, HashError> {
        Self::with_permits(cost, Permits::for_half_the_cores(), VERIFY_WAIT_MAX)
    }

    fn with_permits(cost: Cost, permits: Permits, wait_max: Duration) -> Result<Self, HashError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(HASH_LEN))
            .map_err(|error| HashError::Argon2(error.into()))?;
        let runs = AtomicU64::new(0);
        Ok(Self {
            cost,
            argon2: Argon2::from(params),
            turns: Turns::default(),
            permits,
            wait_max,
            runs,
        })
    }

    /// Hashes a secret with a new salt, in the form that is stored.
    pub(super) fn hash(&self, secret: &Secret) -> Result<HashedSecret, HashError> {
        let _permit = self.begin_run(self.wait_max)?;
        let phc = self
            .argon2
            .hash_password(secret.expose())
            .map_err(HashError::Argon2)?;
        Ok(HashedSecret {
            phc: phc.to_string(),
            tag: tag(secret),
        })
    }

    /// Verifies a secret against a PHC string, at the cost that the string names.
    pub(super) fn verify(&self, secret: &Secret, phc: &str) -> Result<Verdict, HashError> {
        self.verify_within(self.wait_max, secret, phc)
    }

    /// Verifies a secret that is presented for this id, once no other one is being verified for it.
    pub(super) fn verify_in_turn(
        &self,
        id: PublicId,
        secret: &Secret,
        phc: &str,
    ) -> Result<Verdict, HashError> {
        let began = Instant::now();
        let lane = self.turns.enter(id);
        // Kept until the run is over, and given back after the permit.
        let _turn = lane.turn(self.wait_max).ok_or(HashError::Busy)?;
        self.verify_within(self.wait_max.saturating_sub(began.elapsed()), secret, phc)
    }

    fn verify_within(
        &self,
        wait_max: Duration,
        secret: &Secret,
        phc: &str,
    ) -> Result<Verdict, HashError> {
        let stored = decode(phc)?;
        let _permit = self.begin_run(wait_max)?;
        compare(secret, &stored).map_err(HashError::Argon2)
    }

    /// Whether a stored hash was made at another cost than new ones are. A damaged one cannot be
    /// verified, so there is nothing to upgrade it from.
    pub(super) fn needs_upgrade(&self, phc: &str) -> bool {
        decode(phc)
            .and_then(|stored| cost_of(&stored))
            .is_ok_and(|cost| cost != self.cost)
    }

    /// How often Argon2 ran in this process so far.
    pub(super) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    fn begin_run(&self, wait_max: Duration) -> Result<Permit<'_>, HashError> {
        let permit = self.permits.take(wait_max).ok_or(HashError::Busy)?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(permit)
    }
}

/// The pre-tag of a secret.
pub(super) fn tag(secret: &Secret) -> SecretTag {
    let digest = Sha256::digest(secret.expose());
    let mut tag = SecretTag::default();
    for (to, from) in tag.iter_mut().zip(digest) {
        *to = from;
    }
    tag
}

/// Whether a secret may be the one with this pre-tag.
pub(super) fn has_tag(secret: &Secret, expected: SecretTag) -> bool {
    tag(secret).ct_eq(&expected).into()
}

/// Reads a PHC string that this server, or an older or newer one, may have written. Anything else is an
/// error here, for below it would count as a wrong secret.
fn decode(phc: &str) -> Result<PasswordHash, HashError> {
    let stored = PasswordHash::new(phc).map_err(|_| HashError::Undecodable)?;
    let is_ours = stored.algorithm == ARGON2ID_IDENT
        && stored.version == Some(Version::V0x13.into())
        // No hash without a salt: it stands behind it.
        && stored.hash.is_some_and(|hash| hash.len() == HASH_LEN)
        && cost_of(&stored)?.is_within(COST_MAX);
    if is_ours {
        Ok(stored)
    } else {
        Err(HashError::Undecodable)
    }
}

/// Hashes a secret as a string says that [`decode`] let through, and compares, in constant time.
fn compare(secret: &Secret, stored: &PasswordHash) -> Result<Verdict, Argon2Error> {
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(Argon2Error::EncodingInvalid);
    };
    let argon2 = Argon2::new(
        Algorithm::Argon2id,
        Version::V0x13,
        Params::try_from(stored)?,
    );
    let mut memory = memory(argon2.params().block_count())?;
    let mut hash = [0; HASH_LEN];
    argon2.hash_password_into_with_memory(secret.expose(), salt, &mut hash, &mut memory)?;
    let is_right = hash.ct_eq(expected.as_bytes()).into();
    Ok(if is_right {
        Verdict::Right
    } else {
        Verdict::Wrong
    })
}

/// The memory of a run, which leaves the process when it is freed.
fn memory(blocks: usize) -> Result<Vec<Block>, Argon2Error> {
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(blocks.max(RESERVED_BLOCKS))
        .map_err(|_| MemoryError::OutOfMemory)?;
    memory.resize(blocks, Block::new());
    Ok(memory)
}

fn cost_of(stored: &PasswordHash) -> Result<Cost, HashError> {
    let params = Params::try_from(stored).map_err(|_| HashError::Undecodable)?;
    Ok(Cost {
        memory_kib: params.m_cost(),
        passes: params.t_cost(),
        lanes: params.p_cost(),
    })
}

#[cfg(test)]
impl Cost {
    /// As little as Argon2 allows, for tests that run it often.
    pub(super) const CHEAP: Self = Self {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };
}

#[cfg(test)]
impl Hasher {
    /// One that is as cheap as can be, runs one Argon2 at a time, and is in no hurry.
    pub(super) fn with_one_permit() -> Self {
        let wait_max = Duration::from_mins(10);
        Self::with_permits(Cost::CHEAP, Permits::new(1), wait_max).expect("a valid cost")
    }

    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::*;

    use super::super::token;
    use super::*;

    fn secret() -> Secret {
        token::draw().expect("random bytes").1
    }

    fn cheap() -> Hasher {
        Hasher::new(Cost::CHEAP).expect("a valid cost")
    }

    #[test]
    fn a_secret_is_verified_against_its_own_hash_and_no_other() {
        let (hasher, secret, other) = (cheap(), secret(), self::secret());
        let stored = hasher.hash(&secret).expect("hashed");
        assert_eq!(hasher.verify(&secret, &stored.phc), Ok(Verdict::Right));
        assert_eq!(hasher.verify(&other, &stored.phc), Ok(Verdict::Wrong));
    }

    #[test]
    fn new_hashes_are_argon2id_with_the_documented_cost() {
        let hasher = Hasher::new(Cost::CURRENT).expect("a valid cost");
        let secret = secret();
        let stored = hasher.hash(&secret).expect("hashed");
        assert!(
            stored.phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            stored.phc
        );
        assert_eq!(hasher.verify(&secret, &stored.phc), Ok(Verdict::Right));
        assert!(!hasher.needs_upgrade(&stored.phc));
    }

    #[test]
    fn the_same_secret_never_has_the_same_hash() {
        let (hasher, secret) = (cheap(), secret());
        let first = hasher.hash(&secret).expect("hashed");
        let second = hasher.hash(&secret).expect("hashed");
        assert_ne!(first.phc, second.phc);
        assert_eq!(first.tag, second.tag);
    }

    #[test]
    fn the_hash_and_its_debug_output_do_not_contain_the_secret() {
        let (hasher, secret) = (cheap(), secret());
        let stored = hasher.hash(&secret).expect("hashed");
        let spelled = std::str::from_utf8(secret.expose()).expect("base62");
        assert!(!format!("{stored:?}").contains(spelled));
    }

    #[test]
    fn the_tag_is_the_first_four_bytes_of_sha_256_of_the_characters() {
        let secret = secret();
        let digest = Sha256::digest(secret.expose());
        assert_eq!(tag(&secret)[..], digest[..4]);
        assert!(has_tag(&secret, tag(&secret)));
        for bit in 0..32 {
            let other = (u32::from_be_bytes(tag(&secret)) ^ (1 << bit)).to_be_bytes();
            assert!(!has_tag(&secret, other), "bit {bit}");
        }
    }

    #[test]
    fn a_hash_of_another_cost_is_verified_and_needs_an_upgrade() {
        let dearer = Hasher::new(Cost {
            memory_kib: 16,
            ..Cost::CHEAP
        })
        .expect("a valid cost");
        let (hasher, secret) = (cheap(), secret());
        let stored = dearer.hash(&secret).expect("hashed");
        assert_eq!(hasher.verify(&secret, &stored.phc), Ok(Verdict::Right));
        assert!(hasher.needs_upgrade(&stored.phc));
        assert!(!dearer.needs_upgrade(&stored.phc));
        for cost in [
            Cost {
                passes: 2,
                ..Cost::CHEAP
            },
            Cost {
                memory_kib: 16,
                lanes: 2,
                passes: 1,
            },
        ] {
            let stored = Hasher::new(cost)
                .expect("a valid cost")
                .hash(&secret)
                .expect("hashed");
            assert!(hasher.needs_upgrade(&stored.phc), "{cost:?}");
        }
    }

    #[test]
    fn a_damaged_hash_is_an_error_that_costs_no_run() {
        let (hasher, secret) = (cheap(), secret());
        let salt = "c2FsdHNhbHRzYWx0c2FsdA";
        let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let damaged = [
            String::new(),
            "$".to_owned(),
            "not a hash".to_owned(),
            "$argon2id$".to_owned(),
            "$argon2id$v=19$m=8,t=1,p=1".to_owned(),
            format!("$argon2id$v=19$m=8,t=1,p=1${salt}"),
            format!("$argon2id$v=19$m=8,t=1,p=1${salt}${}", &hash[..22]),
            format!("$argon2id$v=19$m=8,t=1,p=1${salt}${hash}$more"),
            format!("$argon2id$v=19$m=8,t=1,p=1$${hash}"),
            format!("$argon2i$v=19$m=8,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=16$m=8,t=1,p=1${salt}${hash}"),
            format!("$argon2id$m=8,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=0,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=8,t=x,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=8,t=1,p=1,q=1${salt}${hash}"),
            // Sound, but four gigabytes, or passes for a day.
            format!("$argon2id$v=19$m=4194304,t=1,p=1${salt}${hash}"),
            format!("$argon2id$v=19$m=8,t=4294967295,p=1${salt}${hash}"),
            format!("$scrypt$ln=4,r=8,p=1${salt}${hash}"),
        ];
        for phc in damaged {
            assert_eq!(
                hasher.verify(&secret, &phc),
                Err(HashError::Undecodable),
                "{phc:?}"
            );
            assert!(!hasher.needs_upgrade(&phc), "{phc:?}");
        }
        assert_eq!(hasher.runs(), 0);
        let sound = format!("$argon2id$v=19$m=8,t=1,p=1${salt}${hash}");
        assert_eq!(hasher.verify(&secret, &sound), Ok(Verdict::Wrong));
    }

    #[test]
    fn every_run_is_counted() {
        let (hasher, secret) = (cheap(), secret());
        assert_eq!(hasher.runs(), 0);
        let stored = hasher.hash(&secret).expect("hashed");
        assert_eq!(hasher.runs(), 1);
        hasher.verify(&secret, &stored.phc).expect("verified");
        hasher
            .verify(&self::secret(), &stored.phc)
            .expect("verified");
        assert_eq!(hasher.runs(), 3);
    }

    #[test]
    fn without_a_permit_nothing_runs() {
        let secret = secret();
        let stored = cheap().hash(&secret).expect("hashed");
        let hasher =
            Hasher::with_permits(Cost::CHEAP, Permits::new(0), Duration::ZERO).expect("valid");
        assert_eq!(hasher.verify(&secret, &stored.phc), Err(HashError::Busy));
        assert_eq!(hasher.hash(&secret).map(|_| ()), Err(HashError::Busy));
        let id = token::draw().expect("random bytes").0;
        let in_turn = hasher.verify_in_turn(id, &secret, &stored.phc);
        assert_eq!(in_turn, Err(HashError::Busy));
        assert_eq!(hasher.runs(), 0);
    }

    #[test]
    fn without_a_turn_nothing_runs() {
        let secret = secret();
        let stored = cheap().hash(&secret).expect("hashed");
        let hasher =
            Hasher::with_permits(Cost::CHEAP, Permits::new(1), Duration::ZERO).expect("valid");
        let id = token::draw().expect("random bytes").0;
        let lane = hasher.turns.enter(id);
        let turn = lane.turn(Duration::ZERO).expect("nobody before");
        let verify = || hasher.verify_in_turn(id, &secret, &stored.phc);
        assert_eq!(verify(), Err(HashError::Busy));
        assert_eq!(hasher.runs(), 0);
        drop(turn);
        assert_eq!(verify(), Ok(Verdict::Right));
    }

    #[test]
    fn a_permit_is_given_back_after_every_run() {
        let (secret, other) = (secret(), self::secret());
        let stored = cheap().hash(&secret).expect("hashed");
        let hasher =
            Hasher::with_permits(Cost::CHEAP, Permits::new(1), Duration::ZERO).expect("valid");
        for _ in 0..3 {
            assert_eq!(hasher.verify(&secret, &stored.phc), Ok(Verdict::Right));
            assert_eq!(hasher.verify(&other, &stored.phc), Ok(Verdict::Wrong));
        }
    }

    #[test]
    fn an_impossible_cost_is_an_error_with_its_source() {
        let error = Hasher::new(Cost {
            memory_kib: 0,
            ..Cost::CHEAP
        })
        .map(|_| ())
        .expect_err("no memory");
        assert!(error.source().is_some());
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_never_a_stored_hash_and_never_panics(text in "\\PC{0,120}") {
            prop_assert_eq!(decode(&text).map(|_| ()), Err(HashError::Undecodable));
        }

        #[test]
        fn a_stored_hash_with_one_byte_changed_never_panics(place in 0_usize..97, byte in 0_u8..128) {
            let salt = "c2FsdHNhbHRzYWx0c2FsdA";
            let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
            let mut phc = format!("$argon2id$v=19$m=19456,t=2,p=1${salt}${hash}").into_bytes();
            phc[place] = byte;
            let _ = decode(&String::from_utf8_lossy(&phc));
        }
    }
}
