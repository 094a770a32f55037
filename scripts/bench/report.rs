//! Numbers to text: aligned tables for a terminal, or Markdown.

/// A table that is printed once it is complete.
pub struct Table {
    title: String,
    notes: Vec<String>,
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: impl Into<String>, headers: &[&str]) -> Self {
        Self {
            title: title.into(),
            notes: Vec::new(),
            headers: headers.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn print(&self, markdown: bool) {
        if markdown {
            self.print_markdown();
        } else {
            self.print_text();
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!();
    }

    fn print_text(&self) {
        println!("{}", self.title);
        let lines: Vec<&Vec<String>> = std::iter::once(&self.headers).chain(&self.rows).collect();
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        for line in lines {
            let mut text = String::new();
            for (column, cell) in line.iter().enumerate() {
                let padding = " ".repeat(widths[column] - cell.chars().count());
                // The first column is a name, the others are numbers.
                if column == 0 {
                    text.extend([cell.as_str(), &padding]);
                } else {
                    text.extend(["  ", &padding, cell]);
                }
            }
            println!("{}", text.trim_end());
        }
    }

    fn print_markdown(&self) {
        println!("**{}**\n", self.title);
        println!("| {} |", self.headers.join(" | "));
        println!("|---{}|", "|---:".repeat(self.headers.len() - 1));
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
    }
}

/// The middle of some values, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of the ratios of values measured side by side.
pub fn median_ratio(over: &[f64], under: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = over
        .iter()
        .zip(under)
        .map(|(over, under)| over / under)
        .collect();
    median(&ratios)
}

pub fn or_dash(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

pub fn ratio(value: f64) -> String {
    three_digits(value)
}

/// Three digits and a unit.
pub fn seconds(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value < 1e-3 => (value * 1e6, "µs"),
        value if value < 1.0 => (value * 1e3, "ms"),
        value => (value, "s"),
    };
    format!("{}{unit}", three_digits(scaled))
}

pub fn three_digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

pub fn megabytes(bytes: f64) -> String {
    three_digits(bytes / 1e6)
}

/// A size as it is typed: `1K`, `64K`, `1M`.
pub fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}
