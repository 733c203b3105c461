//! Passwords as libpq finds them: `PGPASSWORD`, or a password file.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The password for a connection that names none.
pub fn password(config: &Config, passfile: Option<PathBuf>) -> Option<String> {
    if let Some(password) = std::env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) {
        return Some(password);
    }
    let named = passfile.or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
    let file = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass")))?;
    let text = std::fs::read_to_string(file).ok()?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        _ => "localhost".to_owned(),
    };
    let port = config.get_ports().first().unwrap_or(&5432).to_string();
    let user = config.get_user().unwrap_or_default();
    find(&text, [&host, &port, config.get_dbname().unwrap_or(user), user])
}

/// The fifth field of the first line whose first four match.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(fields);
    let matches = |fields: &[String]| {
        fields.len() >= 5 && wanted.iter().zip(fields).all(|(wanted, field)| field == "*" || field == wanted)
    };
    lines.into_iter().find(|fields| matches(fields)).and_then(|mut fields| fields.get_mut(4).map(std::mem::take))
}

/// Between colons; a backslash takes the meaning of what follows it away.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(characters.next()),
            (other, Some(field)) => field.push(other),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_matches() {
        let text = "# a:1:d:u:no\nother:*:*:*:wrong\n127.0.0.1:6432:*:postgres:a\\:b\\\\c\n*:*:*:*:last\n";
        assert_eq!(find(text, ["127.0.0.1", "6432", "db", "postgres"]).as_deref(), Some("a:b\\c"));
        assert_eq!(find(text, ["::1", "6432", "db", "postgres"]).as_deref(), Some("last"));
        assert_eq!(find("a:1:b", ["a", "1", "b", "u"]), None);
    }
}
