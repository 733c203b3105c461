//! Does what a decision asks for.

use matriarch_core::decide::{Action, Job, Purpose, Settings};
use matriarch_core::{Lsn, MemberName};
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::conf::{self, Upstream};
use matriarch_postgres::{Source, Sql, hba};

use super::Shell;
use crate::claim;
use crate::event::{Event, Reply, Request};
use crate::jobs::JobContext;

impl Shell {
    pub(super) fn act(&mut self, action: Action, restricted: bool) {
        match action {
            Action::RenewLease => self.storage.renew(),
            Action::Run(Job::StopImmediate) => self.begin(Job::StopImmediate),
            _ if restricted => {}
            Action::Commit(change) => {
                self.storage.commit(change.purpose, change.txn);
            }
            Action::Run(job) => self.begin(job),
            Action::Configure(settings) => self.configure(settings),
            Action::DropLease => {
                self.storage.drop_leader_lease();
                self.view_is_old = true;
                self.storage.read();
            }
        }
    }

    pub(super) fn begin(&mut self, job: Job) {
        let writable = matches!(job, Job::StartPrimary | Job::Promote);
        if writable && !self.guard_is_armed() && !self.config.pause {
            tracing::debug!("{job:?} waits for the guard");
            return;
        }
        let context = self.job_context(job == Job::Restart && self.pg.is_primary());
        tracing::info!("{job:?} begins");
        self.pg.start_job(job, context);
        self.published.member = None;
    }

    /// No primary without a guard that has confirmed the lease's deadline.
    fn guard_is_armed(&self) -> bool {
        let state = *self.guard_state.borrow();
        state.alive && state.deadline > boot_clock_ms()
    }

    fn job_context(&self, primary: bool) -> JobContext {
        let settings = match &self.configured {
            Some((settings, _)) => settings.clone(),
            None => Settings::default(),
        };
        let view = self.reading.as_ref().map(|reading| &reading.view);
        let leader = view.and_then(|view| view.leader.as_ref()).map(|leader| leader.name.clone());
        let leader_timeline = leader.as_ref().and_then(|name| view?.members.get(name)?.timeline).unwrap_or(1);
        JobContext {
            instance: self.pg.instance().clone(),
            log: self.options.postgres_log.clone(),
            settings: self.postgres_settings(&settings),
            rules: self.hba_rules(),
            initdb: self.options.initdb.clone(),
            leader: leader.and_then(|name| self.source(&name)),
            leader_timeline,
            postmaster: None,
            sql: None,
            slots: self.first_slots(),
            progress: self.pg.progress.clone(),
            primary,
        }
    }

    /// Where a member's PostgreSQL is reached.
    fn source(&self, name: &MemberName) -> Option<Source> {
        let member = self.reading.as_ref()?.view.members.get(name)?;
        let (host, port) = member.address()?.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some(Source { options: self.options.libpq.clone(), ..Source::new(host, port.parse().ok()?) })
    }

    pub(super) fn hba_rules(&self) -> hba::Rules {
        hba::Rules { lines: self.config.postgresql.pg_hba.clone(), require_tls: self.options.require_tls }
    }

    /// Decisions own who is followed and who must acknowledge; people own the rest.
    fn postgres_settings(&self, settings: &Settings) -> matriarch_postgres::Settings {
        let mut parameters = crate::policy::parameters(&self.config);
        parameters.extend(self.options.parameters.clone());
        let upstream = settings.upstream.as_ref().and_then(|name| self.source(name));
        matriarch_postgres::Settings {
            parameters,
            cluster_name: self.options.scope.clone(),
            upstream: upstream.map(|source| Upstream {
                source,
                slot: self.config.postgresql.use_slots.then(|| self.options.name().slot()),
            }),
            incarnation: self.pg.incarnation(),
            synchronous_standby_names: settings.synchronous_standby_names.clone(),
            tls: None,
        }
    }

    /// Makes PostgreSQL's settings so, unless they are already; a running server loads them.
    pub(super) fn configure(&mut self, settings: Settings) {
        let wanted = (settings.clone(), self.config_revision);
        if self.configuring || self.configured.as_ref() == Some(&wanted) || self.pg.incarnation().is_none() {
            return;
        }
        if settings.upstream.as_ref().is_some_and(|name| self.source(name).is_none()) {
            return;
        }
        let postgres = self.postgres_settings(&settings);
        self.configured = Some(wanted);
        let instance = self.pg.instance().clone();
        let effective = match conf::effective(&instance, &postgres) {
            Ok(effective) => effective,
            Err(error) => {
                tracing::error!("the settings cannot be written: {error}");
                return;
            }
        };
        if let (Some(name), Some(conninfo)) = (&settings.upstream, effective.get("primary_conninfo")) {
            self.pg.names_upstream(conninfo.clone(), name.clone());
        }
        if self.pg.busy().is_some() || !matches!(self.pg.server, matriarch_core::decide::Server::Running(_)) {
            // The next start writes them.
            return;
        }
        self.configuring = true;
        let (rules, sender, sql) = (self.hba_rules(), self.sender.clone(), self.pg.sql());
        let (standby, control) = (!self.pg.is_primary(), self.pg.control.clone());
        tokio::spawn(async move {
            let written = tokio::task::spawn_blocking(move || {
                let mut effective = effective;
                if let Some(control) = control.filter(|_| standby) {
                    conf::clamp_for_standby(&mut effective, &control);
                }
                conf::write(&instance, &effective).map_err(|error| error.to_string())?;
                hba::write(&instance, &rules).map_err(|error| error.to_string())?;
                Ok::<(), String>(())
            });
            let failure = match written.await {
                // Also when nothing was written: an earlier agent may have died between writing and loading.
                Ok(Ok(())) => reload(sql.as_deref()).await,
                Ok(Err(failure)) => Some(failure),
                Err(error) => Some(error.to_string()),
            };
            let _ = sender.send(Event::Configured { settings, failure });
        });
    }

    pub(super) fn after_commit(&mut self, purpose: Purpose) {
        if purpose == Purpose::Found
            && let Err(error) = claim::clear(self.pg.instance())
        {
            tracing::error!("{error}");
        }
    }

    /// A new primary tells everybody at once, and checkpoints so that others can be rewound to it.
    pub(super) fn after_promotion(&mut self) {
        self.published.member = None;
        let instance = self.pg.instance().clone();
        tokio::spawn(async move {
            let done = async {
                let sql = Sql::connect(&instance).await?;
                sql.checkpoint(std::time::Duration::from_secs(300)).await
            };
            if let Err(error) = done.await {
                tracing::warn!("the checkpoint after the promotion failed: {error}");
            }
        });
    }

    pub(super) fn command(&mut self, command: Request, reply: Reply) {
        match command {
            Request::Restart(request) => self.ask_for_restart(request, reply),
            Request::CancelRestart => self.cancel_restart(reply),
            Request::Reload => {
                self.configured = None;
                reply.done(None, "the configuration is loaded again");
            }
            Request::Reinitialize { .. } if self.leader_name().is_none_or(|leader| leader == self.options.name()) => {
                reply.done(Some("only a replica of a living leader can be reinitialized".to_owned()), "");
            }
            Request::Reinitialize { force } => {
                if force {
                    self.pg.abandon_copy();
                }
                if let Some(job) = self.pg.busy() {
                    let remedy = if force { "" } else { ", or end a copy or rewind with force" };
                    reply.done(Some(format!("{job:?} is under way; wait until it has ended{remedy}")), "");
                    return;
                }
                self.reinit = true;
                reply.done(None, "reinitialization has begun");
            }
            Request::Stop => {
                self.stopping = true;
                reply.done(None, "stopping");
            }
        }
    }

    /// Position shown for this member.
    pub(super) fn position(&self) -> Option<Lsn> {
        self.pg.probe.as_ref().map(|probe| probe.position())
    }
}

async fn reload(sql: Option<&Sql>) -> Option<String> {
    match sql {
        Some(sql) => sql.reload().await.err().map(|error| error.to_string()),
        None => Some("there is no connection to PostgreSQL to have it reload them".to_owned()),
    }
}
