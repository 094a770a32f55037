//! The steps of the model test: drawn at random, told as a list, and made fewer where a sequence of them fails.

use super::random::Random;
use super::rules::May;

/// A thing that is done. What it is done to is counted among what is there at that moment, so that any step can be
/// left out of a sequence and the rest still means something.
#[derive(Debug, Clone)]
pub enum Step {
    /// The clock goes on, or back.
    Wait(i64),
    Workspace,
    Token {
        workspace: u8,
        may: May,
        bound: Option<u8>,
        name: Option<u8>,
        expires: Option<i64>,
    },
    Revoke {
        token: u8,
    },
    RevokeName {
        workspace: u8,
        name: u8,
    },
    Rotate {
        token: u8,
        expires: Option<i64>,
        overlap: Option<i64>,
    },
    Put(Put),
    /// An upload that is left open.
    Begin(Put),
    Append {
        upload: u8,
        count: u64,
    },
    Finish {
        upload: u8,
    },
    /// Says that it is done where something is missing.
    FinishShort {
        upload: u8,
    },
    Drop {
        upload: u8,
    },
    /// Two uploads are finished at the same time.
    Race {
        uploads: [u8; 2],
    },
    Get {
        token: u8,
        url: Url,
        hash: u8,
    },
    /// A download that is left open.
    Open {
        token: u8,
        url: Url,
        hash: u8,
    },
    Read {
        download: u8,
        chunks: u32,
    },
    Close {
        download: u8,
    },
    Purge {
        what: What,
        is_dry: bool,
    },
    /// `gc`, with budgets in percent of what is used.
    Evict {
        percent: [u64; 2],
        age_ms: [Option<i64>; 2],
        is_dry: bool,
    },
    /// What the housekeeper does in a tick, with such budgets.
    Tick {
        percent: [u64; 2],
    },
    Free,
    Damage {
        token: u8,
        url: Url,
        hash: u8,
    },
    Backup,
    Restore {
        backup: u8,
    },
    Reopen,
    /// The files as they are, opened anew.
    Crash,
    Verify,
}

#[derive(Debug, Clone, Copy)]
pub struct Put {
    pub token: u8,
    pub url: Url,
    pub hash: u8,
    pub size: u64,
    /// So many bytes more or less than what the quota leaves instead, of an isolated token.
    pub beside_quota: Option<i64>,
    pub seed: u64,
}

/// The scope that the URL of a request names.
#[derive(Debug, Clone, Copy)]
pub enum Url {
    Nothing,
    Scope(u8),
    /// This one where the token needs it, and nothing otherwise.
    Fitting(u8),
}

/// What a purge is of.
#[derive(Debug, Clone)]
pub enum What {
    Workspace {
        workspace: u8,
        since: Option<i64>,
    },
    Scope {
        workspace: u8,
        scope: Option<u8>,
        since: Option<i64>,
    },
    Hash {
        workspace: u8,
        hash: u8,
        is_transitive: bool,
    },
    Token {
        token: u8,
        is_transitive: bool,
        hash: Option<u8>,
    },
    Name {
        workspace: u8,
        name: u8,
        is_transitive: bool,
    },
}

const HASHES: u64 = 5;
const SCOPES: u64 = 3;
const NAMES: u64 = 3;
const MAYS: [May; 4] = [May::Write, May::Isolated, May::Read, May::WriteOnly];

/// A sequence: the same for the same seed.
pub fn draw(seed: u64, has_large: bool) -> Vec<Step> {
    let mut random = Random::of(seed);
    let random = &mut random;
    let mut steps: Vec<Step> = MAYS
        .into_iter()
        .map(|may| token(random, 0, may, None))
        .collect();
    steps.push(token(random, 0, May::Isolated, Some(0)));
    // More short ones than long ones, as failures are.
    let length = 5 + random.below(70) * random.below(70) / 69;
    // Each of these costs as much as a hundred others.
    let has_file = has_large || random.below(4) == 0;
    for _ in 0..length {
        if has_large && random.below(8) == 0 {
            // One that is partly in the file, for whatever comes next.
            let size = (1 << 20) + 1 + random.below(1_600_000);
            let large = put(random, true);
            steps.push(Step::Begin(Put { size, ..large }));
            let count = (1 << 20) + random.below(1_300_000);
            let upload = u8::MAX;
            steps.push(Step::Append { upload, count });
        }
        if has_large && random.below(20) == 0 {
            steps.push(of_the_file(random));
        }
        let what = random.below(if has_file { 98 } else { 96 });
        steps.push(step(random, what, has_large));
        if let Some(&Step::Get { token, url, hash }) = steps.last()
            && random.below(5) == 0
        {
            // About as soon again as reads of an entry of this age are noted.
            let again = || Step::Get { token, url, hash };
            let (age, rest) = match random.below(4) {
                0 => (86_400_000, 599_999 + random.below(3)),
                1 => (86_400_000, random.below(1_300_000)),
                _ => {
                    let age = 20_000 + random.below(200_000);
                    (age, age / 16 + random.below(age / 8))
                }
            };
            let wait = |ms: u64| Step::Wait(ms as i64);
            steps.extend([wait(age), again(), wait(rest), again()]);
        }
        if matches!(steps.last(), Some(Step::Open { .. })) && random.below(3) == 0 {
            // What is being read goes meanwhile.
            let (age_ms, is_dry) = ([None; 2], false);
            let percent = [0; 2];
            steps.push(Step::Evict {
                percent,
                age_ms,
                is_dry,
            });
            steps.push(Step::Free);
            let (download, chunks) = (byte(random), 1);
            steps.push(Step::Read { download, chunks });
        }
    }
    steps
}

fn some<T>(random: &mut Random, one_in: u64, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
    (random.below(one_in) == 0).then(|| value(random))
}

fn byte(random: &mut Random) -> u8 {
    random.below(256) as u8
}

/// A token, mostly one of the first that may write.
fn who(random: &mut Random) -> u8 {
    match random.below(8) {
        0..3 => 0,
        3..5 => 1,
        _ => byte(random),
    }
}

fn url(random: &mut Random) -> Url {
    match random.below(12) {
        0 => Url::Nothing,
        1 => Url::Scope(below(random, SCOPES)),
        _ => Url::Fitting(below(random, SCOPES)),
    }
}

fn below(random: &mut Random, end: u64) -> u8 {
    random.below(end) as u8
}

/// Times for which a token lives: gone, about to go, or for a while.
fn life(random: &mut Random) -> i64 {
    random.below(40_000) as i64 - 4_000
}

fn token(random: &mut Random, workspace: u8, may: May, name: Option<u8>) -> Step {
    let bound = match may {
        May::Isolated => some(random, 3, |random| below(random, SCOPES)),
        _ => None,
    };
    let expires = some(random, 6, life);
    Step::Token {
        workspace,
        may,
        bound,
        name,
        expires,
    }
}

fn put(random: &mut Random, has_large: bool) -> Put {
    let size = match random.below(if has_large { 24 } else { 16 }) {
        0 => 0,
        1..14 => random.below(900),
        14 => 900 + random.below(20_000),
        15 => (256 << 10) - 2 + random.below(4),
        16..18 => 16_000 + random.below(500_000),
        18 => (1 << 20) - 1 + random.below(3),
        _ => (1 << 20) + random.below(400_000),
    };
    Put {
        token: who(random),
        url: url(random),
        hash: below(random, HASHES),
        size,
        beside_quota: some(random, 8, |random| random.below(3) as i64 - 1),
        seed: random.below(1 << 20),
    }
}

fn percents(random: &mut Random) -> [u64; 2] {
    [(); 2].map(|()| {
        if random.below(3) == 0 {
            200
        } else {
            random.below(120)
        }
    })
}

fn what(random: &mut Random) -> What {
    let workspace = below(random, 3) / 2;
    let is_transitive = random.below(2) == 0;
    let since = some(random, 2, |random| random.below(30_000) as i64);
    match random.below(8) {
        0 => What::Workspace { workspace, since },
        1 | 2 => What::Scope {
            workspace,
            scope: some(random, 2, |random| below(random, SCOPES)),
            since,
        },
        3 | 4 => What::Hash {
            workspace,
            hash: below(random, HASHES),
            is_transitive,
        },
        5 | 6 => {
            let hash = some(random, 3, |random| below(random, HASHES));
            What::Token {
                token: who(random),
                is_transitive,
                hash,
            }
        }
        _ => What::Name {
            workspace,
            name: below(random, NAMES),
            is_transitive,
        },
    }
}

/// One of 98 kinds.
fn step(random: &mut Random, what: u64, has_large: bool) -> Step {
    let url = url(random);
    let hash = below(random, HASHES);
    match what {
        0..8 => Step::Wait(match random.below(12) {
            0 => -(random.below(20_000) as i64),
            1 => 60_000 + random.below(900_000) as i64,
            2 => 86_400_000,
            _ => random.below(10_000) as i64,
        }),
        8..10 => Step::Workspace,
        10..15 => {
            let may = MAYS[random.below(4) as usize];
            let name = some(random, 2, |random| below(random, NAMES));
            let workspace = below(random, 3);
            token(random, workspace, may, name)
        }
        15 => Step::Revoke {
            token: byte(random),
        },
        16 => Step::RevokeName {
            workspace: below(random, 2),
            name: below(random, NAMES),
        },
        17..20 => Step::Rotate {
            token: byte(random),
            expires: some(random, 3, life),
            overlap: some(random, 2, life),
        },
        20..42 => Step::Put(put(random, has_large)),
        42..52 => Step::Begin(put(random, has_large)),
        52..57 => {
            let bits = 1 + random.below(21);
            Step::Append {
                upload: byte(random),
                count: random.below(1 << bits),
            }
        }
        57..63 => Step::Finish {
            upload: byte(random),
        },
        63 => Step::FinishShort {
            upload: byte(random),
        },
        64..66 => Step::Drop {
            upload: byte(random),
        },
        66 => Step::Race {
            uploads: [byte(random), byte(random)],
        },
        67..78 => Step::Get {
            token: who(random),
            url,
            hash,
        },
        78..83 => Step::Open {
            token: who(random),
            url,
            hash,
        },
        83..85 => Step::Read {
            download: byte(random),
            chunks: 1 + random.below(3) as u32,
        },
        85 => Step::Close {
            download: byte(random),
        },
        86..89 => Step::Purge {
            what: self::what(random),
            is_dry: random.below(5) == 0,
        },
        89..91 => {
            let age_ms = [(); 2].map(|()| some(random, 3, |random| random.below(60_000) as i64));
            Step::Evict {
                percent: percents(random),
                age_ms,
                is_dry: random.below(5) == 0,
            }
        }
        91..94 => Step::Tick {
            percent: percents(random),
        },
        94 => Step::Free,
        95 => Step::Damage {
            token: who(random),
            url,
            hash,
        },
        _ => of_the_file(random),
    }
}

fn of_the_file(random: &mut Random) -> Step {
    match random.below(10) {
        0..3 => Step::Backup,
        3..5 => Step::Restore {
            backup: byte(random),
        },
        5..7 => Step::Reopen,
        7..9 => Step::Crash,
        _ => Step::Verify,
    }
}

/// Leaves out steps, many at once and then one by one, as long as the rest still `fails`.
pub fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut width = steps.len() / 2;
    while width > 0 {
        let (mut at, before) = (0, steps.len());
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + width).min(steps.len()));
            if fails(&fewer) {
                steps = fewer;
            } else {
                at += width;
            }
        }
        if width > 1 || steps.len() == before {
            width /= 2;
        }
    }
    steps
}
