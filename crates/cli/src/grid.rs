//! Tables: for people with lines, for scripts as tab-separated values.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

/// How a row should catch the eye; colour only where the terminal shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// The important one.
    Strong,
    /// Needs attention.
    Warn,
    /// Is broken.
    Bad,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    head: Vec<&'static str>,
    numeric: Vec<&'static str>,
    rows: Vec<(Tone, Vec<String>)>,
}

/// What is shown to a person: lines and tables. Scripts get only the tables.
#[derive(Clone, Debug)]
pub enum Part {
    /// A line of text.
    Line(Tone, String),
    /// A table.
    Grid(Grid),
}

impl Grid {
    /// An empty table with these columns.
    pub fn new(head: &[&'static str]) -> Self {
        Grid { head: head.to_vec(), ..Grid::default() }
    }

    /// The same with these columns aligned to the right.
    pub fn numeric(mut self, columns: &[&'static str]) -> Self {
        self.numeric = columns.to_vec();
        self
    }

    /// Adds a row. Line breaks and tabs in cells become spaces.
    pub fn row(&mut self, tone: Tone, cells: Vec<String>) {
        let flat = |cell: String| cell.replace(|c: char| c.is_control(), " ");
        self.rows.push((tone, cells.into_iter().map(flat).collect()));
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// With lines.
    pub fn render(&self, colour: bool) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.head.iter().copied());
        for (_, cells) in &self.rows {
            table.add_row(cells.iter().map(String::as_str));
        }
        for (at, name) in self.head.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_constraint(ColumnConstraint::ContentWidth);
                if self.numeric.contains(name) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        // Cells have no line breaks, so after the three lines of the head every row is one line.
        let mut text = String::new();
        for (at, line) in table.to_string().lines().enumerate() {
            let tone = at.checked_sub(3).and_then(|at| self.rows.get(at)).map_or(Tone::Plain, |(tone, _)| *tone);
            text.push_str(&paint(line, tone, colour));
            text.push('\n');
        }
        text
    }

    /// As tab-separated values with a line of column names.
    pub fn tsv(&self) -> String {
        let mut text =
            self.head.iter().map(|name| name.to_lowercase().replace(' ', "_")).collect::<Vec<_>>().join("\t");
        text.push('\n');
        for (_, cells) in &self.rows {
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }
}

/// A text in the colour of its tone.
pub fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let sequence = match tone {
        _ if !colour => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Strong => "\x1b[1m",
        Tone::Warn => "\x1b[33m",
        Tone::Bad => "\x1b[31m",
    };
    format!("{sequence}{text}\x1b[0m")
}
