//! The table of every list: as wide as it must be, and never wider than the terminal. Where stdout is none,
//! every row is one whole line, for `grep` and `awk`.
//!
//! Where not everything fits, dates lose their time first; then the texts that may have any length share what is
//! left; then dates go, the least telling ones first. Ids, words and numbers are never broken: they are what a
//! reader copies, greps for and adds up. A terminal that is too narrow for those breaks the lines itself.

use comfy_table::{CellAlignment, ColumnConstraint, Row, Width, presets};

use super::print;

/// What stands between two columns, in characters.
const GAP: usize = 2;

/// How long a date is without its time, in characters.
const DATE_WIDTH: usize = 10;

/// No text is broken into pieces shorter than this, in characters.
const TEXT_WIDTH_MIN: usize = 7;

/// A column: its heading, and what becomes of it where space is short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    heading: &'static str,
    kind: Kind,
    is_shown: bool,
    /// Of dates: it goes before the others.
    is_lesser: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    Date,
    Text,
}

impl Column {
    /// A column of short things that are never broken: ids, states.
    pub(super) fn word(heading: &'static str) -> Self {
        Self {
            heading,
            kind: Kind::Word,
            is_shown: true,
            is_lesser: false,
        }
    }

    /// A column of counts or sizes: aligned to the right and never broken.
    pub(super) fn number(heading: &'static str) -> Self {
        Self {
            kind: Kind::Number,
            ..Self::word(heading)
        }
    }

    /// A column of dates as [`super::time::date`] writes them, or one short word.
    pub(super) fn date(heading: &'static str) -> Self {
        Self {
            kind: Kind::Date,
            ..Self::word(heading)
        }
    }

    /// The same, of dates that can best be spared.
    pub(super) fn lesser_date(heading: &'static str) -> Self {
        Self {
            is_lesser: true,
            ..Self::date(heading)
        }
    }

    /// A column of texts of any length: names.
    pub(super) fn text(heading: &'static str) -> Self {
        Self {
            kind: Kind::Text,
            ..Self::word(heading)
        }
    }

    /// The same column, left out unless there is something to see in it; rows have its cell all the same.
    #[must_use]
    pub(super) fn shown_if(self, is_shown: bool) -> Self {
        Self { is_shown, ..self }
    }

    /// How far the column can shrink from its natural width.
    fn width_min(self, natural: usize) -> usize {
        let least = match self.kind {
            Kind::Word | Kind::Number => natural,
            Kind::Date => DATE_WIDTH,
            Kind::Text => TEXT_WIDTH_MIN,
        };
        least.max(self.heading.chars().count()).min(natural)
    }
}

/// A table under construction.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no row yet.
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: one cell for each column, whether it is shown or not.
    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// Prints the table on stdout.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let terminal = terminal_size::terminal_size_of(std::io::stdout());
        let width = terminal.map_or(usize::MAX, |(width, _)| usize::from(width.0));
        print(&format!("{}\n", self.render(width)))
    }

    fn render(&self, width: usize) -> String {
        let widths = self.widths(width);
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.columns.iter().map(|column| column.heading));
        table.add_rows(self.rows.iter().map(|cells| self.fitted(cells, &widths)));
        let columns = table.column_iter_mut().zip(&self.columns);
        for ((column, ours), width) in columns.zip(widths) {
            column.set_padding((0, GAP as u16));
            column.set_constraint(match width {
                Some(width) => ColumnConstraint::Absolute(Width::Fixed((width + GAP) as u16)),
                None => ColumnConstraint::Hidden,
            });
            if ours.kind == Kind::Number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// The cells of a row; dates lose their time where their column is too narrow for it.
    fn fitted(&self, cells: &[String], widths: &[Option<usize>]) -> Row {
        let fit = |((cell, column), width): ((&String, &Column), &Option<usize>)| match width {
            Some(width) if column.kind == Kind::Date => cell.chars().take(*width).collect(),
            _ => cell.clone(),
        };
        Row::from(cells.iter().zip(&self.columns).zip(widths).map(fit))
    }

    /// The width of each column that is shown, in characters, where the table may have `width`.
    fn widths(&self, width: usize) -> Vec<Option<usize>> {
        let naturals: Vec<usize> = (0..self.columns.len()).map(|at| self.natural(at)).collect();
        let shown = |(column, natural): (&Column, &usize)| column.is_shown.then_some(*natural);
        let mut widths: Vec<_> = self.columns.iter().zip(&naturals).map(shown).collect();
        if total(&widths) > width {
            // All of them: they are compared with each other.
            for (column, width) in self.columns.iter().zip(&mut widths) {
                if let (Kind::Date, Some(width)) = (column.kind, width) {
                    *width = column.width_min(*width);
                }
            }
        }
        let mut can_go = self.dates();
        while total(&widths) > width {
            if let Some(widest) = self.widest_text(&widths, &naturals) {
                widths[widest] = widths[widest].map(|width| width - 1);
            } else if let Some(date) = can_go.pop() {
                widths[date] = None;
            } else {
                break;
            }
        }
        widths
    }

    /// The columns of dates, those last that go first.
    fn dates(&self) -> Vec<usize> {
        let is_date = |at: &usize| self.columns[*at].kind == Kind::Date;
        let mut dates: Vec<usize> = (0..self.columns.len()).filter(is_date).collect();
        dates.sort_by_key(|at| self.columns[*at].is_lesser);
        dates
    }

    /// The text that can best spare a character: short names stay whole beside long ones.
    fn widest_text(&self, widths: &[Option<usize>], naturals: &[usize]) -> Option<usize> {
        let can_give = |at: &usize| {
            let column = self.columns[*at];
            let least = column.width_min(naturals[*at]);
            column.kind == Kind::Text && widths[*at].is_some_and(|width| width > least)
        };
        let texts = (0..widths.len()).filter(can_give);
        texts.max_by_key(|at| widths[*at])
    }

    /// As wide as its widest cell.
    fn natural(&self, at: usize) -> usize {
        let cells = self.rows.iter().map(|cells| cells[at].as_str());
        let lengths = cells
            .chain([self.columns[at].heading])
            .map(|cell| cell.chars().count());
        lengths.max().unwrap_or_default()
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let total: usize = widths.iter().flatten().map(|width| width + GAP).sum();
    total.saturating_sub(GAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(names: &[(&str, &str)]) -> Table {
        let mut table = Table::new([
            Column::word("ID"),
            Column::text("NAME"),
            Column::text("WORKSPACE").shown_if(names.iter().any(|(_, place)| !place.is_empty())),
            Column::number("ENTRIES"),
            Column::date("CREATED"),
            Column::date("EXPIRES"),
        ]);
        for (name, place) in names {
            table.row(
                [
                    "AbCdEfGhIjKl",
                    name,
                    place,
                    "12",
                    "2026-11-22 19:55",
                    "never",
                ]
                .map(str::to_owned),
            );
        }
        table
    }

    #[test]
    fn what_fits_is_on_one_line_with_two_spaces_between() {
        assert_eq!(
            tokens(&[("ci", "")]).render(100),
            "\
ID            NAME  ENTRIES  CREATED           EXPIRES
AbCdEfGhIjKl  ci         12  2026-11-22 19:55  never"
        );
    }

    #[test]
    fn dates_give_way_before_names_and_lose_their_time() {
        assert_eq!(
            tokens(&[("ci", "shop")]).render(60),
            "\
ID            NAME  WORKSPACE  ENTRIES  CREATED     EXPIRES
AbCdEfGhIjKl  ci    shop            12  2026-11-22  never"
        );
    }

    #[test]
    fn long_names_share_what_is_left_and_short_ones_stay_whole() {
        let longest = "n".repeat(20);
        assert_eq!(
            tokens(&[("a-release", "shop"), (&longest, "shop")]).render(66),
            "\
ID            NAME         WORKSPACE  ENTRIES  CREATED     EXPIRES
AbCdEfGhIjKl  a-release    shop            12  2026-11-22  never
AbCdEfGhIjKl  nnnnnnnnnnn  shop            12  2026-11-22  never
              nnnnnnnnn"
        );
    }

    #[test]
    fn no_line_is_wider_than_allowed_while_there_is_anything_to_break() {
        let longest = "n".repeat(64);
        let table = tokens(&[(&longest, &longest), ("-", "default")]);
        for width in 63..200 {
            let text = table.render(width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}:\n{text}");
            let letters = text.matches('n').count();
            assert_eq!(letters, 2 * 64 + 2, "{width}:\n{text}");
        }
    }

    #[test]
    fn a_narrow_terminal_never_breaks_an_id_and_does_without_dates() {
        let longest = "n".repeat(64);
        let text = tokens(&[(&longest, &longest)]).render(10);
        for whole in ["AbCdEfGhIjKl", "WORKSPACE", "12"] {
            assert!(text.contains(whole), "{text}");
        }
        assert!(!text.contains("2026"), "{text}");
    }

    #[test]
    fn the_lesser_dates_go_first() {
        let mut table = Table::new([
            Column::word("ID"),
            Column::lesser_date("CREATED"),
            Column::date("EXPIRES"),
        ]);
        table.row(["AbCdEfGhIjKl", "2026-11-22 19:55", "2027-01-01 00:00"].map(str::to_owned));
        let text = table.render(30);
        assert_eq!(text, "ID            EXPIRES\nAbCdEfGhIjKl  2027-01-01");
    }

    #[test]
    fn what_is_no_terminal_gets_every_row_on_one_line() {
        let longest = "n".repeat(200);
        let text = tokens(&[(&longest, "shop")]).render(usize::MAX);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(&longest) && text.contains("19:55"), "{text}");
    }
}
