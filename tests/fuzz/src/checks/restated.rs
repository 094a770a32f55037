//! The rules of a request head, said a second time and in another way: no state machine and no httparse,
//! but lines that are cut at CR LF and looked at one after the other. What src/http accepts and refuses
//! has to be the same, byte for byte (RFC 9112; http.md of the design).

/// The longest head, from its first byte or the empty line before it.
const HEAD_MAX: usize = 16 * 1024;
/// The longest target.
const TARGET_MAX: usize = 2 * 1024;
/// The longest request line, without its end.
const REQUEST_LINE_MAX: usize = TARGET_MAX + 64;
/// The most header lines.
const HEADERS_MAX: usize = 64;

/// What bytes are that a connection begins with, or goes on with.
#[derive(Debug, PartialEq)]
pub enum Reading<'b> {
    /// The head is not complete, and nothing is wrong yet.
    Incomplete,
    /// A rule is broken.
    Refused,
    /// A head.
    Head(Head<'b>),
}

/// A head that keeps every rule.
#[derive(Debug, PartialEq)]
pub struct Head<'b> {
    /// Its first byte: 2 after an empty line that is ignored.
    pub start: usize,
    /// The first byte behind it.
    pub end: usize,
    pub method: &'b str,
    /// The target up to the query.
    pub path: &'b str,
    pub is_http_1_0: bool,
    pub headers: Vec<(&'b str, &'b str)>,
    pub content_length: Option<u64>,
}

impl<'b> Head<'b> {
    /// The values of a header, in their order.
    pub fn values(&self, name: &str) -> Vec<&'b str> {
        values(&self.headers, name)
    }

    /// The credential: the only one, or none.
    pub fn authorization(&self) -> Option<&'b str> {
        match self.values("authorization")[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The connection stays open after the answer.
    pub fn keep_alive(&self) -> bool {
        let lines = self.values("connection");
        let says = |word: &str| {
            let mut options = lines.iter().flat_map(|line| line.split(','));
            options.any(|option| trimmed(option).eq_ignore_ascii_case(word))
        };
        !says("close") && (says("keep-alive") || !self.is_http_1_0)
    }

    /// The client waits with its body.
    pub fn expects_continue(&self) -> bool {
        !self.is_http_1_0 && !self.values("expect").is_empty()
    }
}

/// Reads what stands at the beginning of `bytes`.
pub fn read(bytes: &[u8]) -> Reading<'_> {
    let window = &bytes[..bytes.len().min(HEAD_MAX)];
    let start = if window.starts_with(b"\r\n") { 2 } else { 0 };
    let after = &window[start..];
    let end = position(after, b"\r\n\r\n").map(|at| start + at + 4);
    let text = &window[..end.unwrap_or(window.len())];
    let line = &text[start..];
    let line_len = line.iter().position(|byte| *byte == b'\r');
    let is_broken = has_bad_byte(text)
        || after.starts_with(b"\r\n")
        || line_len.unwrap_or(line.len()) > REQUEST_LINE_MAX;
    match end {
        _ if is_broken => Reading::Refused,
        None if bytes.len() >= HEAD_MAX => Reading::Refused,
        None => Reading::Incomplete,
        Some(end) => head(start, &text[start..end - 4])
            .filter(is_framed)
            .map_or(Reading::Refused, Reading::Head),
    }
}

/// A byte that no head may hold, or half of a line end. A CR at the very end may still get its LF.
fn has_bad_byte(text: &[u8]) -> bool {
    let is_bad = |(at, byte): (usize, &u8)| match byte {
        b'\r' => text.get(at + 1).is_some_and(|next| *next != b'\n'),
        b'\n' => at == 0 || text[at - 1] != b'\r',
        b'\t' => false,
        byte => !(b' '..=b'~').contains(byte),
    };
    text.iter().enumerate().any(is_bad)
}

/// Takes the lines apart; `text` has no empty one.
fn head(start: usize, text: &[u8]) -> Option<Head<'_>> {
    let text_of_head = std::str::from_utf8(text).ok()?;
    let mut lines = text_of_head.split("\r\n");
    let words: Vec<_> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    let is_http_1_0 = match version {
        "HTTP/1.0" => true,
        "HTTP/1.1" => false,
        _ => return None,
    };
    let headers: Option<Vec<_>> = lines.map(header).collect();
    let headers = headers?;
    Some(Head {
        start,
        end: start + text.len() + 4,
        method: Some(method).filter(|method| is_token(method))?,
        path: path(target)?,
        is_http_1_0,
        content_length: content_length(&values(&headers, "content-length")).ok()?,
        headers,
    })
}

/// The rules about headers that stand once, or not at all.
fn is_framed(head: &Head<'_>) -> bool {
    let hosts = head.values("host");
    let is_host = |host: &str| {
        let mut characters = host.chars();
        characters.all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()*+;=:[]".contains(c))
    };
    let enough = usize::from(!head.is_http_1_0);
    head.headers.len() <= HEADERS_MAX
        && head.values("transfer-encoding").is_empty()
        && (enough..=1).contains(&hosts.len())
        && hosts.into_iter().all(is_host)
        && head
            .values("expect")
            .iter()
            .all(|value| value.eq_ignore_ascii_case("100-continue"))
}

fn values<'b>(headers: &[(&'b str, &'b str)], name: &str) -> Vec<&'b str> {
    let named = headers
        .iter()
        .filter(|(given, _)| given.eq_ignore_ascii_case(name));
    named.map(|(_, value)| *value).collect()
}

/// `name ":" OWS value OWS`.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    is_token(name).then(|| (name, trimmed(value)))
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_token(text: &str) -> bool {
    let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(is_tchar)
}

/// Origin form (RFC 3986, section 3.3), without a percent sign in the path.
fn path(target: &str) -> Option<&str> {
    let is_pchar = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/".contains(c);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_target = target.len() <= TARGET_MAX
        && path.starts_with('/')
        && path.chars().all(is_pchar)
        && query.chars().all(|c| is_pchar(c) || c == '?' || c == '%');
    is_target.then_some(path)
}

/// None, or one plain number that fits.
fn content_length(values: &[&str]) -> Result<Option<u64>, Broken> {
    match values {
        [] => Ok(None),
        [""] => Err(Broken),
        [value] => {
            let mut digits = value.bytes().map(|byte| byte.checked_sub(b'0'));
            let number = digits.try_fold(0_u64, |number, digit| {
                let digit = digit.filter(|digit| *digit < 10)?;
                number.checked_mul(10)?.checked_add(u64::from(digit))
            });
            number.map(Some).ok_or(Broken)
        }
        _ => Err(Broken),
    }
}

/// A rule is.
struct Broken;

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}
