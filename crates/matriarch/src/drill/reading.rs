//! What the restored server is asked.

use anyhow::Context;
use matriarch_api::RestoreFigures;
use matriarch_postgres::Instance;
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Rows that are kept of one answer.
const KEPT: usize = 100;

/// What a query answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The query.
    pub query: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// At most 100 rows, as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many rows there were.
    pub count: usize,
}

async fn connect(instance: &Instance, database: &str) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config.host_path(&instance.run_dir).port(instance.port).dbname(database).user(&instance.superuser.username);
    config.application_name("matriarch drill").options("-c statement_timeout=0 -c lock_timeout=0");
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(refusal).with_context(|| format!("database {database}"))?;
    tokio::spawn(connection);
    Ok(client)
}

fn refusal(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(said) => anyhow::anyhow!("{} (SQLSTATE {})", said.message(), said.code().code()),
        None => match std::error::Error::source(&error) {
            Some(source) => anyhow::anyhow!("{error}: {source}"),
            None => error.into(),
        },
    }
}

/// Connects to every database and counts what is in it.
pub async fn count(instance: &Instance, figures: &mut RestoreFigures) -> anyhow::Result<()> {
    let query = "select datname::text from pg_database where datallowconn order by 1";
    let names = connect(instance, "postgres").await?.query(query, &[]).await.map_err(refusal)?;
    for row in names {
        let name: String = row.get(0);
        let query = "select count(*) from pg_class where relkind in ('r', 'i', 'S', 't', 'm')";
        let counted = connect(instance, &name).await?.query_one(query, &[]).await.map_err(refusal);
        let relations: i64 = counted.with_context(|| format!("database {name}"))?.get(0);
        figures.databases += 1;
        figures.relations += relations.unsigned_abs();
    }
    Ok(())
}

/// Asks one query. A single false is a failure, and is told with the answer.
pub async fn ask(instance: &Instance, database: &str, query: &str) -> (Answer, Result<(), String>) {
    let mut answer = Answer { query: query.to_owned(), ..Answer::default() };
    let asked = async {
        let client = connect(instance, database).await?;
        // Several statements at once cannot be prepared, and then nobody knows the types.
        let types: Option<Vec<Type>> = client
            .prepare(query)
            .await
            .ok()
            .map(|prepared| prepared.columns().iter().map(|column| column.type_().clone()).collect());
        let messages = client.simple_query(query).await.map_err(refusal)?;
        anyhow::Ok((types, messages))
    };
    let (types, messages) = match asked.await {
        Ok(asked) => asked,
        Err(error) => return (answer, Err(format!("the query '{query}' failed: {error:#}"))),
    };
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                answer.columns = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                answer.count += 1;
                if answer.rows.len() < KEPT {
                    answer.rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
            }
            _ => {}
        }
    }
    let verdict = match is_false(types.as_deref(), &answer) {
        true => Err(format!("the query '{query}' answered false")),
        false => Ok(()),
    };
    (answer, verdict)
}

fn is_false(types: Option<&[Type]>, answer: &Answer) -> bool {
    let single = types == Some(&[Type::BOOL]) && answer.count == 1;
    single && answer.rows.first().is_some_and(|row| row.first() == Some(&Some("f".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_false_fails() {
        let of = |rows: &[&str]| Answer {
            rows: rows.iter().map(|value| vec![Some((*value).to_owned())]).collect(),
            count: rows.len(),
            ..Answer::default()
        };
        assert!(is_false(Some(&[Type::BOOL]), &of(&["f"])));
        for (types, rows) in [
            (Some(&[Type::BOOL][..]), &["t"][..]),
            (Some(&[Type::BOOL]), &["f", "f"]),
            (Some(&[Type::BOOL]), &[]),
            (Some(&[Type::TEXT]), &["f"]),
            (None, &["f"]),
        ] {
            assert!(!is_false(types, &of(rows)), "{types:?} {rows:?}");
        }
    }
}
