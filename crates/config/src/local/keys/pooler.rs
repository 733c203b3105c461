//! Keys of `proxy.pooler`.

use serde_json::{Map, Value};

use super::checks::{bind_address, pooler_address, socket_dir};
use crate::check::{join, kind_of};
use crate::pooler::check_pooler_setting;
use crate::problem::Problems;
use crate::schema::{Key, Kind, absolute_path, key, one_line};

pub(super) const POOLER: &[Key] = &[
    key(
        "read_write",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port of a PgBouncer whose clients reach the primary.",
    )
    .env("MATRIARCH_PROXY_POOLER_READ_WRITE"),
    key(
        "read_only",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port of a PgBouncer whose clients reach a replica.",
    )
    .env("MATRIARCH_PROXY_POOLER_READ_ONLY"),
    key(
        "dir",
        Kind::Text { what: "a directory for a socket", check: socket_dir },
        "Where its files are, in a folder named after its port; beside the data directory (`<data_dir>.pooler`) when left out.",
    ),
    key(
        "settings",
        Kind::Other { what: "names and values", read: settings },
        "Settings of PgBouncer, as in `default_pool_size: 40`.",
    )
    .default("{}"),
    key("program", Kind::Text { what: "a path", check: absolute_path }, "PgBouncer's program; the one installed when left out."),
    key(
        "user",
        Kind::Text { what: "a user of this host", check: one_line },
        "The system's user it runs as when the agent runs as root; PostgreSQL's when left out.",
    ),
    key(
        "auth_file",
        Kind::Text { what: "a path", check: absolute_path },
        "File of roles and secrets that you keep yourself, in PgBouncer's format, instead of `postgresql.authentication.pooler`.",
    ),
    key(
        "addresses",
        Kind::Lines { what: "an address of a PgBouncer", check: pooler_address },
        "PgBouncers that others run, to be paused during switchovers: `host:port`, or `host:port/database,…` when not all of \
         its databases are meant.",
    )
    .default("[]"),
    key("admin", Kind::Section { keys: ADMIN, rule: None }, "The admin user of all `addresses`.").default("null"),
];

const ADMIN: &[Key] = &[
    key("username", Kind::Text { what: "a user name", check: one_line }, "User name; in their `admin_users`.")
        .required(),
    key("password", Kind::Secret, "Password, as in their `auth_file`.")
        .required()
        .env("MATRIARCH_PROXY_POOLER_ADMIN_PASSWORD"),
];

/// PgBouncer's settings as texts. Which names there are is for PgBouncer to say.
fn settings(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let Value::Object(given) = value else {
        let message = format!("expected a section with PgBouncer's settings, found {}", kind_of(value));
        problems.add(path, message, "write it as `name: value` lines");
        return Value::Null;
    };
    let mut normal = Map::new();
    for (name, value) in given {
        let text = match value {
            Value::Null => continue,
            Value::Bool(yes) => u8::from(*yes).to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            other => {
                let message = format!("expected text, a number, true or false, found {}", kind_of(other));
                problems.add(join(path, name), message, "write lists as one text, separated by commas");
                continue;
            }
        };
        if let Err(why) = check_pooler_setting(name, &text) {
            problems.add(join(path, name), why, "change or remove it");
        }
        normal.insert(name.clone(), text.into());
    }
    normal.into()
}
