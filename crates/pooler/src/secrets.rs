//! The file of roles and their secrets that PgBouncer checks clients by, kept as PostgreSQL has them.
//!
//! A file and not PgBouncer's `auth_query`: the query needs a server at each first login of a role, which there is none of
//! during a failover, and a function in every database. The secrets are PostgreSQL's SCRAM verifiers; with the same
//! verifier on both sides PgBouncer can pass a client's proof on, so no password is ever known here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use crate::console::{Admin, ConsoleError};
use crate::settings::ADMIN;

/// Where roles and their secrets come from.
#[derive(Clone)]
pub enum Secrets {
    /// A file in PgBouncer's own format that somebody else keeps.
    File(PathBuf),
    /// PostgreSQL is asked, as this role: one that may call `matriarch.pooler_secrets()`, or a superuser.
    Query {
        /// Name of the role.
        user: String,
        /// Its password.
        password: String,
    },
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secrets::File(path) => f.debug_tuple("File").field(path).finish(),
            Secrets::Query { user, .. } => f.debug_struct("Query").field("user", user).finish_non_exhaustive(),
        }
    }
}

/// How soon a new role or password is known.
pub(crate) const REFRESH: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(3);

/// Roles that may log in: replication goes past a pooler, and a role without a password has nothing to be checked by.
const BY_FUNCTION: &str = "SELECT name, secret FROM matriarch.pooler_secrets()";
const BY_CATALOG: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolcanlogin \
    AND rolpassword IS NOT NULL AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now()) \
    AND (rolsuper OR NOT rolreplication)";

/// Roles with their secrets as PostgreSQL has them now. `entrance` leads through the pooler itself, which finds the primary
/// and speaks TLS to it where needed.
pub(crate) async fn ask(entrance: &Admin, user: &str, password: &str) -> Result<BTreeMap<String, String>, String> {
    let role = Admin { user: user.to_owned(), password: password.to_owned(), ..entrance.clone() };
    let asked = async {
        let session = role.connect_to("postgres").await?;
        match session.run(BY_FUNCTION).await {
            Err(ConsoleError::Failed { reason, .. }) if reason.contains("matriarch") => session.run(BY_CATALOG).await,
            answer => answer,
        }
    };
    let rows = match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("PostgreSQL did not answer in time".to_owned()),
    };
    let pair = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(pair).collect())
}

/// The file: our admin, the role that asks, and everybody else.
pub(crate) fn file(admin_password: &str, asker: Option<(&str, &str)>, roles: &BTreeMap<String, String>) -> String {
    let mut all: BTreeMap<&str, &str> = roles.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect();
    // In plain text: PgBouncer opens its first connections with it.
    all.extend(asker);
    all.insert(ADMIN, admin_password);
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    all.iter().map(|(name, secret)| format!("{} {}\n", quoted(name), quoted(secret))).collect()
}

/// The admin's password in such a file.
pub(crate) fn admin_password(file: &str) -> Option<String> {
    let start = format!("\"{ADMIN}\" \"");
    let line = file.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(line.strip_suffix('"')?.to_owned())
}

/// Some secret is an MD5 hash, which PgBouncer checks only in its mode for both kinds.
pub(crate) fn has_md5(file: &str) -> bool {
    file.lines().any(|line| line.contains(" \"md5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_quoted_and_names_the_admin() {
        let roles = BTreeMap::from([("o\"hara".to_owned(), "SCRAM-SHA-256$4096:x".to_owned())]);
        let text = file("hush", Some(("postgres", "secret")), &roles);
        assert_eq!(
            text,
            "\"matriarch_pooler_admin\" \"hush\"\n\"o\"\"hara\" \"SCRAM-SHA-256$4096:x\"\n\"postgres\" \"secret\"\n"
        );
        assert_eq!(admin_password(&text).as_deref(), Some("hush"));
        assert!(!has_md5(&text) && has_md5("\"a\" \"md5d41d8cd98f00b204e9800998ecf8427e\"\n"));
    }
}
