//! The database roles that Matriarch needs.

use crate::instance::{Credentials, Instance};
use crate::sql::{Sql, SqlError};

/// What pg_rewind calls on its source; superuser is not needed.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// Creates the replication and rewind users with their passwords and rights, or corrects them. Runs on the primary;
/// may be repeated.
pub async fn create_roles(sql: &Sql, instance: &Instance) -> Result<(), SqlError> {
    let mut script = String::new();
    for (user, rights) in [(&instance.replication, "LOGIN REPLICATION"), (&instance.rewind, "LOGIN")] {
        // The superuser may serve for all, and then must not lose anything here.
        if user.username != instance.superuser.username {
            script.push_str(&create_or_alter(user, rights));
        }
    }
    let rewind = quote_identifier(&instance.rewind.username);
    for function in REWIND_FUNCTIONS {
        script.push_str(&format!("GRANT EXECUTE ON FUNCTION {function} TO {rewind};\n"));
    }
    sql.execute("create the replication and rewind users", &format!("BEGIN;\n{script}COMMIT;")).await
}

/// Sets the passwords of all three users to the instance's. Runs on the primary.
pub async fn set_passwords(sql: &Sql, instance: &Instance) -> Result<(), SqlError> {
    let script: String = [&instance.superuser, &instance.replication, &instance.rewind]
        .iter()
        .map(|user| format!("ALTER ROLE {} PASSWORD {};\n", quote_identifier(&user.username), verifier(user)))
        .collect();
    sql.execute("set the passwords of Matriarch's users", &format!("BEGIN;\n{script}COMMIT;")).await
}

pub(crate) fn create_or_alter(user: &Credentials, rights: &str) -> String {
    let (name, literal) = (quote_identifier(&user.username), quote_literal(&user.username));
    format!(
        "DO $create$ BEGIN\n\
         IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN CREATE ROLE {name}; END IF;\n\
         END $create$;\n\
         ALTER ROLE {name} WITH {rights} PASSWORD {};\n",
        verifier(user)
    )
}

// Only the SCRAM verifier goes over the wire, so that no password can end up in a statement log.
fn verifier(user: &Credentials) -> String {
    quote_literal(&postgres_protocol::password::scram_sha_256(user.password.as_bytes()))
}

/// Quotes an SQL identifier.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes an SQL string whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b"), r"E'a\\b'");
    }

    #[test]
    fn no_password_in_the_statement() {
        let user = Credentials { username: "r".into(), password: "hush".into() };
        let text = create_or_alter(&user, "LOGIN");
        assert!(!text.contains("hush") && text.contains("SCRAM-SHA-256$"), "{text}");
    }
}
