//! `cachesrv completions` and `cachesrv man`: what can be typed. Neither looks at the configuration: they
//! run while a package is built.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_complete::Shell;

/// `cachesrv completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that they are for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `cachesrv man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, instead of the first one to stdout
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}
