//! Restarts that people ask for: now or later, and only under the conditions they name.

use std::time::Duration;

use matriarch_api::{RestartRequest, ScheduledRestart};
use matriarch_core::decide::{Job, Millis, Server};
use matriarch_dcs::boot_clock_ms;
use serde_json::Value;

use super::Shell;
use crate::event::Reply;

/// What people have asked for.
#[derive(Default)]
pub(super) struct Restarts {
    /// To be done as soon as nothing else is under way, or being done.
    asked: Option<Asked>,
    /// To be done at its time.
    scheduled: Option<Scheduled>,
}

struct Asked {
    reply: Reply,
    /// Routers hold new work meanwhile: decisions say when it begins.
    held: bool,
    /// When whoever asked gives up (boot clock).
    deadline: Option<Millis>,
}

struct Scheduled {
    at: jiff::Timestamp,
    request: RestartRequest,
    /// Start time of the server that was meant: once it was restarted otherwise, the restart is not needed any more.
    server: Option<f64>,
}

impl Restarts {
    /// One is asked for that decisions begin.
    pub fn is_held(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.held)
    }
}

impl Shell {
    pub(super) fn ask_for_restart(&mut self, request: RestartRequest, reply: Reply) {
        if let Some(at) = request.schedule {
            if let Some(scheduled) = &self.restarts.scheduled {
                let text = format!("another restart is already scheduled at {}; cancel it first", scheduled.at);
                return reply.done(Some(text), "");
            }
            let server = self.pg.probe.as_ref().map(|probe| probe.postmaster_start_time);
            self.restarts.scheduled = Some(Scheduled { at, request, server });
            return reply.done(None, &format!("Restart scheduled at {at}"));
        }
        if self.pg.busy().is_some() || self.restarts.asked.is_some() {
            return reply.done(Some("another job is under way; try again when it has ended".to_owned()), "");
        }
        if let Err(reason) = self.restart_matches(&request) {
            return reply.done(Some(format!("restart conditions are not satisfied: {reason}")), "");
        }
        let deadline = request.timeout.map(|timeout| boot_clock_ms() + millis(timeout));
        self.restarts.asked = Some(Asked { reply, held: self.routers_can_hold(), deadline });
    }

    /// Work that comes to this primary through routers can be held by them.
    fn routers_can_hold(&self) -> bool {
        let routers = self.reading.as_ref().is_some_and(|reading| !reading.view.routers.is_empty());
        routers && self.pg.is_primary() && self.leads()
    }

    pub(super) fn cancel_restart(&mut self, reply: Reply) {
        match self.restarts.scheduled.take() {
            Some(_) => reply.done(None, "scheduled restart deleted"),
            None => reply.done(Some("no restart is scheduled".to_owned()), ""),
        }
    }

    /// Begins what is due; returns when to look again.
    pub(super) fn start_restart(&mut self, now: Millis) -> Millis {
        self.begin_scheduled_restart();
        let running = matches!(self.pg.server, Server::Running(_));
        let idle = self.pg.busy().is_none() && !self.stopping;
        let decided = self.restarts.is_held() && self.leads();
        match &self.restarts.asked {
            Some(Asked { deadline: Some(deadline), .. }) if decided && now >= *deadline && self.pg.busy().is_none() => {
                let text = "routers and transactions did not make way for the restart in the time given";
                self.restart_ended(Some(text.to_owned()));
            }
            Some(_) if decided && self.pg.busy().is_none() => {}
            Some(_) if idle && running => self.begin(Job::Restart),
            Some(_) if idle => {
                self.restart_ended(Some("PostgreSQL does not run; it is started by itself when it can be".to_owned()));
            }
            Some(Asked { deadline: Some(deadline), .. }) if now >= *deadline => {
                let text = "the restart was not finished in the time given, and goes on; see 'matriarch list'";
                self.restart_ended(Some(text.to_owned()));
            }
            _ => {}
        }
        let deadline = self.restarts.asked.as_ref().and_then(|asked| asked.deadline);
        let scheduled = self.restarts.scheduled.as_ref().map(|scheduled| now + until(scheduled.at).max(1));
        deadline.into_iter().chain(scheduled).min().unwrap_or(Millis::MAX)
    }

    fn begin_scheduled_restart(&mut self) {
        let idle = self.restarts.asked.is_none() && self.pg.busy().is_none() && !self.stopping && !self.view_is_old;
        let Some(scheduled) = self.restarts.scheduled.take_if(|scheduled| idle && until(scheduled.at) == 0) else {
            return;
        };
        let server = self.pg.probe.as_ref().map(|probe| probe.postmaster_start_time);
        let reason = match self.restart_matches(&scheduled.request) {
            Err(reason) => reason,
            Ok(()) if server != scheduled.server => "PostgreSQL was restarted since it was asked for".to_owned(),
            Ok(()) if self.config.pause => "the cluster is paused".to_owned(),
            Ok(()) => {
                tracing::info!("the restart scheduled at {} begins", scheduled.at);
                let held = self.routers_can_hold();
                self.restarts.asked = Some(Asked { reply: Reply::new().0, held, deadline: None });
                return;
            }
        };
        tracing::warn!("the restart scheduled at {} is not done: {reason}", scheduled.at);
    }

    /// Tells whoever waits for the restart how it ended.
    pub(super) fn restart_ended(&mut self, failure: Option<String>) {
        if let Some(asked) = self.restarts.asked.take() {
            if let Some(failure) = &failure {
                tracing::warn!("{failure}");
            }
            asked.reply.done(failure, "PostgreSQL was restarted");
        }
    }

    fn restart_matches(&self, request: &RestartRequest) -> Result<(), String> {
        let role = if self.pg.is_primary() { "primary" } else { "replica" };
        if let Some(wanted) = request.role.as_deref().filter(|wanted| *wanted != role) {
            return Err(format!("this member is a {role}, not a {wanted}"));
        }
        if let Some(limit) = request.older_than {
            let version = self.pg.sql().map(|sql| sql.server().version_num).ok_or("PostgreSQL does not answer")?;
            if version >= limit {
                return Err(format!("PostgreSQL {version} is not older than {limit}"));
            }
        }
        if request.only_pending && self.pg.pending_restarts().is_empty() {
            return Err("no parameter waits for a restart".to_owned());
        }
        Ok(())
    }

    /// The scheduled restart as others see it.
    pub(super) fn scheduled_restart(&self) -> Option<Value> {
        let Scheduled { at, request, .. } = self.restarts.scheduled.as_ref()?;
        let shown = ScheduledRestart {
            schedule: at.to_string(),
            role: request.role.clone(),
            postgres_version: request.older_than.map(|version| version.to_string()),
            restart_pending: request.only_pending,
        };
        serde_json::to_value(shown).ok()
    }
}

/// Milliseconds until then, at most a minute: the wall clock may jump.
fn until(at: jiff::Timestamp) -> Millis {
    let left = at.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    u64::try_from(left).unwrap_or(0).min(60_000)
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
