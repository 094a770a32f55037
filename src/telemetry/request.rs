//! The line of one request: fixed keys in a fixed order, absent ones left out.

use std::net::IpAddr;

use super::line::{Line, Value};

/// What is known of a request when it ends. Never the secret of a token, never a header as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLine<'r> {
    /// The method as sent.
    pub method: Option<&'r str>,
    /// The path as sent, without the query.
    pub path: Option<&'r str>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Bytes of the body read.
    pub bytes_in: Option<u64>,
    /// Bytes of the body written.
    pub bytes_out: Option<u64>,
    /// From the whole head to the end of the handler, in microseconds; the last bytes of the answer may
    /// still be on their way to the socket.
    pub duration_us: Option<u64>,
    /// The address of the client.
    pub peer: Option<IpAddr>,
    /// The public id of the token.
    pub token: Option<&'r str>,
    /// The name of the token.
    pub token_name: Option<&'r str>,
    /// The workspace of the token.
    pub workspace: Option<&'r str>,
    /// The isolated scope that the request is confined to.
    pub scope: Option<&'r str>,
    /// The hash of the artifact, where the path ends in one.
    pub hash: Option<&'r str>,
    /// Why the answer is what it is, where that is not plain.
    pub reason: Option<&'r str>,
}

impl RequestLine<'_> {
    pub(super) fn write(&self, line: &mut Line<'_>) {
        text(line, "method", self.method);
        text(line, "path", self.path);
        number(line, "status", self.status.map(u64::from));
        number(line, "bytes_in", self.bytes_in);
        number(line, "bytes_out", self.bytes_out);
        number(line, "duration_us", self.duration_us);
        if let Some(peer) = &self.peer {
            line.plain("peer", peer);
        }
        text(line, "token", self.token);
        text(line, "token_name", self.token_name);
        text(line, "workspace", self.workspace);
        text(line, "scope", self.scope);
        text(line, "hash", self.hash);
        text(line, "reason", self.reason);
    }
}

fn text(line: &mut Line<'_>, key: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        line.field(key, Value::Text(value));
    }
}

fn number(line: &mut Line<'_>, key: &'static str, value: Option<u64>) {
    if let Some(value) = value {
        line.field(key, Value::Number(value));
    }
}
