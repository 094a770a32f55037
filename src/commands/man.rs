//! `cachesrv man`: the man pages, made from the definition of the command line. Hidden, because it is for
//! those who build packages.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{note, print};
use crate::cli::{Cli, ManArgs};

/// What stands at the foot of each page.
const SOURCE: &str = concat!("cachesrv ", env!("CARGO_PKG_VERSION"));

/// Runs the command.
pub(super) fn run(args: &ManArgs) -> anyhow::Result<()> {
    let mut root = Cli::command();
    // Gives every command its full name.
    root.build();
    let Some(dir) = &args.dir else {
        return print(&String::from_utf8_lossy(&page(&root)?));
    };
    let pages = fs::create_dir_all(dir)
        .and_then(|()| write_all(&root, dir))
        .with_context(|| format!("cannot write man pages into '{}'", dir.display()))?;
    note(&format!("wrote {pages} man pages into '{}'", dir.display()));
    Ok(())
}

/// Writes the page of a command and of those under it; how many.
fn write_all(command: &Command, dir: &Path) -> io::Result<usize> {
    let name = command.get_display_name();
    let name = name.unwrap_or_else(|| command.get_name());
    fs::write(dir.join(format!("{name}.1")), page(command)?)?;
    let mut pages = 1;
    for command in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages += write_all(command, dir)?;
    }
    Ok(pages)
}

/// The page of one command.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).source(SOURCE).manual("cachesrv");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help() {
        notes_section(&notes.to_string()).to_writer(&mut page)?;
    }
    Ok(page)
}

/// What stands under the help, line by line: `clap_mangen` would fill the lines, and break commands in two.
fn notes_section(text: &str) -> Roff {
    let (heading, lines) = match text.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", text),
    };
    let mut roff = Roff::new();
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}
