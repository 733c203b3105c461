//! Our `pg_hba` file: fixed rules of ours, the cluster configuration's, the user's own file, and a default.

use std::fs;

use crate::files::FileError;
use crate::instance::Instance;

/// The file in the data directory; `hba_file` points to it.
pub const FILE: &str = "matriarch_hba.conf";

/// Password methods and others under which a socket's peer is asked who it is.
const SAFE_METHODS: [&str; 8] = ["scram-sha-256", "md5", "password", "reject", "ldap", "pam", "radius", "bsd"];

/// What the file is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The cluster configuration's `postgresql.pg_hba`, line by line.
    pub lines: Vec<String>,
    /// Whether our own users must use TLS over TCP.
    pub require_tls: bool,
}

/// The text of the file; the first rule that fits a connection decides. `own_file` is the content of the user's
/// `pg_hba.conf`: its rules come after the configuration's. Everybody may try a password when the configuration has no
/// lines.
pub fn render(instance: &Instance, rules: &Rules, own_file: &str) -> String {
    let mut text = String::from(
        "# Written by Matriarch and replaced without asking. Add rules to postgresql.pg_hba in the cluster\n\
         # configuration, or to pg_hba.conf in this directory.\n",
    );
    let host = if rules.require_tls { "hostssl" } else { "host" };
    let [superuser, replication, rewind] =
        [&instance.superuser, &instance.replication, &instance.rewind].map(|user| quote(&user.username));
    text.push_str(&format!("local all {superuser} scram-sha-256\n"));
    text.push_str(&format!("local replication {replication} scram-sha-256\n"));
    text.push_str(&format!("{host} replication {replication} all scram-sha-256\n"));
    text.push_str(&format!("{host} postgres {rewind} all scram-sha-256\n"));
    let mut section = |title: &str, lines: &mut dyn Iterator<Item = &str>| {
        text.push_str(&format!("# {title}\n"));
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
    };
    section("From the cluster configuration:", &mut rules.lines.iter().map(String::as_str));
    section("From pg_hba.conf:", &mut effective_lines(own_file));
    if rules.lines.is_empty() {
        section("Default:", &mut ["local all all scram-sha-256", "host all all all scram-sha-256"].into_iter());
    }
    text
}

fn effective_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes the file durably; returns whether it changed. A running server needs a reload afterwards; errors in the
/// rules then show in [`crate::sql::Sql::hba_errors`].
pub fn write(instance: &Instance, rules: &Rules) -> Result<bool, FileError> {
    instance.write_data(FILE, render(instance, rules, &own_file(instance)?).as_bytes())
}

fn own_file(instance: &Instance) -> Result<String, FileError> {
    let path = instance.data("pg_hba.conf");
    match fs::read(&path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(FileError::new("read", &path, error)),
    }
}

/// Whether somebody could come in through the Unix socket without a password: a `local` rule with `trust`, `peer` or
/// the like, or an include that we cannot see into. A proxy that reaches PostgreSQL through the socket would lend its
/// own identity to everybody then.
pub fn has_unsafe_local_rules<'a>(lines: impl IntoIterator<Item = &'a str>) -> bool {
    lines.into_iter().any(|line| {
        let fields = fields(line);
        match fields.first().map(String::as_str) {
            Some("local") => !fields.get(3).is_some_and(|method| SAFE_METHODS.contains(&method.as_str())),
            Some(first) => first.starts_with("include") || first.starts_with('@'),
            None => false,
        }
    })
}

/// As [`has_unsafe_local_rules`], for the file as it is now; true when it cannot be read.
pub fn is_unsafe_now(instance: &Instance) -> bool {
    fs::read_to_string(instance.data(FILE)).map_or(true, |text| has_unsafe_local_rules(text.lines()))
}

/// Splits a rule as PostgreSQL does: at white space, except in double quotes and after a comma.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if !field.is_empty() && !field.ends_with(',') {
                    fields.push(std::mem::take(&mut field));
                }
            }
            c => field.push(c),
        }
    }
    if !field.is_empty() {
        fields.push(field);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_doors_without_a_lock() {
        let open = |line: &str| has_unsafe_local_rules([line]);
        for line in [
            "local all all trust",
            "local\tall\tpostgres\tpeer map=x",
            "local a, b \"all\" ident",
            "local all",
            "include other.conf",
            "  local  all  all  peer # comment",
        ] {
            assert!(open(line), "{line}");
        }
        for line in [
            "",
            "# local all all trust",
            "local all all scram-sha-256",
            "local a,b \"my user\" md5",
            "host all all 127.0.0.1/32 trust",
            "local all all reject",
        ] {
            assert!(!open(line), "{line}");
        }
    }
}
