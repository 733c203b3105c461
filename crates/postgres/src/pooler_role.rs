//! The role by which a pooler learns the other roles' secrets, and the function that is all it may call for that.

use crate::instance::{Credentials, Instance};
use crate::roles::{create_or_alter, quote_identifier, quote_literal};
use crate::sql::{QUICK, Sql, SqlError};

/// What the function gives: roles that may log in. Replication goes past a pooler, and a role without a password has
/// nothing to be checked by.
const BODY: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL \
    AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now()) AND (rolsuper OR NOT rolreplication)";

/// Why the role could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum PoolerRoleError {
    /// Whoever owns the schema could put another function in the place of ours.
    #[error(
        "the schema matriarch of the database postgres belongs to '{owner}', who is no superuser; give it away with ALTER \
         SCHEMA matriarch OWNER TO {superuser}, or rename it, so that the function for poolers can be made in it"
    )]
    Schema {
        /// Its owner.
        owner: String,
        /// Our superuser, as SQL writes it.
        superuser: String,
    },
    /// PostgreSQL.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// Makes the role with its password and the function, or corrects them; true when there was something to do. Runs on the
/// primary, on a connection to the database `postgres`; may be repeated. `login`: the password is tried as well.
///
/// # Errors
/// When PostgreSQL does not answer or refuses, or somebody else owns the schema.
pub async fn ensure(
    sql: &Sql,
    instance: &Instance,
    pooler: &Credentials,
    login: bool,
) -> Result<bool, PoolerRoleError> {
    let rows = sql.query("look for the pooler's role and function", &look(pooler), QUICK).await?;
    let value = |index: usize| rows.first().and_then(|row| row.get(index)?.clone()).unwrap_or_default();
    let superuser = quote_identifier(&instance.superuser.username);
    if !value(0).is_empty() {
        return Err(PoolerRoleError::Schema { owner: value(0), superuser });
    }
    if value(1) == "t" && !(login && Sql::refuses_password(instance, pooler).await) {
        return Ok(false);
    }
    sql.execute("make the pooler's role and function", &script(pooler, &superuser)).await?;
    Ok(true)
}

/// One row: the schema's owner if it is not to be trusted, and whether everything is as it should be.
fn look(pooler: &Credentials) -> String {
    let (role, body) = (quote_literal(&pooler.username), quote_literal(BODY));
    format!(
        "SELECT (SELECT o.rolname FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner \
         WHERE n.nspname = 'matriarch' AND NOT o.rolsuper), \
         EXISTS (SELECT FROM pg_roles r, pg_namespace n JOIN pg_proc p ON p.pronamespace = n.oid \
         JOIN pg_roles o ON o.oid = p.proowner \
         WHERE r.rolname = {role} AND r.rolcanlogin AND n.nspname = 'matriarch' AND p.proname = 'pooler_secrets' \
         AND p.pronargs = 0 AND p.prosecdef AND p.prosrc = {body} AND o.rolsuper \
         AND has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_function_privilege(r.oid, p.oid, 'EXECUTE') \
         AND NOT has_function_privilege('public'::name, p.oid, 'EXECUTE'))"
    )
}

fn script(pooler: &Credentials, superuser: &str) -> String {
    let name = quote_identifier(&pooler.username);
    let role = create_or_alter(pooler, "LOGIN VALID UNTIL 'infinity'");
    let function = "matriarch.pooler_secrets()";
    format!(
        "BEGIN;\n{role}\
         CREATE SCHEMA IF NOT EXISTS matriarch;\n\
         CREATE OR REPLACE FUNCTION {function} RETURNS TABLE (name text, secret text) LANGUAGE sql SECURITY DEFINER\n\
         SET search_path = pg_catalog, pg_temp AS $secrets${BODY}$secrets$;\n\
         ALTER FUNCTION {function} OWNER TO {superuser};\n\
         REVOKE ALL ON FUNCTION {function} FROM PUBLIC;\n\
         GRANT USAGE ON SCHEMA matriarch TO {name};\n\
         GRANT EXECUTE ON FUNCTION {function} TO {name};\nCOMMIT;"
    )
}
