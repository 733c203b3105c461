//! Writes `docs/configuration.md` from the key tables.

use std::fmt::Write;

use crate::dynamic::archive::ARCHIVING;
use crate::parameters::{OWNED, SHARED};
use crate::schema::{Effect, Key, Kind};
use crate::units::show_bytes;
use crate::{dynamic, local};

const OPENING: &str = "\
# Configuration

<!-- Made from the key tables in crates/config; change those, then run: MATRIARCH_BLESS=1 cargo test -p matriarch-config -->

There are two configurations. The **dynamic** one lives in the store, is the same for every member, and is changed with
`matriarch config set`, `matriarch config edit` or `PATCH /config`. The **local** one is a YAML file for each agent. Both
use Patroni's names where those exist. `matriarch config check FILE` checks either and tells all that is wrong with it.

An unknown key is an error, never ignored. Durations are seconds, or text with a unit (`500ms`, `5s`, `1min`, `2h`,
`1d`, `2w`); sizes are bytes, or text with a unit (`B`, `kB`, `MB`, `GB`, `TB`). A key set to `null` is the same as a key left
out. `on`, `off`, `yes` and `no` also stand for true and false.
";

/// The whole reference, in Markdown.
pub fn reference() -> String {
    let mut page = OPENING.to_owned();
    page.push_str("\n## Dynamic configuration\n");
    table(&mut page, dynamic::keys::KEYS, "", Effect::Mixed);
    page.push_str("\n## Local configuration\n\nA complete example: [examples/host.yaml](examples/host.yaml).\n");
    table(&mut page, local::keys::KEYS, "", Effect::Mixed);
    environment(&mut page);
    parameters(&mut page);
    page.push_str(
        "\n## Keys known from Patroni that are refused\n\nA value that says what holds anyway is accepted.\n",
    );
    refusals(&mut page, "Dynamic", dynamic::keys::KEYS);
    refusals(&mut page, "Local", local::keys::KEYS);
    page
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes any text");
}

/// A table of the keys of one section, then one for each section within. What needs a restart as a section needs it for
/// each of its keys.
fn table(page: &mut String, keys: &'static [Key], path: &str, section: Effect) {
    let effect_of = |key: &Key| if section == Effect::Restart { Effect::Restart } else { key.effect };
    page.push_str("\n| Key | Type | Default | Takes effect | Meaning |\n|---|---|---|---|---|\n");
    for key in keys.iter().filter(|key| !key.is_refused()) {
        let default = match (&key.kind, key.default) {
            _ if key.required => "**required**".to_owned(),
            (Kind::Bytes { .. }, Some(json)) => format!("`{}`", json.parse().map_or(json.to_owned(), show_bytes)),
            (_, Some(json)) if json != "null" => format!("`{}`", json.trim_matches('"')),
            _ => "—".to_owned(),
        };
        put(
            page,
            format_args!(
                "| `{}` | {} | {default} | {} | {} |\n",
                key.name,
                words(&key.kind).replace('|', "\\|"),
                effect(effect_of(key)),
                key.meaning.replace('|', "\\|")
            ),
        );
    }
    for key in keys {
        if let Some(inner) = inner(&key.kind) {
            let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            let named = if matches!(key.kind, Kind::Named { .. }) { ".<name>" } else { "" };
            let each = if matches!(key.kind, Kind::Records { .. }) { "[]" } else { "" };
            put(page, format_args!("\n### `{path}{named}{each}`\n"));
            table(page, inner, &path, effect_of(key));
        }
    }
}

fn inner(kind: &Kind) -> Option<&'static [Key]> {
    match kind {
        Kind::Section { keys, .. } | Kind::Open { keys, .. } | Kind::Named { keys, .. } | Kind::Records { keys } => {
            Some(keys)
        }
        _ => None,
    }
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer { min, max } => format!("whole number, {min} to {max}"),
        Kind::Seconds { min, max } => format!("seconds, {min} to {max}"),
        Kind::Bytes { min: 0, max: 4_611_686_018_427_387_904 } => "size".to_owned(),
        Kind::Bytes { min, max: 4_611_686_018_427_387_904 } => format!("size, {} or more", show_bytes(*min)),
        Kind::Bytes { min, max } => format!("size, {} to {}", show_bytes(*min), show_bytes(*max)),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Text { what, .. } | Kind::Other { what, .. } => (*what).to_owned(),
        Kind::Secret => "secret text".to_owned(),
        Kind::Section { .. } => "section".to_owned(),
        Kind::Open { .. } => "section, open".to_owned(),
        Kind::Named { .. } => "section of names".to_owned(),
        Kind::Records { .. } => "list of sections".to_owned(),
        Kind::Lines { .. } => "list of lines".to_owned(),
        Kind::Parameters(_) => "names and values".to_owned(),
        Kind::Refused { .. } => String::new(),
    }
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Reload => "at once",
        Effect::Restart => "agent restart",
        Effect::Bootstrap => "new cluster",
        Effect::Nothing => "no effect",
        Effect::Mixed => "see within",
    }
}

fn environment(page: &mut String) {
    page.push_str(
        "\n### Environment\n\nThese variables win over the file. Text is taken as it is, without YAML's quotes.\n\n\
         | Variable | Key |\n|---|---|\n",
    );
    local::load::overrides(local::keys::KEYS, &mut Vec::new(), &mut |steps, _, name| {
        put(page, format_args!("| `{name}` | `{}` |\n", steps.join(".")));
    });
}

fn parameters(page: &mut String) {
    page.push_str(
        "\n## PostgreSQL parameters that belong to Matriarch\n\n| Parameters | Why | Instead |\n|---|---|---|\n",
    );
    for owned in OWNED {
        let names: Vec<String> = owned.names.iter().map(|name| format!("`{name}`")).collect();
        put(page, format_args!("| {} | {} | {} |\n", names.join(", "), owned.reason, owned.remedy));
    }
    let shared: Vec<String> = SHARED.iter().map(|name| format!("`{name}`")).collect();
    put(
        page,
        format_args!(
            "\nThese must be the same on every member, so only the dynamic configuration takes them: {}.\n\n\
             `wal_level` must be `replica` or `logical`. While `synchronous_mode` is on, a cluster-wide \
             `synchronous_commit` may be `on` or `remote_apply`.\n\nWith a section `archive`, {} belong to Matriarch as well.\n",
            shared.join(", "),
            ARCHIVING.map(|name| format!("`{name}`")).join(", ")
        ),
    );
}

fn refusals(page: &mut String, title: &str, keys: &'static [Key]) {
    put(page, format_args!("\n### {title}\n\n| Key | Why | Instead |\n|---|---|---|\n"));
    refused_rows(page, keys, "");
}

fn refused_rows(page: &mut String, keys: &'static [Key], path: &str) {
    for key in keys {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        if let Kind::Refused { reason, remedy, .. } = &key.kind {
            put(page, format_args!("| `{path}` | {reason} | {remedy} |\n"));
        }
        if let Some(inner) = inner(&key.kind) {
            refused_rows(page, inner, &path);
        }
    }
}
