//! `cachesrv healthcheck`: one question to the server of this configuration, and an exit code.
//!
//! It asks whether the server is alive. Who runs containers may restart what is unhealthy, and a restart helps
//! neither a full disk nor a busy database, which are misses; it refuses connections meanwhile, and a refused
//! connection fails a build. `--ready` asks the other question.

use std::time::Duration;

use super::Failure;
use super::probe::{Probe, Target, Trust};
use crate::cli::HealthcheckArgs;
use crate::config::Resolution;
use crate::http::Meaning;

/// For the whole of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &HealthcheckArgs) -> anyhow::Result<()> {
    let config = &resolution.config;
    let target = match &args.url {
        Some(url) => Some(Target::parse(url, "healthcheck")?),
        None => Target::own(config),
    };
    let target = target.ok_or_else(|| {
        Failure::usage("the server listens on port 0, which is any free port: its log says which")
            .hint(format!(
                "cachesrv healthcheck --url {}",
                Target::example(config)
            ))
    })?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    // By the name in the certificate nobody would reach the own machine.
    let probe = Probe::new(&target, &Trust::Any, TIMEOUT);
    let url = format!("{}{path}", target.url());
    let answer = probe
        .get(path, None)
        .map_err(|why| Failure::new(format!("{url}: {why}")))?;
    if answer.meaning == Meaning::Done {
        return Ok(());
    }
    let said = match answer.said.as_str() {
        "" => String::new(),
        said => format!(": {said}"),
    };
    Err(Failure::new(format!("{url} answers {}{said}", answer.status)).into())
}
