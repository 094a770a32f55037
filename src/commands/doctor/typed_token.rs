//! A round trip with a token that somebody gave, from a machine that has no database: it does what that token
//! may do. What it stores cannot be removed from here, so it is small, and said.

use zeroize::Zeroizing;

use super::finding::{Finding, Findings};
use super::server::Server;
use super::steps::{CHECK, expect, random_bytes, random_word, same_bytes, shows_text};
use crate::http::Meaning;

/// Large enough to be an artifact, small enough to stay.
const BODY_BYTES: usize = 1024;

/// Tries the token.
pub(super) fn check(
    server: &Server,
    token: &Zeroizing<String>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let hash = format!("doctor-{}", random_word()?);
    ask(server, token, &hash, &random_bytes(BODY_BYTES)?, findings);
    Ok(())
}

/// The questions, in order; none where one failed on which others stand.
fn ask(
    server: &Server,
    token: &str,
    hash: &str,
    body: &[u8],
    findings: &mut Findings,
) -> Option<()> {
    let (asked, token) = (&server.as_nx, Some(token));
    let path = format!("/v1/cache/{hash}");
    let miss = asked.get(&path, token);
    if let Ok(answer) = &miss
        && answer.meaning == Meaning::NotAuthorized
    {
        findings.add(refused(&answer.said));
        shows_text(answer, findings);
        return None;
    }
    expect(
        "a hash that nobody stored is a miss",
        Meaning::Missing,
        miss,
        findings,
    )?;
    let stored = asked.put(&path, token, body);
    if let Ok(answer) = &stored
        && answer.meaning == Meaning::Forbidden
    {
        findings.add(Finding::ok(
            CHECK,
            format!("it stores nothing: {}", answer.said),
        ));
        return None;
    }
    expect("an upload is stored", Meaning::Done, stored, findings)?;
    let hit = asked.get(&path, token);
    if hit
        .as_ref()
        .is_ok_and(|answer| answer.meaning == Meaning::Missing)
    {
        findings.add(Finding::ok(
            CHECK,
            "the token may not download: it is a write-only one",
        ));
    } else {
        let answer = expect("a download is a hit", Meaning::Done, hit, findings)?;
        same_bytes(&answer, body, findings);
    }
    let again = asked.put(&path, token, body);
    expect("an entry is not replaced", Meaning::Exists, again, findings)?;
    let what = format!("artifact {hash} ({BODY_BYTES} bytes) stays until it is evicted");
    let delete =
        format!("to remove it, on the machine of the server: cachesrv artifact delete {hash}");
    findings.add(Finding::ok(CHECK, what).with_advice(delete));
    Some(())
}

/// The sentence of the server says what is wrong with the token, or with the place in the URL.
fn refused(said: &str) -> Finding {
    Finding::problem(CHECK, format!("the token is refused: {said}")).with_advice(
        "on the machine of the server `cachesrv token inspect` tells which token it is",
    )
}
