//! When all is well: one leader that runs, everybody else streaming from it on its timeline, and the durability rule whole.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Subject;

/// The rows of `list -o json`.
pub async fn rows(cluster: &impl Subject) -> anyhow::Result<Vec<Value>> {
    let outcome = cluster.verb(&["list", "-o", "json"]).await;
    anyhow::ensure!(outcome.code == 0, "{outcome}");
    let rows: Value = serde_json::from_str(&outcome.out)?;
    Ok(rows.as_array().cloned().unwrap_or_default())
}

/// Waits until every member is well.
///
/// # Panics
/// After `limit`, with what is wrong.
pub async fn well(cluster: &impl Subject, limit: Duration) {
    wait(cluster, limit, "every member well", ailment).await;
}

/// Waits until every member is well, whatever the rule is.
pub async fn streaming(cluster: &impl Subject, limit: Duration) {
    let missing = |cluster: usize, rows: usize| (rows != cluster).then(|| format!("{rows} members are known"));
    wait(cluster, limit, "every member streaming", |cluster, rows| {
        missing(cluster.names().len(), rows.len()).or_else(|| each(rows))
    })
    .await;
}

/// Waits until the given members are well, whatever the others are.
pub async fn well_but(cluster: &impl Subject, ill: &str, limit: Duration) {
    wait(cluster, limit, "the others well", |cluster, rows| {
        let others: Vec<Value> = rows.iter().filter(|row| row["member"] != ill).cloned().collect();
        let missing = cluster.names().len() - 1 != others.len();
        missing.then(|| "a member is missing".to_owned()).or_else(|| each(&others))
    })
    .await;
}

/// Waits for anything that `list` shows.
///
/// # Panics
/// After `limit`, with what is still wrong.
pub async fn wait<S: Subject>(
    cluster: &S,
    limit: Duration,
    what: &str,
    wrong: impl Fn(&S, &[Value]) -> Option<String>,
) {
    let begun = Instant::now();
    loop {
        let ill = match rows(cluster).await {
            Ok(rows) => wrong(cluster, &rows).map(|wrong| format!("{wrong}\n{}", table(&rows))),
            Err(error) => Some(format!("{error:#}")),
        };
        let Some(ill) = ill else { return };
        assert!(begun.elapsed() < limit, "not after {limit:?}: {what}: {ill}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn table(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("  {row}")).collect::<Vec<_>>().join("\n")
}

fn ailment<S: Subject>(cluster: &S, rows: &[Value]) -> Option<String> {
    if rows.len() != cluster.names().len() {
        return Some(format!("{} members are known", rows.len()));
    }
    each(rows).or_else(|| {
        // From three members on, every replica is a voter.
        let voters = rows.iter().filter(|row| row["role"] == "quorum_standby").count();
        (rows.len() >= 3 && voters + 1 != rows.len()).then(|| format!("only {voters} replicas vote"))
    })
}

fn each(rows: &[Value]) -> Option<String> {
    let leaders: Vec<&Value> = rows.iter().filter(|row| row["role"] == "leader").collect();
    let [leader] = leaders.as_slice() else { return Some(format!("{} leaders", leaders.len())) };
    for row in rows {
        let wanted = if row == *leader { "running" } else { "streaming" };
        if row["state"] != wanted {
            return Some(format!("{} is {}", row["member"], row["state"]));
        }
        if row["agent"] != "ok" || !row["problem"].is_null() || row["timeline"] != leader["timeline"] {
            return Some(format!("{} is not well", row["member"]));
        }
    }
    None
}

/// Who leads, as the agents say; waits for one.
pub async fn leader(cluster: &impl Subject) -> String {
    let found = std::sync::Mutex::new(None);
    wait(cluster, super::PATIENCE, "a leader", |_, rows| {
        let leader = leading(rows);
        let missing = leader.is_none().then(|| "nobody leads".to_owned());
        *found.lock().expect("nobody panics with it") = leader;
        missing
    })
    .await;
    found.into_inner().expect("nobody panics with it").expect("it was waited for")
}

fn leading(rows: &[Value]) -> Option<String> {
    let leader = rows.iter().find(|row| row["role"] == "leader" && row["state"] == "running")?;
    Some(leader["member"].as_str()?.to_owned())
}

/// The members that do not lead.
pub async fn replicas(cluster: &impl Subject) -> Vec<String> {
    let leader = leader(cluster).await;
    cluster.names().into_iter().filter(|name| *name != leader).collect()
}
