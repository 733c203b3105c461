//! A standby with lower limits than its primary stops replaying, which nobody but we would mend: a restart gives it what
//! the primary has.

use std::time::Duration;

use matriarch_config::HOT_STANDBY_LIMITS;
use matriarch_core::decide::{Job, Millis};
use matriarch_postgres::{Instance, Sql, control};

use super::Shell;
use crate::event::Event;

/// How often a standby whose replay is paused is looked at.
const INTERVAL: Millis = 3_000;
const QUERY_LIMIT: Duration = Duration::from_secs(3);

impl Shell {
    /// Asks why the replay is paused; people pause it, too.
    pub(super) fn look_at_limits(&mut self, now: Millis) {
        let paused = self.pg.probe.as_ref().is_some_and(|probe| probe.in_recovery && probe.replay_paused);
        if !paused || now < self.limits_due || self.pg.busy().is_some() || self.config.pause {
            return;
        }
        let Some(sql) = self.pg.sql() else { return };
        self.limits_due = now + INTERVAL;
        let (instance, sender) = (self.pg.instance().clone(), self.sender.clone());
        tokio::spawn(async move {
            match too_low(&instance, &sql).await {
                Ok(names) if names.is_empty() => {}
                Ok(names) => {
                    let _ = sender.send(Event::LimitsTooLow(names));
                }
                Err(error) => tracing::debug!("cannot see why the replay is paused: {error}"),
            }
        });
    }

    pub(super) fn limits_too_low(&mut self, names: &[String]) {
        if self.pg.is_primary() || self.pg.busy().is_some() || self.stopping {
            return;
        }
        tracing::warn!("replay is paused since the primary has more of {}: restarting with as much", names.join(", "));
        self.begin(Job::Restart);
    }
}

/// The limits that are lower here than where the WAL comes from.
async fn too_low(instance: &Instance, sql: &Sql) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let control = control::read(instance).await?;
    let names = HOT_STANDBY_LIMITS.map(|(name, _)| format!("'{name}'")).join(", ");
    let query = format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})");
    let rows = sql.query("look at the limits", &query, QUERY_LIMIT).await?;
    let lower = rows.into_iter().filter_map(|row| {
        let mut fields = row.into_iter().flatten();
        let (name, setting) = (fields.next()?, fields.next()?.parse::<u32>().ok()?);
        (setting < *control.limits.get(name.as_str())?).then_some(name)
    });
    Ok(lower.collect())
}
