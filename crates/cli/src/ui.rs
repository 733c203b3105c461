//! Where output goes and in which shape.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::grid::{Part, Tone, paint};
use crate::prompt::{Prompt, Terminal};

/// The shape of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Tab-separated values.
    Tsv,
}

/// The option that every verb has.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OutputArgs {
    /// Shape of the output.
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub output: Format,
}

/// Output, progress and questions.
pub struct Ui {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Shape of the output.
    pub format: Format,
    /// Colours may be used on the output.
    pub colour: bool,
    /// Whom to ask.
    pub prompt: Box<dyn Prompt + Send>,
}

impl Ui {
    /// The terminal, or whatever the standard streams are. Colour only on a terminal and without `NO_COLOR`.
    pub fn terminal(format: Format) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = format == Format::Table && io::stdout().is_terminal() && !refused;
        Ui { out: Box::new(io::stdout()), err: Box::new(io::stderr()), format, colour, prompt: Box::new(Terminal) }
    }

    /// Other streams and another person, without colour.
    pub fn new(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        format: Format,
        prompt: Box<dyn Prompt + Send>,
    ) -> Self {
        Ui { out, err, format, colour: false, prompt }
    }

    /// Shows a result: `data` to machines, `parts` to people.
    pub fn show(&mut self, data: &impl Serialize, parts: impl FnOnce() -> Vec<Part>) -> anyhow::Result<()> {
        let text = self.rendered(data, parts)?;
        self.print(&text)
    }

    /// The text of [`Ui::show`].
    pub fn rendered(&self, data: &impl Serialize, parts: impl FnOnce() -> Vec<Part>) -> anyhow::Result<String> {
        let mut text = String::new();
        match self.format {
            Format::Json => {
                text = serde_json::to_string_pretty(data)?;
                text.push('\n');
            }
            Format::Yaml => text = serde_saphyr::to_string(data)?,
            Format::Table => {
                for part in parts() {
                    match part {
                        Part::Line(tone, line) => text.push_str(&(paint(&line, tone, self.colour) + "\n")),
                        Part::Grid(grid) => text.push_str(&grid.render(self.colour)),
                    }
                }
            }
            Format::Tsv => {
                // Plain numbers and all columns where the data is a list; tables where it is a page.
                if let Some(table) = tsv_of_list(&serde_json::to_value(data)?) {
                    return Ok(table);
                }
                for part in parts() {
                    if let Part::Grid(grid) = part {
                        if !text.is_empty() {
                            text.push('\n');
                        }
                        text.push_str(&grid.tsv());
                    }
                }
            }
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// Writes to the output.
    pub fn print(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// A line of progress or advice, beside the output.
    pub fn note(&mut self, text: &str) {
        // Progress that cannot be shown must not stop the work.
        let _ = writeln!(self.err, "{text}");
        let _ = self.err.flush();
    }

    /// A plain line, or an object with a `message`.
    pub fn say(&mut self, tone: Tone, message: &str) -> anyhow::Result<()> {
        self.show(&serde_json::json!({ "message": message }), || vec![Part::Line(tone, message.to_owned())])
    }
}

fn tsv_of_list(data: &Value) -> Option<String> {
    let rows = data.as_array()?.iter().map(Value::as_object).collect::<Option<Vec<_>>>()?;
    let columns: Vec<&String> = rows.first()?.keys().collect();
    let cell = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.replace(|c: char| c.is_control(), " "),
        Some(other) => other.to_string(),
    };
    let mut text = columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("\t") + "\n";
    for row in rows {
        let cells: Vec<String> = columns.iter().map(|name| cell(row.get(*name))).collect();
        text.push_str(&(cells.join("\t") + "\n"));
    }
    Some(text)
}
