//! What `pg_dumpall --globals-only` has written, done again on a server that has roles of its own.
//!
//! Roles and tablespaces that exist stay as they are; the others are made with all that belongs to them.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::{DumpError, refused};

/// What of it is wanted, and what is there.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// Roles of the server.
    pub roles: BTreeSet<String>,
    /// Tablespaces of the server.
    pub tablespaces: BTreeSet<String>,
    /// No tablespace is made.
    pub no_tablespaces: bool,
}

/// Makes what is missing; returns the roles that were made.
pub async fn apply(client: &Client, text: &str, no_tablespaces: bool) -> Result<Vec<String>, DumpError> {
    let there = Globals::there(client, no_tablespaces).await?;
    for statement in there.missing(text) {
        let first = client.batch_execute(statement).await;
        let done = match (first, statement.rsplit_once(" GRANTED BY ")) {
            // Who has granted it may not be allowed to here; what counts is that it is granted.
            (Err(_), Some((plain, _))) => client.batch_execute(plain).await,
            (done, _) => done,
        };
        done.map_err(refused(format!("do again what the dump has of roles and tablespaces ({})", shown(statement))))?;
    }
    // What these statements have set was for them.
    client.batch_execute("RESET ALL").await.map_err(refused("go on as before"))?;
    Ok(there.lacking(text).0)
}

impl Globals {
    /// What a server has.
    pub async fn there(client: &Client, no_tablespaces: bool) -> Result<Globals, DumpError> {
        let names = async |query: &str| -> Result<BTreeSet<String>, DumpError> {
            let rows = client.query(query, &[]).await.map_err(refused("list its roles and tablespaces"))?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        let roles = names("select rolname::text from pg_roles").await?;
        let tablespaces = names("select spcname::text from pg_tablespace").await?;
        Ok(Globals { roles, tablespaces, no_tablespaces })
    }

    /// The roles and the tablespaces that are missing, in the order of the text.
    pub fn lacking(&self, text: &str) -> (Vec<String>, Vec<String>) {
        let (mut roles, mut tablespaces) = (Vec::new(), Vec::new());
        for statement in self.missing(text).into_iter().filter(|statement| statement.starts_with("CREATE ")) {
            match subject(statement) {
                Some(Subject::Role(name)) => roles.push(name),
                Some(Subject::Tablespace(name)) => tablespaces.push(name),
                Some(Subject::Member(..)) | None => {}
            }
        }
        (roles, tablespaces)
    }

    /// The statements that make what is missing, in their order.
    pub fn missing<'a>(&self, text: &'a str) -> Vec<&'a str> {
        statements(text).into_iter().filter(|statement| self.wants(statement)).collect()
    }

    fn wants(&self, statement: &str) -> bool {
        match subject(statement) {
            Some(Subject::Role(name)) => !self.roles.contains(&name),
            Some(Subject::Tablespace(name)) => !self.no_tablespaces && !self.tablespaces.contains(&name),
            // Who is a member of what: not between roles that were there before.
            Some(Subject::Member(role, member)) => !self.roles.contains(&role) || !self.roles.contains(&member),
            None => true,
        }
    }
}

/// What a statement is about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Role(String),
    Tablespace(String),
    Member(String, String),
}

fn subject(statement: &str) -> Option<Subject> {
    let after = |prefixes: &[&str]| {
        prefixes.iter().find_map(|prefix| statement.strip_prefix(prefix)).and_then(identifier).map(|(name, _)| name)
    };
    if let Some(name) = after(&["CREATE ROLE ", "ALTER ROLE ", "COMMENT ON ROLE ", "SECURITY LABEL ON ROLE "]) {
        return Some(Subject::Role(name));
    }
    if let Some(name) = after(&["CREATE TABLESPACE ", "ALTER TABLESPACE ", "COMMENT ON TABLESPACE "]) {
        return Some(Subject::Tablespace(name));
    }
    let grant = statement.strip_prefix("GRANT ").or_else(|| statement.strip_prefix("REVOKE "))?;
    if let Some((_, rest)) = grant.split_once(" ON TABLESPACE ") {
        return identifier(rest).map(|(name, _)| Subject::Tablespace(name));
    }
    let (role, rest) = identifier(grant)?;
    let (member, _) = identifier(rest.strip_prefix(" TO ")?)?;
    Some(Subject::Member(role, member))
}

/// The identifier at the beginning, without quotes, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || "_$".contains(c))).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

/// Splits the text. Quotes are doubled within quotes, also where backslashes are.
fn statements(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let line = |at: usize| text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
    let is_blank = |start: usize, at: usize| text[start..at].trim().is_empty();
    let (mut found, mut start, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                let end = bytes[at + 1..].iter().position(|byte| *byte == quote);
                at = end.map_or(bytes.len(), |length| at + length + 2);
            }
            // Comments, and words for psql (\restrict).
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                let blank = is_blank(start, at);
                at = line(at);
                start = if blank { at } else { start };
            }
            b'\\' if is_blank(start, at) => {
                at = line(at);
                start = at;
            }
            b';' => {
                found.push(text[start..at].trim());
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    found
}

/// Enough of a statement to recognise it, and nothing that is secret.
fn shown(statement: &str) -> String {
    let head = statement.split(" PASSWORD ").next().unwrap_or_default();
    head.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"--
-- PostgreSQL database cluster dump
--

\restrict abc;def

SET default_transaction_read_only = off;
SET client_encoding = 'UTF8';

--
-- Roles; it's a comment
--

CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b';
COMMENT ON ROLE app IS 'it''s; -- "no comment
of one line';
CREATE ROLE "o'dd ""role"";";
ALTER ROLE "o'dd ""role"";" WITH NOLOGIN;
ALTER ROLE "o'dd ""role"";" SET "search.path" TO E'a\\', 'b;';
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER PASSWORD 'old';
GRANT app TO "o'dd ""role"";" WITH INHERIT TRUE GRANTED BY postgres;
GRANT pg_monitor TO postgres GRANTED BY postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/srv/fast';
GRANT ALL ON TABLESPACE fast TO app;
GRANT SET ON PARAMETER work_mem TO app;

\unrestrict abc
"#;

    fn missing(roles: &[&str], no_tablespaces: bool) -> Vec<&'static str> {
        let roles = roles.iter().map(|name| (*name).to_owned()).collect();
        Globals { roles, tablespaces: BTreeSet::new(), no_tablespaces }.missing(TEXT)
    }

    #[test]
    fn statements_are_told_apart() {
        let found = statements(TEXT);
        assert_eq!(found.len(), 15, "{found:#?}");
        assert_eq!(found[4], "COMMENT ON ROLE app IS 'it''s; -- \"no comment\nof one line'");
        assert_eq!(found[5], r#"CREATE ROLE "o'dd ""role"";""#);
        assert_eq!(found[14], "GRANT SET ON PARAMETER work_mem TO app");
        assert_eq!(subject(found[5]), Some(Subject::Role("o'dd \"role\";".to_owned())));
        assert_eq!(subject(found[14]), None);
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let both = ["pg_monitor", "postgres"];
        let all = missing(&both, true);
        assert!(all.iter().all(|one| !one.contains("TABLESPACE") && !one.contains("ROLE postgres")), "{all:#?}");
        assert!(all.iter().all(|one| !one.starts_with("GRANT pg_monitor")), "{all:#?}");
        assert!(all.contains(&"CREATE ROLE app") && all.iter().any(|one| one.starts_with("GRANT app TO")));
        assert_eq!(missing(&both, false).len(), all.len() + 2);
        let none = missing(&["pg_monitor", "postgres", "app", "o'dd \"role\";"], true);
        assert_eq!(
            none,
            [
                "SET default_transaction_read_only = off",
                "SET client_encoding = 'UTF8'",
                "GRANT SET ON PARAMETER work_mem TO app"
            ]
        );
    }

    #[test]
    fn what_would_be_made_is_told_by_name() {
        let roles = ["pg_monitor", "postgres"].map(str::to_owned).into_iter().collect();
        let there = Globals { roles, ..Globals::default() };
        let (roles, tablespaces) = there.lacking(TEXT);
        assert_eq!(
            (roles, tablespaces),
            (vec!["app".to_owned(), "o'dd \"role\";".to_owned()], vec!["fast".to_owned()])
        );
        assert!(Globals { no_tablespaces: true, ..there }.lacking(TEXT).1.is_empty());
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("ALTER ROLE app WITH LOGIN PASSWORD 'x'"), "ALTER ROLE app WITH LOGIN");
    }
}
