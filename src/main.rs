//! The `cachesrv` executable: hands the command line to the crate and turns the outcome into an exit
//! code. An error is printed here, once.

use std::io::{self, Write};
use std::process::ExitCode;

use cachesrv::auth::token::redacted;
use cachesrv::cli::Cli;
use cachesrv::commands::{self, Report};
use cachesrv::config;
use clap::Parser;

fn main() -> ExitCode {
    let arguments = config::arguments();
    if let Err(error) = commands::refuse_secrets(&arguments) {
        return failed(&error);
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => commands::run(&cli).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS),
        Err(answer) => answered(&answer),
    }
}

/// Says what went wrong, if that is worth a word.
fn failed(error: &anyhow::Error) -> ExitCode {
    let report = Report::of(error);
    let mut stderr = io::stderr().lock();
    for line in report.lines() {
        // With stderr gone, too, the exit code is all that can still be said.
        let _ = writeln!(stderr, "{line}");
    }
    ExitCode::from(report.exit_code())
}

/// clap has the last word: help and version on stdout, a mistake on stderr.
fn answered(answer: &clap::Error) -> ExitCode {
    let text = answer.render().to_string();
    // A reader that stopped, `cachesrv --help | head -1`, is no failure.
    let _ = match redacted(&text) {
        shown if shown == text => answer.print(),
        // A secret was typed where it does not belong; this is shown without colours.
        shown => io::stderr().write_all(shown.as_bytes()),
    };
    ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2))
}
