//! The running server as clients see it: does it answer, by which protocol, is it ours, is its clock ours.

use std::time::{Duration, SystemTime};

use super::super::probe::{Answer, NoAnswer, Probe, Target};
use super::Case;
use super::certificate;
use super::finding::{Finding, Findings};
use crate::http::Meaning;

const CHECK: &str = "server";
const CLOCK: &str = "clock";
const CERTIFICATE: &str = "certificate";

/// For each answer: a busy server may let a client wait for as long as `limits.database_wait`.
const TIMEOUT: Duration = Duration::from_secs(35);

/// Clocks that differ by more than this let tokens expire early or late, in seconds.
const CLOCK_TOLERANCE_SECONDS: u64 = 30;

/// A server that answers.
pub(super) struct Server {
    /// Asks at the URL as Nx has it.
    pub as_nx: Probe,
    /// Asks without the place at the end of the URL.
    pub root: Probe,
    /// The workspace that the URL asserts.
    pub workspace: Option<String>,
}

/// Looks at the server; none where it does not answer as one of ours.
pub(super) fn check(case: &Case<'_>, is_in_use: bool, findings: &mut Findings) -> Option<Server> {
    let Some(target) = &case.target else {
        let message = "`listen` has port 0, so where the server listens is not known";
        findings.add(
            Finding::warning(CHECK, message)
                .with_command(case.command(&format!(
                    "cachesrv doctor --url {}",
                    Target::example(case.config)
                )))
                .with_advice("with the port that the log of the server says"),
        );
        return None;
    };
    if target.is_tls() && !certificate_is_right(case, target, findings) {
        return None;
    }
    let root = Probe::new(&target.without_place(), &case.trust, TIMEOUT);
    let sent_at = SystemTime::now();
    let answer = match root.get("/", None) {
        Ok(answer) => answer,
        Err(why) => {
            findings.add(no_answer(case, target, &why, is_in_use));
            return None;
        }
    };
    if !is_ours(case, target, &answer, findings) {
        return None;
    }
    clock(&answer, sent_at, findings);
    ready(&root, findings);
    Some(Server {
        as_nx: Probe::new(target, &case.trust, TIMEOUT),
        root,
        workspace: target.workspace().map(str::to_owned),
    })
}

/// What a client that could not connect should try.
fn no_answer(case: &Case<'_>, target: &Target, why: &NoAnswer, is_in_use: bool) -> Finding {
    let url = target.url();
    // What the resolver says has no kind of its own.
    let why = match why {
        NoAnswer::Broken(_) if !target.has_address() => &NoAnswer::NoSuchHost,
        why => why,
    };
    if matches!(why, NoAnswer::Broken(_) | NoAnswer::TimedOut)
        && !target.is_tls()
        && certificate::shown_by(target).is_ok()
    {
        let message = format!("{url} speaks TLS: its URL begins with https://");
        let command = format!("cachesrv doctor --url {}", target.with_tls(true).url());
        return Finding::problem(CHECK, message).with_command(command);
    }
    let finding = Finding::problem(CHECK, format!("{url} does not answer: {why}"));
    match why {
        NoAnswer::Certificate(_) => finding
            .with_command(format!("cachesrv doctor --url {url} --ca ca.pem"))
            .with_advice("with the certificate of the authority that signed its certificate"),
        NoAnswer::NoSuchHost => finding.with_advice("correct the host name in the URL"),
        _ if !case.is_own => finding.with_advice(
            "start the server, see that it listens on more than 127.0.0.1 (`listen`), and that no firewall is between",
        ),
        _ if is_in_use => finding
            .with_command(case.command("cachesrv config show --sources"))
            .with_advice(
                "a server has the database open, but does not listen there: run doctor with its configuration, or \
                 with the address in its log by --url",
            ),
        _ => finding.with_command(case.command(&format!("cachesrv serve --listen {}", case.config.listen))),
    }
}

/// A first look by TLS alone, before a token is sent: is there TLS, how long is the certificate valid, and is it
/// the one of the configuration.
fn certificate_is_right(case: &Case<'_>, target: &Target, findings: &mut Findings) -> bool {
    let shown = match certificate::shown_by(target) {
        Ok(shown) => shown,
        Err(why) => {
            let plain = target.with_tls(false);
            let answers = Probe::new(&plain, &case.trust, TIMEOUT).get("/healthz", None);
            let is_plain =
                !matches!(why, NoAnswer::Refused | NoAnswer::NoSuchHost) && answers.is_ok();
            findings.add(if is_plain {
                let message = format!(
                    "{} speaks plain HTTP: its URL begins with http://",
                    target.url()
                );
                let command = format!("cachesrv doctor --url {}", plain.url());
                Finding::problem(CHECK, message).with_command(command)
            } else {
                no_answer(case, target, &why, false)
            });
            return false;
        }
    };
    certificate::validity(&shown, &format!("of {}", target.url()), findings);
    let configured = case.config.tls.certificate.as_deref();
    let configured = configured
        .filter(|_| case.is_own)
        .and_then(certificate::leaf_in);
    if configured.is_some_and(|configured| configured != shown) {
        // Without a name to go by, this is what tells our server from another process at its port.
        let message = "the server shows another certificate than the one in tls.certificate";
        findings.add(Finding::problem(CERTIFICATE, message).with_advice(
            "restart the server; if that does not help, another process listens at its port",
        ));
        return false;
    }
    true
}

/// Whether a cachesrv answered; and of which version.
fn is_ours(case: &Case<'_>, target: &Target, answer: &Answer, findings: &mut Findings) -> bool {
    let url = target.url();
    let said = answer.said.strip_prefix("cachesrv ");
    let Some((version, _)) = said.and_then(|rest| rest.split_once(':')) else {
        let what = match answer.meaning {
            Meaning::BadGateway | Meaning::Unavailable => "a proxy without a server behind it",
            Meaning::Redirect => "a redirect, which Nx does not follow",
            _ => "something else than cachesrv, or a proxy that changes paths",
        };
        let message = format!("{url} answers {}: this is {what}", answer.status);
        let finding = Finding::problem(CHECK, message);
        findings.add(if case.is_own {
            let (_, port) = target.host_and_port();
            finding.with_command(format!("ss -ltnp sport = :{port}"))
        } else {
            finding.with_command(format!("curl -i {}/", target.without_place().url()))
        });
        return false;
    };
    findings.add(if version == env!("CARGO_PKG_VERSION") {
        Finding::ok(CHECK, format!("cachesrv {version} answers at {url}"))
    } else {
        let own = env!("CARGO_PKG_VERSION");
        let message = format!("{url} is cachesrv {version}, and this is {own}");
        Finding::warning(CHECK, message).with_advice("restart the server after an upgrade")
    });
    true
}

/// The time that the server says against ours.
fn clock(answer: &Answer, sent_at: SystemTime, findings: &mut Findings) {
    let Some(date) = answer.date else {
        return;
    };
    let ahead = date.duration_since(sent_at).unwrap_or_default();
    // It wrote its date before the answer came, to the second.
    let behind = SystemTime::now().duration_since(date).unwrap_or_default();
    let behind = behind.saturating_sub(sent_at.elapsed().unwrap_or_default());
    let seconds = ahead.max(behind).as_secs();
    if seconds > CLOCK_TOLERANCE_SECONDS {
        let word = if ahead > behind { "ahead of" } else { "behind" };
        let message = format!("the clock of the server is {seconds} seconds {word} the one here");
        findings.add(Finding::warning(CLOCK, message).with_command("timedatectl timesync-status"));
    }
}

/// Whether it can serve and store.
fn ready(root: &Probe, findings: &mut Findings) {
    match root.get("/readyz", None) {
        Ok(answer) if answer.meaning == Meaning::Done => {}
        Ok(answer) => findings.add(
            Finding::problem(CHECK, format!("it is not ready: {}", answer.said))
                .with_advice("its log says more; what is wrong with its disk or database stands above"),
        ),
        Err(why) => findings.add(
            Finding::problem(CHECK, format!("/readyz: {why}"))
                .with_advice("its log says more; a database that is busy for so long has a process that locks it"),
        ),
    }
}
