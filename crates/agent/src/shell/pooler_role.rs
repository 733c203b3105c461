//! The role for poolers: seen to by whoever leads, so that it is there in new clusters, in old ones and after a failover.

use std::sync::{Arc, Mutex, PoisonError};

use matriarch_core::decide::Millis;
use matriarch_postgres::pooler_role;
use tokio::task::JoinHandle;

use super::Shell;

/// How often it is looked at when all was well.
const AGAIN: Millis = 60_000;

/// What is remembered of it.
#[derive(Default)]
pub(super) struct PoolerRole {
    task: Option<JoinHandle<()>>,
    due: Millis,
    found: Arc<Mutex<Found>>,
}

#[derive(Default)]
struct Found {
    /// Everything was in order since this member leads, the password included.
    settled: bool,
    problem: Option<String>,
}

impl Shell {
    /// Sees to the role at the beginning of each lead, and looks at it now and then.
    pub(super) fn keep_pooler_role(&mut self, now: Millis) {
        let Some(pooler) = self.options.instance.pooler.clone() else { return };
        let leads = self.leads() && self.pg.is_primary();
        let role = &mut self.pooler_role;
        if role.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if !leads {
            role.due = 0;
            *role.found.lock().unwrap_or_else(PoisonError::into_inner) = Found::default();
            return;
        }
        let login = !role.found.lock().unwrap_or_else(PoisonError::into_inner).settled;
        let Some(sql) = self.pg.sql().filter(|_| now >= role.due && self.pg.busy().is_none()) else { return };
        role.due = now + if login { self.config.loop_wait.as_millis() as Millis } else { AGAIN };
        let (instance, found) = (self.pg.instance().clone(), role.found.clone());
        role.task = Some(tokio::spawn(async move {
            let done = pooler_role::ensure(&sql, &instance, &pooler, login).await;
            if matches!(done, Ok(true)) {
                tracing::info!(
                    "made the role '{}' for poolers, with its function in the database postgres",
                    pooler.username
                );
            }
            let settled = done.is_ok();
            let problem = done.err().map(|error| format!("the role '{}' for poolers: {error}", pooler.username));
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(text) = problem.as_ref().filter(|_| found.problem != problem) {
                tracing::warn!("{text}");
            }
            *found = Found { settled, problem };
        }));
    }

    /// What keeps it from being there.
    pub(super) fn pooler_role_problem(&self) -> Option<String> {
        self.pooler_role.found.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }
}
