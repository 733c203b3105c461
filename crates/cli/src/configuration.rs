//! `config`: show, edit, set and check.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use matriarch_api::ClientError;
use matriarch_config::{Document, Problem, check_file, patch, set_path, to_yaml, validate};
use serde_json::{Map, Value, json};

use crate::diff::{Change, diff};
use crate::fail::{Failure, code};
use crate::grid::{Part, Tone, paint};
use crate::movement::in_turn;
use crate::prompt::consent;
use crate::target::Target;
use crate::ui::{Format, Ui};
use crate::verbs::{ConfigCheckArgs, ConfigSetArgs, ConfigVerb};
use crate::view;

/// Does what a `config` verb says. `check` needs no cluster.
pub async fn run(target: &Target, ui: &mut Ui, verb: ConfigVerb) -> anyhow::Result<()> {
    match verb {
        ConfigVerb::Show => {
            let config = fetch(target).await?;
            show(ui, &config)
        }
        ConfigVerb::Edit { force } => edit(target, ui, force).await,
        ConfigVerb::Set(args) => set(target, ui, args).await,
        ConfigVerb::Check(args) => check(ui, &args),
    }
}

fn show(ui: &mut Ui, config: &Value) -> anyhow::Result<()> {
    // YAML is what people write, so it is also what they read.
    if ui.format == Format::Json { ui.show(config, Vec::new) } else { ui.print(&to_yaml(config)) }
}

async fn fetch(target: &Target) -> anyhow::Result<Value> {
    let view = view::read(target).await?;
    let endpoints = view.in_order(view.leader());
    Ok(in_turn(target, &endpoints, |client| async move { client.config().await }).await?)
}

async fn send(target: &Target, change: &Value) -> anyhow::Result<Value> {
    let view = view::read(target).await?;
    let endpoints = view.in_order(view.leader());
    let sent = in_turn(target, &endpoints, |client| {
        let change = change.clone();
        async move { client.patch_config(&change).await }
    });
    sent.await.map_err(|failure| match failure {
        ClientError::Refused { status: 409, .. } => {
            anyhow::Error::from(failure).context("somebody else changed the configuration at the same time; try again")
        }
        other => other.into(),
    })
}

async fn set(target: &Target, ui: &mut Ui, args: ConfigSetArgs) -> anyhow::Result<()> {
    let old = fetch(target).await?;
    let mut new = old.clone();
    for change in &args.changes {
        let Some((path, text)) = change.split_once('=') else {
            let text = format!("'{change}' is not KEY=VALUE; write it as in postgresql.parameters.work_mem=8MB");
            return Err(Failure::new(code::USAGE, text).into());
        };
        new = set_path(&new, path.trim(), text).map_err(|problems| wrong(&problems.0))?;
    }
    submit(target, ui, &old, &new, true).await
}

async fn edit(target: &Target, ui: &mut Ui, force: bool) -> anyhow::Result<()> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let Some(editor) = editor.or_else(|| ui.prompt.interactive().then(|| "vi".to_owned())) else {
        let text = "there is no terminal to edit at; set EDITOR, or use 'matriarch config set KEY=VALUE'";
        return Err(Failure::new(code::USAGE, text).into());
    };
    let old = fetch(target).await?;
    let before = to_yaml(&old);
    let mut file = tempfile::Builder::new().prefix("matriarch-config-").suffix(".yml").tempfile()?;
    file.write_all(before.as_bytes())?;
    file.flush()?;
    loop {
        open_editor(&editor, file.path())?;
        // Editors may replace the file instead of writing into it, so it is opened by name again.
        let after = std::fs::read_to_string(file.path())?;
        if after == before {
            return ui.say(Tone::Plain, "nothing was changed");
        }
        let problems = match Document::parse(&after) {
            Ok(document) => {
                let mut problems = validate(&document.value);
                for problem in &mut problems {
                    problem.origin = document.place(&problem.path);
                }
                if problems.is_empty() {
                    return submit(target, ui, &old, &document.value, force).await;
                }
                wrong(&problems)
            }
            Err(error) => Failure::new(code::CONFIG, error.to_string()),
        };
        if !ui.prompt.interactive() {
            return Err(problems.into());
        }
        ui.note(&problems.text);
        if !ui.prompt.confirm("Edit again?")? {
            return Err(Failure::new(code::CONFIG, "nothing was sent: the configuration is not valid").into());
        }
    }
}

fn open_editor(editor: &str, file: &Path) -> anyhow::Result<()> {
    // EDITOR may hold arguments ("code --wait"), which a shell takes apart as everywhere else.
    let status = Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file).status()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(code::TEMPORARY, format!("the editor '{editor}' ended with {status}; nothing was sent")).into())
}

/// Checks, shows the difference, asks and sends only what differs, so that other changes made meanwhile stay.
async fn submit(target: &Target, ui: &mut Ui, old: &Value, new: &Value, force: bool) -> anyhow::Result<()> {
    let problems = validate(new);
    if !problems.is_empty() {
        return Err(wrong(&problems).into());
    }
    let change = difference(old, new);
    if change == json!({}) {
        return ui.say(Tone::Plain, "nothing to change: it is so already");
    }
    // A key that is given as null is the same as one left out.
    debug_assert_eq!(difference(&patch(old, &change), new), json!({}));
    let (before, after) = (to_yaml(old), to_yaml(new));
    let lines: Vec<String> = diff(&before, &after).into_iter().map(|line| drawn(line, ui.colour)).collect();
    if !force {
        ui.note(&lines.join("\n"));
        consent(ui.prompt.as_mut(), false, "Send this?")?;
    }
    let stored = send(target, &change).await?;
    ui.show(&stored, || {
        let shown = if force { lines } else { Vec::new() };
        let mut parts: Vec<Part> = shown.into_iter().map(|line| Part::Line(Tone::Plain, line)).collect();
        let advice = "Configuration changed; 'matriarch list' shows whether a restart is pending";
        parts.push(Part::Line(Tone::Strong, advice.to_owned()));
        parts
    })
}

fn drawn(line: Option<(Change, &str)>, colour: bool) -> String {
    match line {
        None => " ...".to_owned(),
        Some((Change::Same, line)) => format!("  {line}"),
        Some((Change::Removed, line)) => paint(&format!("- {line}"), Tone::Bad, colour),
        Some((Change::Added, line)) => paint(&format!("+ {line}"), Tone::Strong, colour),
    }
}

/// The merge patch (RFC 7396) that makes `new` of `old`.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut changes = Map::new();
    for name in old.keys().filter(|name| new.get(*name).is_none_or(Value::is_null)) {
        changes.insert(name.clone(), Value::Null);
    }
    for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                let inner = difference(before, value);
                if inner != json!({}) {
                    changes.insert(name.clone(), inner);
                }
            }
            _ => {
                changes.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(changes)
}

fn wrong(problems: &[Problem]) -> Failure {
    let lines: Vec<String> = problems.iter().map(|problem| format!("  - {problem}")).collect();
    Failure::new(code::CONFIG, format!("the configuration is not valid; nothing was sent:\n{}", lines.join("\n")))
}

/// Checks a file without a cluster.
pub fn check(ui: &mut Ui, args: &ConfigCheckArgs) -> anyhow::Result<()> {
    let path = if args.file == Path::new("-") { Path::new("/dev/stdin") } else { &args.file };
    let report = check_file(path).map_err(|failure| Failure::new(code::CONFIG, failure.to_string()))?;
    let tone = if report.is_ok() { Tone::Plain } else { Tone::Bad };
    ui.show(&report, || vec![Part::Line(tone, report.to_string())])?;
    if report.is_ok() {
        return Ok(());
    }
    let count = report.problems.0.len();
    Err(Failure::new(code::CONFIG, format!("{} has {count} problem(s)", args.file.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_sent() {
        let old = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "f": {"g": 1}});
        let new = json!({"a": 1, "b": {"c": 5}, "e": [1, 2], "h": {"i": 1}});
        let change = difference(&old, &new);
        assert_eq!(change, json!({"b": {"d": null, "c": 5}, "e": [1, 2], "f": null, "h": {"i": 1}}));
        assert_eq!(patch(&old, &change), new);
        assert_eq!(difference(&old, &old), json!({}));
        let nulls = json!({"a": 1, "n": {"x": null}});
        assert_eq!(difference(&patch(&old, &difference(&old, &nulls)), &nulls), json!({}));
    }
}
