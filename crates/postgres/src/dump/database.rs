//! One database: what it is made of, what is in it, making it, taking it away.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::{Access, DumpError, refused};
use crate::roles::{quote_identifier, quote_literal};

/// Objects with smaller numbers are part of every database.
const FIRST_OWN: u32 = 16_384;

/// What a database is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Of its text.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `c` libc, `i` ICU, `b` built in.
    pub provider: String,
    /// The locale of ICU or of the built-in provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// What is in a database that people put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// How many objects.
    pub objects: i64,
    /// Some of them by name.
    pub some: Vec<String>,
}

impl Database {
    /// The databases of a server that can be dumped: all but its two templates and those that take no connections.
    pub async fn all(client: &Client, major: u32) -> Result<Vec<Database>, DumpError> {
        let provider = if major >= 15 { "datlocprovider::text" } else { "'c'" };
        let locale = match major {
            17.. => "datlocale",
            15..17 => "daticulocale",
            _ => "null::text",
        };
        let query = format!(
            "select datname::text, pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text, \
             datctype::text, {provider}, {locale} from pg_database \
             where datallowconn and datname not in ('template0', 'template1') order by datname"
        );
        let rows = client.query(&query, &[]).await.map_err(refused("list its databases"))?;
        Ok(rows.iter().map(Database::of).collect())
    }

    fn of(row: &Row) -> Database {
        let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
        Database {
            name: text(0),
            owner: text(1),
            encoding: text(2),
            collate: text(3),
            ctype: text(4),
            provider: text(5),
            locale: row.get(6),
        }
    }

    /// Makes an empty one like it under a name. `owner`: a role that exists.
    pub async fn make(&self, client: &Client, name: &str, owner: Option<&str>, major: u32) -> Result<(), DumpError> {
        let statement = self.statement(name, owner, major);
        client.batch_execute(&statement).await.map_err(refused(format!("create the database {name}")))
    }

    fn statement(&self, name: &str, owner: Option<&str>, major: u32) -> String {
        let mut text = format!("CREATE DATABASE {} TEMPLATE template0", quote_identifier(name));
        text.push_str(&owner.map(|owner| format!(" OWNER {}", quote_identifier(owner))).unwrap_or_default());
        for (key, value) in [("ENCODING", &self.encoding), ("LC_COLLATE", &self.collate), ("LC_CTYPE", &self.ctype)] {
            if !value.is_empty() {
                text.push_str(&format!(" {key} {}", quote_literal(value)));
            }
        }
        let locale = self.locale.as_deref().map(quote_literal);
        let provider = match (self.provider.as_str(), locale) {
            ("i", Some(locale)) if major >= 15 => format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}"),
            ("b", Some(locale)) if major >= 17 => format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}"),
            _ if major >= 15 => " LOCALE_PROVIDER libc".to_owned(),
            _ => String::new(),
        };
        text.push_str(&provider);
        text
    }
}

/// Removes a database, and ends whoever is connected to it.
pub async fn remove(client: &Client, name: &str) -> Result<(), DumpError> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(name));
    client.batch_execute(&statement).await.map_err(refused(format!("drop the database {name}")))
}

impl Access {
    /// What people have put into a database.
    pub async fn contents(&self, database: &str) -> Result<Contents, DumpError> {
        let query = format!(
            "with own as (\
                select format('%I.%I', nspname, relname) as name from pg_class c join pg_namespace n on n.oid = relnamespace \
                    where c.oid >= {FIRST_OWN} and nspname !~ '^pg_(toast|temp)' \
                union all select proname from pg_proc where oid >= {FIRST_OWN} \
                union all select typname from pg_type where oid >= {FIRST_OWN} and typrelid = 0 and typelem = 0 \
                union all select nspname from pg_namespace where oid >= {FIRST_OWN} and nspname !~ '^pg_(toast|temp)' \
                union all select extname from pg_extension where oid >= {FIRST_OWN} \
                union all select 'large object ' || oid from pg_largeobject_metadata) \
             select (select count(*) from own), array(select name::text from own order by name limit 3)"
        );
        let client = self.connect(database).await?;
        let row = client.query_one(&query, &[]).await;
        let row = row.map_err(refused(format!("say what is in the database {database}")))?;
        Ok(Contents { objects: row.get(0), some: row.get(1) })
    }

    /// About how many bytes a dump of a database will have: those of its tables.
    pub async fn estimate(&self, database: &str) -> Result<u64, DumpError> {
        let query = format!(
            "select (coalesce(sum(pg_table_size(oid)), 0) + pg_relation_size('pg_largeobject'))::bigint from pg_class \
             where relkind in ('r', 'm') and oid >= {FIRST_OWN} and relpersistence <> 't'"
        );
        let client = self.connect(database).await?;
        let row = client.query_one(&query, &[]).await;
        let bytes: i64 = row.map_err(refused(format!("say how large the database {database} is")))?.get(0);
        Ok(bytes.unsigned_abs())
    }

    /// Everything that one role owns in a database belongs to another one from then on. A role that is only there for this
    /// (`passing`) goes away with its privileges.
    pub async fn reassign(&self, database: &str, from: &str, to: &str, passing: bool) -> Result<(), DumpError> {
        let client = self.connect(database).await?;
        let (old, new) = (quote_identifier(from), quote_identifier(to));
        // Whole databases and tablespaces would change hands as well.
        let shared = "select format('ALTER DATABASE %I OWNER TO %I;', datname, rolname) from pg_database d \
            join pg_roles r on r.oid = datdba where rolname = $1 and datname <> current_database() \
            union all select format('ALTER TABLESPACE %I OWNER TO %I;', spcname, rolname) from pg_tablespace \
            join pg_roles r on r.oid = spcowner where rolname = $1";
        let what = || format!("give what {from} owns in the database {database} to {to}");
        let rows = client.query(shared, &[&from]).await.map_err(refused(what()))?;
        let back: String = rows.iter().map(|row| row.get::<_, String>(0)).collect();
        let gone = if passing { format!("DROP OWNED BY {old};") } else { String::new() };
        let script = format!("BEGIN; REASSIGN OWNED BY {old} TO {new}; {back} {gone} COMMIT");
        client.batch_execute(&script).await.map_err(refused(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_as_it_was() {
        let icu = Database {
            name: "x".into(),
            owner: "o".into(),
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            provider: "i".into(),
            locale: Some("de-AT".into()),
        };
        let text =
            "CREATE DATABASE \"a\"\"b\" TEMPLATE template0 OWNER \"o\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'";
        assert_eq!(icu.statement("a\"b", Some("o"), 18), format!("{text} LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'"));
        let plain = Database { provider: "c".into(), locale: None, ..icu };
        assert_eq!(plain.statement("a\"b", Some("o"), 14), text);
        assert_eq!(plain.statement("a\"b", Some("o"), 15), format!("{text} LOCALE_PROVIDER libc"));
    }
}
