//! Secrets and the command line: one that was typed there is found before anything else looks at it, for what
//! is typed comes back in many messages; and where a command wants one, it comes from stdin.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::SIGINT;
use zeroize::Zeroizing;

use super::Failure;
use crate::auth::token::find_secret;
use crate::auth::{PublicId, Refusal};

/// No more than this is read, in bytes: a token has 67 characters.
const INPUT_MAX_LEN: usize = 1024;

/// Refuses a command line that holds the secret of a token, without repeating it.
pub fn refuse_secrets(arguments: &[OsString]) -> anyhow::Result<()> {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let Some(id) = words.iter().find_map(|word| find_secret(word)) else {
        return Ok(());
    };
    let failure = Failure::usage(format!(
        "this is a token's secret (its id is {id}), which should not be on a command line: others can see it there, and \
         the shell remembers it"
    ));
    Err(match without_secret(&words, &id) {
        Some(next) => failure.hint(next),
        None => failure,
    }
    .into())
}

/// The same command with the id in the place of the secret, where an id can stand there.
fn without_secret(words: &[Cow<'_, str>], id: &PublicId) -> Option<String> {
    let mut next = vec!["cachesrv"];
    let mut before = "";
    for word in words.iter().skip(1) {
        match (find_secret(word), before) {
            (None, _) => next.push(word),
            (Some(_), "revoke" | "rotate" | "--token") => next.push(id.as_str()),
            // It is read from stdin.
            (Some(_), "inspect") => {}
            (Some(_), _) => return None,
        }
        before = word;
    }
    Some(next.join(" "))
}

/// A token that is typed or piped, as it came.
pub(super) fn ask_for_token() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if io::stdin().is_terminal() {
        typed().context("cannot read the token from the terminal")
    } else {
        piped().context("cannot read the token from stdin")
    }
}

/// Asked for without showing it.
fn typed() -> io::Result<Zeroizing<Vec<u8>>> {
    // Ctrl-C would end the process before the terminal shows again what is typed; so it ends the question.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, interrupted)?;
    let _ = write!(io::stderr(), "token (it is not shown): ");
    match rpassword::read_password().map(Zeroizing::new) {
        Ok(mut typed) => Ok(Zeroizing::new(std::mem::take(&mut *typed).into_bytes())),
        // Ctrl-D.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let _ = writeln!(io::stderr());
            Ok(Zeroizing::default())
        }
        Err(error) => Err(error),
    }
}

/// Read past the buffer that the standard library keeps for stdin: nobody would wipe it.
fn piped() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut input = Zeroizing::new(vec![0; INPUT_MAX_LEN + 1]);
    let mut length = 0;
    while length < input.len() {
        match stdin.read(&mut input[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    input.truncate(length);
    Ok(input)
}

/// The token without white space around it and without the scheme that the header has.
pub(super) fn without_scheme(input: &[u8]) -> &[u8] {
    let text = input.trim_ascii();
    match text.split_first_chunk::<7>() {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => {
            token.trim_ascii_start()
        }
        _ => text,
    }
}

/// What is said of a text that has not the form of a token.
pub(super) fn not_a_token(refusal: Refusal) -> Failure {
    Failure::new(match refusal {
        Refusal::BadCheck => {
            "this token was mistyped or cut short, its check digits are wrong: copy the whole line that \
             `cachesrv token create` printed"
        }
        _ => {
            "this is not a token: one is the whole line that `cachesrv token create` printed, and begins \
             with csrv_"
        }
    })
}
