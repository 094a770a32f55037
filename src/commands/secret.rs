//! Secrets that were typed on the command line: found before anything else looks at it, for what is typed
//! comes back in many messages, and no command takes one.

use std::borrow::Cow;
use std::ffi::OsString;

use super::Failure;
use crate::auth::PublicId;
use crate::auth::token::find_secret;

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
