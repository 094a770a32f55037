//! What the commands do: they say things to a person and call the layers below.
//!
//! Data goes to stdout through [`print`], everything else to stderr. An error is returned, never printed:
//! `main` prints it once, with the hint that a [`Failure`] carries.

mod activation;
mod amount;
mod artifact;
mod backup;
mod certificate;
mod completions;
mod config;
mod database;
mod doctor;
mod failure;
mod gc;
mod healthcheck;
mod interrupt;
mod man;
mod monitor;
mod probe;
mod progress;
mod purge;
mod restore;
mod schedule;
mod scope;
mod secret;
mod selection;
mod serve;
mod shell;
mod stats;
mod table;
mod time;
mod tls;
mod token;
mod verify;
mod workspace;

use std::io::{self, ErrorKind, Write};

use crate::cli::{Cli, Command, Options};
use crate::config::{ConfigError, Environment, Flag, Flags, Resolution};

pub use failure::{Failure, Hint, Report};
pub use secret::refuse_secrets;

/// Runs what was typed.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    carry_out(cli).map_err(|error| {
        let options = cli.command.options();
        let flags = options.map(|options| flags(&cli.options, options));
        match flags.map(|flags| flags.map_err(Into::into).and_then(|flags| resolve(&flags))) {
            Some(Ok(resolution)) => database::explained(error, &resolution.config.db),
            _ => error,
        }
    })
}

fn carry_out(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Serve(args) => {
            let listen = args.listen.as_ref();
            let flags = flags(&cli.options, &args.options)?.with("--listen", "listen", listen);
            serve::run(&resolve(&flags)?)
        }
        Command::Token(args) => {
            let resolution = resolve(&flags(&cli.options, args.command.options())?)?;
            token::run(&resolution.config, &args.command)
        }
        Command::Workspace(args) => {
            let resolution = resolve(&flags(&cli.options, args.command.options())?)?;
            workspace::run(&resolution.config, &args.command)
        }
        Command::Scope(args) => {
            let resolution = resolve(&flags(&cli.options, args.command.options())?)?;
            scope::run(&resolution.config, &args.command)
        }
        Command::Artifact(args) => {
            let resolution = resolve(&flags(&cli.options, args.command.options())?)?;
            artifact::run(&resolution.config, &args.command)
        }
        Command::Purge(args) => {
            let resolution = resolve(&flags(&cli.options, &args.options)?)?;
            purge::run(&resolution.config, args)
        }
        Command::Gc(args) => {
            let resolution = resolve(&flags(&cli.options, &args.options)?)?;
            gc::run(&resolution.config, args)
        }
        Command::Stats(args) => stats::run(&resolve(&flags(&cli.options, &args.options)?)?, args),
        Command::Backup(args) => backup::run(&resolve(&flags(&cli.options, &args.options)?)?, args),
        Command::Restore(args) => {
            restore::run(&resolve(&flags(&cli.options, &args.options)?)?, args)
        }
        Command::Verify(args) => verify::run(&resolve(&flags(&cli.options, &args.options)?)?, args),
        Command::Doctor(args) => doctor::run(&resolve(&flags(&cli.options, &args.options)?)?, args),
        Command::Healthcheck(args) => {
            healthcheck::run(&resolve(&flags(&cli.options, &args.options)?)?, args)
        }
        // Neither has a configuration: whoever builds a package has none.
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Config(args) => config::run(&cli.options, &args.command),
    }
}

/// Prints data on stdout, at once and as it is.
///
/// When the reader is gone (`cachesrv token list | head -1`) the error is [`ReaderGone`], about which
/// `main` says nothing.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
        Ok(()) => Ok(()),
    }
}

/// Says something on stderr that is no error and no data; nobody has to hear it.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", crate::telemetry::escaped(text));
}

/// Whoever read our output has stopped. Not a failure.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stdout was closed")]
pub struct ReaderGone;

/// What is to be said stands on stdout already: `main` says nothing more, and the exit code is 1.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it was said on stdout")]
pub struct Told;

/// The configuration by flags, environment and file.
fn resolve(flags: &Flags) -> anyhow::Result<Resolution> {
    crate::config::resolve(flags, &Environment::of_process())
        .map_err(|error| wrong_configuration(&error).into())
}

/// A wrong configuration is a wrong use: trying again cannot help.
fn wrong_configuration(error: &ConfigError) -> Failure {
    let failure = Failure::usage(error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What the options before and after the command say together.
fn flags(before: &Options, after: &Options) -> Result<Flags, Failure> {
    if before.config.is_some() && after.config.is_some() {
        return Err(Failure::usage(
            "--config: given twice, before the command and after it",
        ));
    }
    let file = before.config.as_ref().or(after.config.as_ref()).cloned();
    let mut flags = Flags {
        file,
        given: Vec::new(),
    };
    for options in [before, after] {
        flags = flags.with("--db", "db", options.db.as_ref());
        flags
            .given
            .extend(options.set.iter().cloned().map(Flag::Set));
    }
    Ok(flags)
}
