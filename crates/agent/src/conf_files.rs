//! The settings and rules in the data directory, without what PostgreSQL would refuse.
//!
//! Whoever writes a wrong value into the cluster configuration must not find, weeks later, that no member starts any
//! more. What is refused is left out, logged and shown as the member's problem until it is mended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use matriarch_postgres::conf::{self, Settings};
use matriarch_postgres::hba::{self, Rules};
use matriarch_postgres::sql::{ConfigurationError, PendingRestart};
use matriarch_postgres::{ControlData, Instance, Sql, check, control, foreign};

/// One data directory's files.
pub struct ConfFiles {
    instance: Arc<Instance>,
    state: Mutex<State>,
    /// Held while files are written. A job that is cut short goes on writing for a moment, and what comes after it must
    /// come after it in the files too.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    /// The people's parameters that were last tried out.
    tried: Option<BTreeMap<String, String>>,
    settings: Vec<ConfigurationError>,
    rules: Vec<ConfigurationError>,
    /// The rules that were refused.
    refused: Option<Rules>,
    /// Limits that a standby keeps as high as its primary has them.
    kept: Vec<PendingRestart>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl ConfFiles {
    pub fn new(instance: Arc<Instance>) -> ConfFiles {
        ConfFiles { instance, state: Mutex::default(), writing: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What PostgreSQL does not accept of the configuration, in words; nothing when all is well.
    pub fn problem(&self) -> Option<String> {
        let state = self.state();
        let mut texts: Vec<String> = state
            .settings
            .iter()
            .map(|error| format!("PostgreSQL refuses a setting, which is left out: {error}"))
            .collect();
        let rules = state.rules.iter();
        texts.extend(rules.map(|error| format!("PostgreSQL refuses a rule, so the rules before stay: {error}")));
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Limits that come down at the next restart after the primary's, whether PostgreSQL knows of them yet or not.
    pub fn kept(&self) -> Vec<PendingRestart> {
        self.state().kept.clone()
    }

    /// PostgreSQL has told, as a primary, what waits for a restart.
    pub fn forget_kept(&self) {
        self.state().kept.clear();
    }

    /// Writes everything for a server that does not run; names that were refused before are left out.
    pub async fn write_for_start(&self, settings: &Settings, rules: &Rules, standby: bool) -> Result<(), Failure> {
        let mut effective = conf::effective(&self.instance, settings)?;
        self.leave_out(settings, &mut effective);
        let refused = self.are_refused(rules);
        let control = if standby { Some(control::read(&self.instance).await?) } else { None };
        self.clamp(&mut effective, control.as_ref());
        let (instance, rules) = (self.instance.clone(), rules.clone());
        self.write(move || {
            instance.prepare_run_dir()?;
            for name in conf::strip_auto_conf(&instance)? {
                tracing::warn!("{name} was set by ALTER SYSTEM and is ours to set: removed from postgresql.auto.conf");
            }
            conf::write(&instance, &effective)?;
            foreign::restore(&instance)?;
            if !refused || !hba::exists(&instance) {
                hba::write(&instance, &rules)?;
            }
            Ok(())
        })
        .await
    }

    /// A server has started with the files as they are.
    pub async fn started(&self, settings: &Settings) {
        if !self.were_tried(settings) {
            let mut state = self.state();
            state.settings.clear();
            state.tried = Some(settings.parameters.clone());
        }
        let instance = self.instance.clone();
        let remembered = self.write(move || Ok(hba::remember(&instance)?)).await;
        if let Err(error) = remembered {
            tracing::warn!("{error}");
        }
    }

    /// After a start that failed with these last messages: mends the files if they are the reason; true when it is
    /// worth another try.
    pub async fn mend(&self, log: &str, settings: &Settings, rules: &Rules, standby: bool) -> Result<bool, Failure> {
        if log.contains("contains errors") {
            let mut effective = conf::effective(&self.instance, settings)?;
            self.try_out(settings, &mut effective).await?;
            let control = if standby { Some(control::read(&self.instance).await?) } else { None };
            self.clamp(&mut effective, control.as_ref());
            let instance = self.instance.clone();
            return self.write(move || Ok(conf::write(&instance, &effective)?)).await;
        }
        let named = [hba::FILE, hba::IDENT_FILE].into_iter().find(|name| log.contains(name));
        let Some(name) = named.filter(|_| log.contains("could not load")) else { return Ok(false) };
        let instance = self.instance.clone();
        let Some(aside) = self.write(move || Ok(hba::fall_back(&instance, name)?)).await? else { return Ok(false) };
        let error = log.lines().filter(|line| line.contains(name)).map(str::trim).collect::<Vec<_>>().join("; ");
        let file = aside.display().to_string();
        tracing::error!("the rules in {file} are refused, starting without them: {error}");
        let mut state = self.state();
        state.rules = vec![ConfigurationError { file, line: 0, name: None, error }];
        state.refused = Some(rules.clone());
        Ok(true)
    }

    /// Writes everything for a running server and has it load what it accepts.
    pub async fn load(
        &self,
        settings: &Settings,
        rules: &Rules,
        standby: Option<ControlData>,
        sql: &Sql,
    ) -> Result<(), Failure> {
        let mut effective = conf::effective(&self.instance, settings)?;
        if self.were_tried(settings) {
            self.leave_out(settings, &mut effective);
        } else {
            self.try_out(settings, &mut effective).await?;
        }
        // After a promotion, PostgreSQL itself soon tells what waits for a restart.
        if standby.is_some() {
            self.clamp(&mut effective, standby.as_ref());
        }
        let instance = self.instance.clone();
        self.write(move || Ok(conf::write(&instance, &effective)?)).await?;
        if !self.are_refused(rules) {
            let errors = hba::install(&self.instance, rules, sql).await?;
            for error in &errors {
                tracing::error!("PostgreSQL refuses a rule, so the rules before stay: {error}");
            }
            let mut state = self.state();
            state.refused = (!errors.is_empty()).then(|| rules.clone());
            state.rules = errors;
        }
        // Also when nothing was written: an earlier agent may have died between writing and loading.
        Ok(sql.reload().await?)
    }

    /// A standby must not have less than the primary whose WAL it replays.
    fn clamp(&self, effective: &mut BTreeMap<String, String>, standby: Option<&ControlData>) {
        let wanted = effective.clone();
        let raised = standby.map(|control| conf::clamp_for_standby(effective, control)).unwrap_or_default();
        if !raised.is_empty() {
            tracing::info!("kept as high as the primary has them until it was restarted: {}", raised.join(", "));
        }
        let kept = raised.into_iter().filter_map(|name| {
            let (current, new) = (effective.get(name)?.clone(), wanted.get(name).cloned());
            Some(PendingRestart { name: name.to_owned(), current, new })
        });
        self.state().kept = kept.collect();
    }

    /// Files are flushed to disk, which may take long; the loop must not wait for that.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.writing.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        written.await.expect("writing files does not panic and is not aborted")
    }

    fn were_tried(&self, settings: &Settings) -> bool {
        self.state().tried.as_ref() == Some(&settings.parameters)
    }

    fn are_refused(&self, rules: &Rules) -> bool {
        self.state().refused.as_ref() == Some(rules)
    }

    fn leave_out(&self, settings: &Settings, effective: &mut BTreeMap<String, String>) {
        let refused = if self.were_tried(settings) { self.state().settings.clone() } else { Vec::new() };
        for error in &refused {
            effective.remove(error.name.as_deref().unwrap_or_default());
        }
    }

    async fn try_out(&self, settings: &Settings, effective: &mut BTreeMap<String, String>) -> Result<(), Failure> {
        let refused = check::take_out_refused(&self.instance, effective).await?;
        for error in &refused {
            tracing::error!("PostgreSQL refuses a setting, which is left out: {error}");
        }
        let mut state = self.state();
        state.tried = Some(settings.parameters.clone());
        state.settings = refused;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
