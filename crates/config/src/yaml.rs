//! YAML in, JSON values with the place of every key out. The only file that knows the YAML library.
//!
//! Plain scalars follow YAML 1.2's core schema with one exception: a whole number with a leading zero stays text, so
//! that `log_file_mode: 0640` reaches PostgreSQL as it was written. Bounds on size, depth and expanded aliases keep
//! hostile files harmless. Messages never quote values: any of them may be a password.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use crate::problem::Origin;

/// Files larger than this are refused.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 50_000;

/// A parsed document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    places: BTreeMap<String, (usize, usize)>,
}

/// Why a text is no YAML document, or none that is accepted here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}; {remedy}")]
pub struct YamlError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Document {
    /// Parses one YAML document (JSON is YAML too). An empty one is an error.
    pub fn parse(text: &str) -> Result<Document, YamlError> {
        if text.len() > MAX_BYTES {
            return Err(error(
                1,
                1,
                format!("it has {} bytes, more than {MAX_BYTES}", text.len()),
                "is it the right file?",
            ));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut options = Options::default();
        options.emit_comments = false;
        options.emit_unresolved_aliases = true;
        let mut builder = Builder::default();
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|scan| {
                let mark = scan.marker();
                let remedy = remedy_for(text, mark.line());
                error(mark.line(), mark.col() + 1, format!("this is not valid YAML: {}", scan.kind()), remedy)
            })?;
            builder.take(event, &span)?;
        }
        match builder.root {
            Some(value) if !value.is_null() => Ok(Document { value, places: builder.places }),
            _ => Err(error(1, 1, "the document is empty", "write at least one key, as in `scope: main`")),
        }
    }

    /// Where a key was written; for a key that was not, where the nearest one around it was.
    pub fn place(&self, path: &str) -> Option<Origin> {
        let mut path = path;
        loop {
            if let Some((line, column)) = self.places.get(path) {
                return Some(Origin::Line { line: *line, column: *column });
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }
}

/// A value as block-style YAML, ending in a newline.
pub fn to_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("a JSON value has only what YAML can hold")
}

/// One scalar as a person types it after `config set` or into an environment variable: YAML where it is YAML,
/// otherwise the text itself. Only text that begins as a list or a mapping must be correct.
pub(crate) fn scalar(text: &str) -> Result<Value, YamlError> {
    match Document::parse(text) {
        Ok(document) => Ok(document.value),
        Err(_) if text.trim().is_empty() || ["null", "~"].contains(&text.trim()) => Ok(Value::Null),
        Err(error) if text.trim_start().starts_with(['[', '{']) => Err(error),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

fn error(line: usize, column: usize, message: impl Into<String>, remedy: impl Into<String>) -> YamlError {
    YamlError { line, column, message: message.into(), remedy: remedy.into() }
}

fn remedy_for(text: &str, line: usize) -> &'static str {
    // Scanners often notice a bad indentation only on the line after it.
    let tab = |number: usize| {
        let line = number.checked_sub(1).and_then(|index| text.lines().nth(index));
        line.is_some_and(|line| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t'))
    };
    if tab(line) || tab(line.saturating_sub(1)) {
        "indent with spaces, YAML does not allow tabs there"
    } else {
        "check the indentation, the colons and the quotes of this line and the one before it"
    }
}

/// A list or mapping whose end has not been seen.
struct Open {
    value: Value,
    /// The key whose value comes next; only in mappings.
    key: Option<String>,
    anchor: usize,
    /// Length of the path of this node.
    path: usize,
}

#[derive(Default)]
struct Builder {
    root: Option<Value>,
    documents: usize,
    open: Vec<Open>,
    /// Values by anchor.
    anchors: HashMap<usize, Value>,
    nodes: usize,
    path: String,
    places: BTreeMap<String, (usize, usize)>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), YamlError> {
        let fail = |message: &str, remedy: &str| Err(error(span.start.line(), span.start.col() + 1, message, remedy));
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return fail("a second document begins here", "keep one document in the file and remove the `---`");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(&text, span);
                }
                let Some(value) = resolve(&text, style, tag.as_deref()) else {
                    return fail("this tag (`!…`) does not fit here", "remove the tag, or put the text in quotes");
                };
                self.enter(span)?;
                self.finish(value, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(Value::Array(Vec::new()), anchor, tag.as_deref(), span)?
            }
            Event::MappingStart(_, anchor, tag) => {
                self.start(Value::Object(Map::new()), anchor, tag.as_deref(), span)?
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.path.truncate(open.path);
                    self.finish(open.value, open.anchor);
                }
            }
            Event::Alias(anchor) => self.alias(anchor, span)?,
            Event::UnresolvedAlias(_) => {
                return fail(
                    "`*` begins an alias, but no such anchor exists",
                    "put the text in quotes if it begins with *",
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        self.open.last().is_some_and(|open| open.value.is_object() && open.key.is_none())
    }

    fn key(&mut self, text: &str, span: &Span) -> Result<(), YamlError> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        let Some(Open { value: Value::Object(map), key, .. }) = self.open.last_mut() else { return Ok(()) };
        if text == "<<" {
            return Err(error(line, column, "merge keys (`<<`) are not supported", "write the keys out"));
        }
        if map.contains_key(text) {
            let message = format!("the key '{}' is here for the second time", clip(text));
            return Err(error(line, column, message, "keep one of them"));
        }
        *key = Some(text.to_owned());
        let length = self.path.len();
        push_key(&mut self.path, text);
        self.places.insert(self.path.clone(), (line, column));
        self.path.truncate(length);
        Ok(())
    }

    /// Counts a node, refuses what is too much, and appends its step to the path.
    fn enter(&mut self, span: &Span) -> Result<(), YamlError> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        self.nodes += 1;
        if self.nodes > MAX_NODES || self.open.len() >= MAX_DEPTH {
            return Err(error(line, column, "the document is too large or nested too deeply", "simplify it"));
        }
        match self.open.last() {
            Some(Open { value: Value::Array(items), .. }) => {
                self.path.push_str(&format!("[{}]", items.len()));
                self.places.insert(self.path.clone(), (line, column));
            }
            Some(Open { key: Some(key), .. }) => push_key(&mut self.path, key),
            Some(_) => {
                return Err(error(line, column, "a key must be a plain text", "write the key as one word"));
            }
            None => {
                self.places.insert(String::new(), (line, column));
            }
        }
        Ok(())
    }

    fn start(&mut self, value: Value, anchor: usize, tag: Option<&Tag>, span: &Span) -> Result<(), YamlError> {
        let own = if value.is_array() { "seq" } else { "map" };
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema_tag(own)) {
            let message = "this tag (`!…`) does not fit here";
            return Err(error(span.start.line(), span.start.col() + 1, message, "remove the tag"));
        }
        self.enter(span)?;
        self.open.push(Open { value, key: None, anchor, path: self.path.len() });
        Ok(())
    }

    /// Puts a complete node where it belongs and goes back to the path around it.
    fn finish(&mut self, value: Value, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            Some(Open { value: Value::Array(items), path, .. }) => {
                items.push(value);
                self.path.truncate(*path);
            }
            Some(Open { value: Value::Object(map), key, path, .. }) => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
                self.path.truncate(*path);
            }
            _ => {
                self.root = Some(value);
                self.path.clear();
            }
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<(), YamlError> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        let Some(value) = self.anchors.get(&anchor).cloned() else {
            return Err(error(line, column, "this alias stands inside its own anchor", "write the value out"));
        };
        self.enter(span)?;
        let (nodes, depth) = measure(&value);
        self.nodes += nodes;
        if self.nodes > MAX_NODES || self.open.len() + depth > MAX_DEPTH {
            return Err(error(line, column, "the aliases expand to too much", "write the values out"));
        }
        self.finish(value, 0);
        Ok(())
    }
}

/// Nodes below a value, and its depth.
fn measure(value: &Value) -> (usize, usize) {
    let sum = |parts: &mut dyn Iterator<Item = &Value>| {
        parts.map(measure).fold((0, 1), |(nodes, depth), (n, d)| (nodes + n + 1, depth.max(d + 1)))
    };
    match value {
        Value::Array(items) => sum(&mut items.iter()),
        Value::Object(map) => sum(&mut map.values()),
        _ => (0, 1),
    }
}

/// Appends a key to a path.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(&clip(key));
}

/// A text from outside, cut and cleaned so that it fits a message.
pub(crate) fn clip(text: &str) -> String {
    let mut clean: String = text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(64).is_some() {
        clean.push('…');
    }
    clean
}

/// The value of a scalar; none when its tag does not fit it.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let Some(tag) = tag else {
        return Some(if style == ScalarStyle::Plain { plain(text) } else { text.into() });
    };
    let value = plain(text);
    let fits = match tag.core_suffix() {
        Some("str") => return Some(text.into()),
        Some("int") => value.is_i64() || value.is_u64(),
        Some("float") => value.is_number(),
        Some("bool") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    fits.then_some(value)
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => number(text).map_or_else(|| text.into(), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix).filter(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit())) {
            return u64::from_str_radix(rest, radix).ok().map(Number::from);
        }
    }
    let whole = unsigned.split(['.', 'e', 'E']).next().unwrap_or_default();
    if whole.len() > 1 && whole.starts_with('0') {
        return None;
    }
    if digits(unsigned) {
        let text = text.strip_prefix('+').unwrap_or(text);
        return text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok();
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fits = (before.is_empty() || digits(before))
        && (after.is_empty() || digits(after))
        && !(before.is_empty() && after.is_empty())
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    fits.then(|| text.parse::<f64>().ok().and_then(Number::from_f64)).flatten()
}
