//! A round trip through a running server: stores, reads and is refused as builds are, with tokens made for it.
//!
//! Nothing of it is left: its entries, its scope and its tokens go at the end, also when it is interrupted. What a
//! kill leaves behind cannot be used after minutes, and the next doctor removes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::super::{Failure, note};
use super::Case;
use super::finding::{Finding, Findings};
use super::server::Server;
use super::steps::{CHECK, expect, random_bytes, random_word, same_bytes, same_length, shows_text};
use crate::auth::{Authenticator, NewTokenText, Wish};
use crate::cli::InWorkspace;
use crate::http::Meaning;
use crate::store::{Access, Admin, Created, Name, ProbeName, WorkspaceId, now_ms};

/// How long its tokens live. It takes seconds; what lives longer is a killed one's.
const LIFE: Duration = Duration::from_mins(5);

/// More than one chunk, so that a download is put together.
const BODY_BYTES_MAX: usize = 300_000;

/// Enough to be found where it should not be.
const ISOLATED_BODY_BYTES_MAX: usize = 1024;

/// The exit code when a second signal cuts the cleaning up short.
const IMPATIENT_EXIT_CODE: i32 = 130;

/// Makes the round trip.
pub(super) fn check(
    case: &Case<'_>,
    server: &Server,
    admin: Admin,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let interrupted = interrupted().context("cannot listen for signals")?;
    if let Err(error) = make(case, server, admin, &interrupted, findings) {
        let what = format!("it could not be made: {error:#}");
        let verify = case.command("cachesrv verify");
        findings.add(Finding::problem(CHECK, what).with_command(verify));
    }
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::new("interrupted; nothing of the round trip is left").into());
    }
    Ok(())
}

fn make(
    case: &Case<'_>,
    server: &Server,
    mut admin: Admin,
    interrupted: &AtomicBool,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let Some(workspace) = workspace(case, server, &admin, findings)? else {
        return Ok(());
    };
    sweep(&mut admin, workspace);
    let mut trace = Trace::new(admin, workspace)?;
    let tokens = trace.make_tokens().context("cannot make tokens")?;
    let allowed_bytes = case.config.limits.artifact_max_size_bytes;
    let body_bytes = usize::try_from(allowed_bytes).unwrap_or(usize::MAX);
    let trip = Trip {
        server,
        tokens: &tokens,
        name: &trace.name,
        body: random_bytes(body_bytes.min(BODY_BYTES_MAX))?,
        interrupted,
    };
    let is_through = trip.run(findings).is_some();
    trace.revoke().context("cannot revoke the tokens")?;
    if is_through {
        let token = Some(tokens.read.expose());
        let outcome = server.root.get(&path("refused", &trace.name), token);
        let what = "a revoked token is refused on the next request";
        expect(what, Meaning::NotAuthorized, outcome, findings);
    }
    trace.remove().context("cannot remove what it stored")
}

/// The workspace in which the tokens are made: the one that the URL asserts.
fn workspace(
    case: &Case<'_>,
    server: &Server,
    admin: &Admin,
    findings: &mut Findings,
) -> anyhow::Result<Option<WorkspaceId>> {
    let name = server.workspace.as_deref().unwrap_or(InWorkspace::DEFAULT);
    let found = admin
        .workspace(name)
        .context("cannot read the workspaces")?;
    if found.is_none() {
        let message =
            format!("the URL names workspace '{name}', which this database does not have");
        let command = case.command("cachesrv workspace list");
        findings.add(Finding::problem(CHECK, message).with_command(command));
    }
    Ok(found)
}

/// Set by the first signal; the second one ends the process.
fn interrupted() -> std::io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let again = Arc::clone(&interrupted);
        signal_hook::flag::register_conditional_shutdown(signal, IMPATIENT_EXIT_CODE, again)?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Removes what killed doctors left.
fn sweep(admin: &mut Admin, workspace: WorkspaceId) {
    let swept = admin.dead_probes(workspace).and_then(|probes| {
        probes
            .iter()
            .try_for_each(|probe| admin.remove_probe(workspace, probe))
    });
    if let Err(error) = swept {
        note(&format!(
            "cannot remove what an earlier doctor left: {error}"
        ));
    }
}

/// The secrets of a trip.
struct Tokens {
    write: NewTokenText,
    read: NewTokenText,
    isolated: NewTokenText,
    /// Well-formed, and not stored.
    forged: NewTokenText,
}

/// What a trip leaves in the database; removed when dropped, whatever happened.
struct Trace {
    admin: Admin,
    workspace: WorkspaceId,
    name: ProbeName,
    is_removed: bool,
}

impl Trace {
    fn new(admin: Admin, workspace: WorkspaceId) -> anyhow::Result<Self> {
        Ok(Self {
            admin,
            workspace,
            name: ProbeName::new(&random_word()?).context("no name for the round trip")?,
            is_removed: false,
        })
    }

    fn make_tokens(&mut self) -> anyhow::Result<Tokens> {
        let maker = Authenticator::new()?;
        let wish = |access, role: &str| -> anyhow::Result<Wish> {
            let scope = Name::parse(&self.name.scope())?;
            Ok(Wish {
                workspace: self.workspace,
                access,
                isolated_scope: (access == Access::Isolated).then_some(scope),
                name: Some(self.name.token(role)),
                expires_at_ms: Some(now_ms() + LIFE.as_millis() as i64),
            })
        };
        let (forged, _) = maker.mint(wish(Access::Write, "forged")?)?;
        let wishes = [
            wish(Access::Write, "write")?,
            wish(Access::Read, "read")?,
            wish(Access::Isolated, "isolated")?,
        ];
        let [write, read, isolated] = wishes.map(|wish| self.make_token(&maker, wish));
        Ok(Tokens {
            write: write?,
            read: read?,
            isolated: isolated?,
            forged,
        })
    }

    fn make_token(&mut self, maker: &Authenticator, wish: Wish) -> anyhow::Result<NewTokenText> {
        let (text, minted) = maker.mint(wish)?;
        match self.admin.create_token(&minted.to_store())? {
            Created::Done => Ok(text),
            Created::NameTaken => anyhow::bail!("their name is taken"),
        }
    }

    fn revoke(&mut self) -> anyhow::Result<()> {
        Ok(self.admin.revoke_probe(self.workspace, &self.name)?)
    }

    fn remove(mut self) -> anyhow::Result<()> {
        self.is_removed = true;
        Ok(self.admin.remove_probe(self.workspace, &self.name)?)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !self.is_removed {
            // The tokens expire by themselves, and the next doctor tries again.
            let _ = self.admin.revoke_probe(self.workspace, &self.name);
            let _ = self.admin.remove_probe(self.workspace, &self.name);
        }
    }
}

/// Where an entry of the trip is.
fn path(purpose: &str, name: &ProbeName) -> String {
    format!("/v1/cache/{}", name.hash(purpose))
}

/// The questions, in order.
struct Trip<'t> {
    server: &'t Server,
    tokens: &'t Tokens,
    name: &'t ProbeName,
    body: Vec<u8>,
    interrupted: &'t AtomicBool,
}

impl Trip<'_> {
    /// Asks all of them; none where a step failed on which others stand, or somebody interrupts.
    fn run(&self, findings: &mut Findings) -> Option<()> {
        self.store(findings)?;
        self.refuse(findings)?;
        self.isolate(findings)
    }

    /// As CI of a protected branch.
    fn store(&self, findings: &mut Findings) -> Option<()> {
        let (asked, token) = (&self.server.root, Some(self.tokens.write.expose()));
        let path = path("trusted", self.name);
        let what = "a hash that nobody stored is a miss";
        expect(what, Meaning::Missing, asked.get(&path, token), findings)?;
        self.goes_on()?;
        let stored = asked.put(&path, token, &self.body);
        expect("an upload is stored", Meaning::Done, stored, findings)?;
        self.goes_on()?;
        let what = "a download is a hit";
        let answer = expect(what, Meaning::Done, asked.get(&path, token), findings)?;
        same_bytes(&answer, &self.body, findings);
        self.goes_on()?;
        let what = "HEAD tells its length";
        let answer = expect(what, Meaning::Done, asked.head(&path, token), findings)?;
        same_length(what, &answer, &self.body, findings);
        self.goes_on()?;
        let again = asked.put(&path, token, &self.body);
        expect("an entry is not replaced", Meaning::Exists, again, findings);
        self.goes_on()
    }

    /// As a laptop, and as a stranger.
    fn refuse(&self, findings: &mut Findings) -> Option<()> {
        let (asked, token) = (&self.server.root, Some(self.tokens.read.expose()));
        let hit = asked.get(&path("trusted", self.name), token);
        expect("a read token downloads", Meaning::Done, hit, findings);
        self.goes_on()?;
        let refused = asked.put(&path("refused", self.name), token, &self.body);
        let what = "a read token may not upload";
        expect(what, Meaning::Forbidden, refused, findings);
        self.goes_on()?;
        let forged = Some(self.tokens.forged.expose());
        let refused = asked.get(&path("trusted", self.name), forged);
        let what = "a token that nobody made is refused";
        if let Some(answer) = expect(what, Meaning::NotAuthorized, refused, findings) {
            shows_text(&answer, findings);
        }
        self.goes_on()
    }

    /// As CI of a pull request.
    fn isolate(&self, findings: &mut Findings) -> Option<()> {
        let (asked, token) = (&self.server.root, Some(self.tokens.isolated.expose()));
        let hit = asked.get(&path("trusted", self.name), token);
        let what = "an isolated token downloads what is trusted";
        expect(what, Meaning::Done, hit, findings);
        self.goes_on()?;
        let path = path("isolated", self.name);
        let small = &self.body[..self.body.len().min(ISOLATED_BODY_BYTES_MAX)];
        let what = "an isolated token stores in its own scope";
        let stored = asked.put(&path, token, small);
        expect(what, Meaning::Done, stored, findings)?;
        self.goes_on()?;
        let trusted = asked.get(&path, Some(self.tokens.write.expose()));
        let what = "what it stored is a miss for the trusted scope";
        expect(what, Meaning::Missing, trusted, findings);
        self.goes_on()
    }

    fn goes_on(&self) -> Option<()> {
        (!self.interrupted.load(Ordering::Relaxed)).then_some(())
    }
}
