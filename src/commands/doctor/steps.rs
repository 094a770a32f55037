//! Steps of a round trip: what is asked, what the answer should mean, and what to do when it does not.

use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;

use super::super::probe::{Answer, NoAnswer};
use super::finding::{Finding, Findings};
use crate::http::Meaning;

pub(super) const CHECK: &str = "round trip";

/// The type without which Nx shows nothing of a refusal to its user.
const SHOWN_TYPE: &str = "text/plain";

/// Bytes that nobody stored before.
pub(super) fn random_bytes(count: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("no random bytes from the operating system")?;
    Ok(bytes)
}

/// 16 characters that nobody chose before.
pub(super) fn random_word() -> anyhow::Result<String> {
    let mut number = [0; 8];
    number.copy_from_slice(&random_bytes(8)?);
    Ok(format!("{:016x}", u64::from_be_bytes(number)))
}

/// An answer that means what it should, after which the next step makes sense.
pub(super) type Step = Option<Answer>;

/// Takes down whether `outcome` means what it should: then `what` is true.
pub(super) fn expect(
    what: &str,
    expected: Meaning,
    outcome: Result<Answer, NoAnswer>,
    findings: &mut Findings,
) -> Step {
    match outcome {
        Ok(answer) if answer.meaning == expected => {
            findings.add(Finding::ok(CHECK, format!("{what} ({})", answer.status)));
            Some(answer)
        }
        Ok(answer) => {
            findings.add(unexpected(what, &answer));
            None
        }
        Err(why) => {
            let message = format!("not so: {what}; there is no answer: {why}");
            let fix =
                "the log of the server, or of the proxy before it, says why the connection ended";
            findings.add(Finding::problem(CHECK, message).with_advice(fix));
            None
        }
    }
}

/// A true answer that is wrong all the same.
pub(super) fn wrong(what: &str, why: &str, fix: &str) -> Finding {
    Finding::problem(CHECK, format!("not so: {what}; {why}")).with_advice(fix)
}

fn unexpected(what: &str, answer: &Answer) -> Finding {
    let said = match answer.said.as_str() {
        "" => String::new(),
        said => format!(", '{said}'"),
    };
    let why = format!("the answer is {}{said}", answer.status);
    wrong(what, &why, remedy(answer.meaning))
}

/// What an answer that should not have come hints at.
fn remedy(meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::NotAuthorized => {
            "the server has another database than this command: run doctor with the configuration of that server, or \
             see that the proxy before it hands Authorization on"
        }
        Meaning::Forbidden => {
            "what the answer says; the log of the server has the same line, with the reason"
        }
        Meaning::Accepted => "set nx.put_status = 200 in its configuration and restart the server",
        Meaning::TooLarge => {
            "the proxy before it refuses large bodies: in nginx, client_max_body_size 0"
        }
        Meaning::BadGateway | Meaning::Unavailable => {
            "the proxy before it does not reach the server: see that it is running, and the log of the proxy"
        }
        Meaning::Redirect => "give Nx the URL that the answer leads to: it follows none",
        Meaning::Missing => {
            "see that nothing between changes the path, and the log of the server for damage or a busy database"
        }
        Meaning::Done | Meaning::Exists => {
            "something between answers instead of the server: no cache may stand before it"
        }
        Meaning::Other => "the log of the server, or of the proxy before it, says why",
    }
}

/// A refusal that Nx shows to its user: any other type, and he reads "Misconfigured remote cache endpoint".
pub(super) fn shows_text(answer: &Answer, findings: &mut Findings) {
    if answer.content_type.as_deref() == Some(SHOWN_TYPE) {
        return;
    }
    let kind = answer.content_type.as_deref().unwrap_or("none");
    let why = format!("its Content-Type is '{kind}', not exactly '{SHOWN_TYPE}'");
    let fix = "see that the proxy before it leaves errors as they are (nginx: no proxy_intercept_errors, no charset)";
    findings.add(wrong("a refusal says why", &why, fix));
}

/// What was stored and what came back.
pub(super) fn same_bytes(answer: &Answer, stored: &[u8], findings: &mut Findings) {
    let why = if answer.is_encoded {
        "it was encoded on its way, which Nx does not undo"
    } else if answer.body != stored {
        "they differ"
    } else {
        return;
    };
    let fix =
        "switch off what changes bodies between (compression, filters), then run `cachesrv verify`";
    findings.add(wrong("a download has the bytes that were stored", why, fix));
}

/// A HEAD that says how long the artifact is.
pub(super) fn same_length(what: &str, answer: &Answer, stored: &[u8], findings: &mut Findings) {
    if answer.length_bytes != Some(stored.len() as u64) {
        let fix = "see that nothing between changes bodies (compression, filters)";
        findings.add(wrong(what, "it does not", fix));
    }
}
