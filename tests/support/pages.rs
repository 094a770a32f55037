//! The pages of a SQLite file and what each of them is for, by walking what refers to what
//! (<https://sqlite.org/fileformat2.html>). For whole files of ours, without a log.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes in a page of ours.
pub const PAGE: usize = 16 * 1024;

/// What a page is for, such as `chunks leaf` or `index artifacts_by_key interior`.
pub type Kind = String;

/// Every page of a file.
pub struct Pages {
    /// By its number, from 1.
    pub kinds: BTreeMap<usize, Kind>,
    /// The parts of each page that mean something; what is left over means nothing to anybody.
    pub used: BTreeMap<usize, Vec<Part>>,
}

/// A part of a page.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is, such as `header`, `pointers`, `cell` or, of a record's value, the number of the column.
    pub what: What,
    /// Where it is in the page.
    pub bytes: Range<usize>,
}

/// What a part of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What the b-tree is made of: headers, pointers, lengths, row ids.
    Structure,
    /// A row id that parts the rows of two pages: any between theirs does.
    Divider,
    /// The header of a record: how many columns, and of which types.
    Types,
    /// The value of this column.
    Column(usize),
    /// A page's worth of a value that goes on elsewhere.
    Overflow,
}

impl Pages {
    /// Walks a file. Panics where it is damaged.
    pub fn of(file: &[u8]) -> Self {
        let mut walk = Walk {
            file,
            pages: Self {
                kinds: BTreeMap::new(),
                used: BTreeMap::new(),
            },
        };
        walk.all();
        assert_eq!(
            walk.pages.kinds.len(),
            file.len() / PAGE,
            "a page is of nothing"
        );
        walk.pages
    }

    /// The pages of each kind.
    pub fn by_kind(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut by_kind: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (page, kind) in &self.kinds {
            by_kind.entry(kind).or_default().push(*page);
        }
        by_kind
    }
}

/// A page of a file, by its number.
pub fn page(file: &[u8], number: usize) -> &[u8] {
    &file[(number - 1) * PAGE..number * PAGE]
}

struct Walk<'f> {
    file: &'f [u8],
    pages: Pages,
}

impl Walk<'_> {
    fn all(&mut self) {
        let roots = self.tree(1, "schema", &mut Vec::new());
        for (name, root) in roots {
            self.tree(root, &name, &mut Vec::new());
        }
        self.freelist();
        // The map of who points to each page, since pages are given back: one for so many.
        let (mut map, last) = (2, self.file.len() / PAGE);
        while map <= last {
            let covered = (last - map).min(PAGE / 5);
            self.note(map, "map", vec![part(What::Structure, 0..covered * 5)]);
            map += PAGE / 5 + 1;
        }
    }

    fn note(&mut self, page: usize, kind: &str, parts: Vec<Part>) {
        let before = self.pages.kinds.insert(page, kind.to_owned());
        assert_eq!(before, None, "page {page} is {kind}, too");
        self.pages.used.insert(page, parts);
    }

    /// Walks a tree; the roots that its rows name, where it is the schema.
    fn tree(
        &mut self,
        root: usize,
        name: &str,
        found: &mut Vec<(String, usize)>,
    ) -> Vec<(String, usize)> {
        let content = page(self.file, root).to_vec();
        let header = if root == 1 { 100 } else { 0 };
        let flags = content[header];
        let is_interior = matches!(flags, 2 | 5);
        let is_index = matches!(flags, 2 | 10);
        assert!(
            matches!(flags, 2 | 5 | 10 | 13),
            "page {root} of {name}: {flags}"
        );
        let header_bytes = if is_interior { 12 } else { 8 };
        let cells = number(&content, header + 3, 2);
        let pointers = header + header_bytes..header + header_bytes + 2 * cells;
        let mut parts = vec![
            part(What::Structure, 0..header + header_bytes),
            part(What::Structure, pointers.clone()),
        ];
        let mut free = number(&content, header + 1, 2);
        while free != 0 {
            parts.push(part(What::Structure, free..free + 4));
            free = number(&content, free, 2);
        }
        let mut children = Vec::new();
        for at in pointers.step_by(2) {
            let mut at = number(&content, at, 2);
            if is_interior {
                children.push(number(&content, at, 4));
                parts.push(part(What::Structure, at..at + 4));
                at += 4;
            }
            if is_interior && !is_index {
                let (_, end) = varint(&content, at);
                parts.push(part(What::Divider, at..end));
                continue;
            }
            let (length, mut end) = varint(&content, at);
            if !is_index {
                end = varint(&content, end).1;
            }
            parts.push(part(What::Structure, at..end));
            let local = local_bytes(length as usize, is_index);
            let record = &content[end..end + local];
            if local < length as usize {
                let next = number(&content, end + local, 4);
                parts.push(part(What::Structure, end + local..end + local + 4));
                self.overflow(next, length as usize - local, name);
            }
            parts.extend(columns(record, end));
            if name == "schema" {
                found.extend(root_of(record));
            }
        }
        if is_interior {
            children.push(number(&content, header + 8, 4));
        }
        let role = if is_interior { "interior" } else { "leaf" };
        let role = if root == 1 { "page 1" } else { role };
        self.note(root, &format!("{name} {role}"), parts);
        for child in children {
            self.tree(child, name, found);
        }
        std::mem::take(found)
    }

    fn overflow(&mut self, first: usize, bytes: usize, name: &str) {
        let (mut next, mut left) = (first, bytes);
        while left > 0 {
            let here = left.min(PAGE - 4);
            let parts = vec![
                part(What::Structure, 0..4),
                part(What::Overflow, 4..4 + here),
            ];
            self.note(next, &format!("{name} overflow"), parts);
            left -= here;
            next = number(page(self.file, next), 0, 4);
        }
    }

    fn freelist(&mut self) {
        let mut trunk = number(self.file, 32, 4);
        while trunk != 0 {
            let content = page(self.file, trunk).to_vec();
            let leaves = number(&content, 4, 4);
            for at in 0..leaves {
                self.note(number(&content, 8 + 4 * at, 4), "free leaf", Vec::new());
            }
            self.note(
                trunk,
                "free trunk",
                vec![part(What::Structure, 0..8 + 4 * leaves)],
            );
            trunk = number(&content, 0, 4);
        }
    }
}

fn part(what: What, bytes: Range<usize>) -> Part {
    Part { what, bytes }
}

/// How much of a record is in the cell itself.
fn local_bytes(length: usize, is_index: bool) -> usize {
    let most = if is_index {
        (PAGE - 12) * 64 / 255 - 23
    } else {
        PAGE - 35
    };
    if length <= most {
        return length;
    }
    let least = (PAGE - 12) * 32 / 255 - 23;
    let some = least + (length - least) % (PAGE - 4);
    if some <= most { some } else { least }
}

/// The parts of a record that begins at `begin` of its page.
fn columns(record: &[u8], begin: usize) -> Vec<Part> {
    let (header_bytes, mut at) = varint(record, 0);
    let header_bytes = header_bytes as usize;
    let mut parts = vec![part(What::Types, begin..begin + header_bytes)];
    let (mut value, mut column) = (header_bytes, 0);
    while at < header_bytes {
        let (kind, next) = varint(record, at);
        let end = record.len().min(value + value_bytes(kind));
        parts.push(part(
            What::Column(column),
            begin + value.min(end)..begin + end,
        ));
        (at, value, column) = (next, value + value_bytes(kind), column + 1);
    }
    parts
}

fn value_bytes(kind: u64) -> usize {
    match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind as usize,
        5 => 6,
        6 | 7 => 8,
        _ => (kind as usize - 12) / 2,
    }
}

/// The name and the root of what a row of the schema is about, where that has pages.
fn root_of(record: &[u8]) -> Option<(String, usize)> {
    let parts = columns(record, 0);
    let value = |column: usize| &record[parts[column + 1].bytes.clone()];
    let root = value(3)
        .iter()
        .fold(0, |root, byte| root << 8 | usize::from(*byte));
    let name = String::from_utf8_lossy(value(1));
    let name = if value(0) == b"index" {
        format!("index {name}")
    } else {
        name.into_owned()
    };
    (root > 1).then_some((name, root))
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length]
        .iter()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// A number of variable length, and where it ends.
fn varint(bytes: &[u8], at: usize) -> (u64, usize) {
    let mut number = 0;
    for (index, byte) in bytes[at..].iter().take(9).enumerate() {
        if index == 8 {
            return (number << 8 | u64::from(*byte), at + 9);
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return (number, at + index + 1);
        }
    }
    panic!("a number without an end");
}
