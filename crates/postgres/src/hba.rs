//! Our `pg_hba` and `pg_ident` files: fixed rules of ours, the cluster configuration's, the user's own file, and a
//! default.
//!
//! PostgreSQL takes such a file as a whole or not at all: with one wrong line a reload keeps the old rules, and a start
//! fails. So the rules last known to be good are kept beside, and come back in place of those that were refused.

use std::fs;
use std::path::PathBuf;

use crate::blocking;
use crate::files::FileError;
use crate::foreign;
use crate::instance::Instance;
use crate::sql::{ConfigurationError, Sql, SqlError};

/// The file in the data directory; `hba_file` points to it.
pub const FILE: &str = "matriarch_hba.conf";
/// Likewise for `ident_file`.
pub const IDENT_FILE: &str = "matriarch_ident.conf";

/// Password methods and others under which a socket's peer is asked who it is.
const SAFE_METHODS: [&str; 8] = ["scram-sha-256", "md5", "password", "reject", "ldap", "pam", "radius", "bsd"];

/// What the file is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The cluster configuration's `postgresql.pg_hba`, line by line.
    pub lines: Vec<String>,
    /// Its `postgresql.pg_ident`, line by line.
    pub ident: Vec<String>,
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
    text.push_str(&for_our_users(instance, if rules.require_tls { "hostssl" } else { "host" }));
    if rules.require_tls {
        let [replication, rewind] = [&instance.replication, &instance.rewind].map(|user| quote(&user.username));
        let pooler = instance.pooler.as_ref().map(|user| format!(",{}", quote(&user.username))).unwrap_or_default();
        // Whatever the rules below say, our own roles never come in the clear.
        text.push_str(&format!("host all,replication {replication},{rewind}{pooler} all reject\n"));
    }
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

/// The rules for our own users; over TCP in lines of this type.
pub(crate) fn for_our_users(instance: &Instance, host: &str) -> String {
    let [superuser, replication, rewind] =
        [&instance.superuser, &instance.replication, &instance.rewind].map(|user| quote(&user.username));
    let mut text = format!(
        "local all {superuser} scram-sha-256\n\
         local replication {replication} scram-sha-256\n\
         {host} replication {replication} all scram-sha-256\n\
         {host} postgres {rewind} all scram-sha-256\n"
    );
    if instance.binaries.version().major >= 17 && replication != rewind {
        // Replicas copy logical slots through an ordinary connection.
        text.push_str(&format!("{host} postgres {replication} all scram-sha-256\n"));
    }
    if let Some(pooler) = instance.pooler.as_ref().map(|user| quote(&user.username)) {
        text.push_str(&format!("local postgres {pooler} scram-sha-256\n{host} postgres {pooler} all scram-sha-256\n"));
    }
    text
}

fn effective_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The text of the other file: the configuration's maps, then the user's own.
fn render_ident(rules: &Rules, own_file: &str) -> String {
    let mut text = String::from(
        "# Written by Matriarch and replaced without asking. Add maps to postgresql.pg_ident in the cluster\n\
         # configuration, or to pg_ident.conf in this directory.\n",
    );
    for line in rules.ident.iter().map(String::as_str).chain(effective_lines(own_file)) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Writes both files durably; returns whether one changed. For a server that does not run; see [`install`] for one that
/// does.
pub fn write(instance: &Instance, rules: &Rules) -> Result<bool, FileError> {
    let hba = render(instance, rules, &own_file(instance, "pg_hba.conf")?);
    let ident = render_ident(rules, &own_file(instance, "pg_ident.conf")?);
    let changed = instance.write_data(FILE, hba.as_bytes())?;
    Ok(instance.write_data(IDENT_FILE, ident.as_bytes())? || changed)
}

/// Whether both files are there.
pub fn exists(instance: &Instance) -> bool {
    [FILE, IDENT_FILE].iter().all(|name| instance.data(name).exists())
}

/// Rules that could not be written or checked.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// PostgreSQL could not be asked.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// Writes both files and has a running PostgreSQL check them; it needs a reload afterwards. What it would not accept is
/// put aside as `<file>.refused`, which the returned errors name, and the rules before it come back.
pub async fn install(instance: &Instance, rules: &Rules, sql: &Sql) -> Result<Vec<ConfigurationError>, InstallError> {
    let (copy, wanted) = (instance.clone(), rules.clone());
    let written = blocking::run(move || {
        let before = [FILE, IDENT_FILE].map(|name| fs::read(copy.data(name)).unwrap_or_default());
        Ok::<_, FileError>(write(&copy, &wanted)?.then_some(before))
    });
    let Some([hba_before, ident_before]) = written.await? else { return Ok(Vec::new()) };
    let (hba, ident) = (sql.hba_errors().await?, sql.ident_errors().await?);
    let copy = instance.clone();
    let settled = blocking::run(move || {
        let mut errors = settle(&copy, FILE, &hba_before, hba)?;
        errors.extend(settle(&copy, IDENT_FILE, &ident_before, ident)?);
        Ok::<_, FileError>(errors)
    });
    Ok(settled.await?)
}

fn settle(
    instance: &Instance,
    name: &str,
    before: &[u8],
    found: Vec<ConfigurationError>,
) -> Result<Vec<ConfigurationError>, FileError> {
    if found.is_empty() {
        instance.write_data(&good(name), &read(instance, name)?)?;
        return Ok(found);
    }
    put_aside(instance, name, before, found)
}

fn put_aside(
    instance: &Instance,
    name: &str,
    before: &[u8],
    found: Vec<ConfigurationError>,
) -> Result<Vec<ConfigurationError>, FileError> {
    let refused = format!("{name}.refused");
    instance.write_data(&refused, &read(instance, name)?)?;
    instance.write_data(name, before)?;
    let ours = instance.data(name).to_string_lossy().into_owned();
    let path = instance.data(&refused).to_string_lossy().into_owned();
    // A line of an included file keeps its own place.
    Ok(found
        .into_iter()
        .map(|error| if error.file == ours { ConfigurationError { file: path.clone(), ..error } } else { error })
        .collect())
}

/// After a start that failed because of [`FILE`] or [`IDENT_FILE`]: puts that file aside and the last good one, or only
/// our own rules, in its place. Returns the path put aside; none when nothing else can be tried.
pub fn fall_back(instance: &Instance, name: &str) -> Result<Option<PathBuf>, FileError> {
    let now = read(instance, name)?;
    let bare = match name {
        FILE => render(instance, &Rules { lines: vec![String::new()], ..Rules::default() }, ""),
        _ => String::new(),
    };
    let last = fs::read(instance.data(&good(name))).ok().filter(|last| *last != now);
    let instead = last.unwrap_or_else(|| bare.into_bytes());
    if instead == now {
        return Ok(None);
    }
    let refused = format!("{name}.refused");
    instance.write_data(&refused, &now)?;
    instance.write_data(name, &instead)?;
    Ok(Some(instance.data(&refused)))
}

/// Remembers the rules as they are: a server has started with them.
pub fn remember(instance: &Instance) -> Result<(), FileError> {
    for name in [FILE, IDENT_FILE] {
        instance.write_data(&good(name), &read(instance, name)?)?;
    }
    Ok(())
}

fn good(name: &str) -> String {
    format!("{name}.good")
}

fn read(instance: &Instance, name: &str) -> Result<Vec<u8>, FileError> {
    let path = instance.data(name);
    fs::read(&path).map_err(|error| FileError::new("read", &path, error))
}

fn own_file(instance: &Instance, name: &str) -> Result<String, FileError> {
    let path = instance.data(name);
    match fs::read(&path) {
        Ok(text) => Ok(foreign::without_ours(&String::from_utf8_lossy(&text)).to_owned()),
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

/// As [`has_unsafe_local_rules`], for the file as it is now; true when it cannot be read, and while a server runs by other rules.
pub fn is_unsafe_now(instance: &Instance) -> bool {
    let unsafe_file = fs::read_to_string(instance.data(FILE)).map_or(true, |text| has_unsafe_local_rules(text.lines()));
    unsafe_file || foreign::is_in_force(instance)
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
