//! What PostgreSQL is told: settings, rules, and whom to stream, copy and rewind from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use matriarch_config::{CloneMembers, LocalConfig};
use matriarch_core::MemberName;
use matriarch_core::decide::{Job, Phase, Server, Settings};
use matriarch_core::record::MemberRecord;
use matriarch_postgres::conf::{self, Upstream};
use matriarch_postgres::{Source, hba};

use super::Shell;
use crate::durability::names::with_tails;
use crate::event::Event;
use crate::from_backup;
use crate::jobs::JobContext;

/// Longer than any stop takes.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What was last asked for, and what that meant for PostgreSQL's files.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Configured {
    pub settings: Settings,
    postgres: matriarch_postgres::Settings,
    rules: hba::Rules,
}

impl Shell {
    pub(super) fn job_context(&self, primary: bool) -> JobContext {
        let settings = self.configured.as_ref().map(|configured| configured.settings.clone()).unwrap_or_default();
        let view = self.reading.as_ref().map(|reading| &reading.view);
        let leader = self.leader_name();
        let leader_timeline = leader.and_then(|name| view?.members.get(name)?.timeline).unwrap_or(1);
        JobContext {
            instance: self.pg.instance().clone(),
            log: self.options.postgres_log.clone(),
            settings: self.postgres_settings(&settings),
            rules: self.hba_rules(),
            files: self.pg.files.clone(),
            stop_limit: self.config.stop_timeout().unwrap_or(NO_LIMIT),
            send_limit: self.send_limit(),
            initdb: self.options.initdb.clone(),
            restore: self.options.restore.clone(),
            dump: self.options.dump.clone(),
            leader: leader.and_then(|name| self.source(name, &self.options.rewind_libpq)),
            clone_source: self.clone_source().and_then(|name| self.source(name, &self.options.libpq)),
            from_backup: self.backup_order().map(Arc::new),
            unproved: self.pg.unproved.clone(),
            leader_timeline,
            timelines: self
                .pg
                .probe
                .as_ref()
                .and_then(|probe| Some((probe.timeline, view?.sync.as_ref()?.value.timeline))),
            postmaster: None,
            sql: None,
            slots: self.first_slots(),
            progress: self.pg.progress.clone(),
            primary,
            settle_limit: self.config.switchover_hold_timeout,
            held: view.is_some_and(|view| !view.routers.is_empty()),
            guard: (!self.config.pause).then(|| self.guard_state.clone()),
            settled: self.is_settled(),
            keeps_wal: self.config.archive.is_some(),
        }
    }

    /// Under a rule what was acknowledged is where it must be, and in a switchover new work waits: neither has to wait long
    /// for a standby that stands still.
    fn send_limit(&self) -> Option<Duration> {
        let sync = &self.reading.as_ref()?.view.sync.as_ref()?.value;
        (sync.handover || !sync.rule.is_empty()).then_some(self.config.switchover_hold_timeout)
    }

    /// Nobody works any more, by a switchover or a restart for which routers hold new work.
    fn is_settled(&self) -> bool {
        let switching = self.memory.switching.as_ref().map(|switching| switching.phase);
        let restarting = self.memory.restarting.as_ref().map(|restarting| restarting.phase);
        switching.or(restarting) == Some(Phase::Stopping)
    }

    /// Where a member's PostgreSQL is reached.
    fn source(&self, name: &MemberName, libpq: &BTreeMap<String, String>) -> Option<Source> {
        let member = self.reading.as_ref()?.view.members.get(name)?;
        let (host, port) = member.address()?.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some(Source { options: libpq.clone(), ..Source::new(host, port.parse().ok()?) })
    }

    /// The member that our tag `replicatefrom` names, while it can serve; the leader otherwise.
    fn stream_source<'a>(&'a self, leader: &'a MemberName) -> &'a MemberName {
        let wanted = self.options.tags.get("replicatefrom").and_then(serde_json::Value::as_str);
        let members = self.reading.iter().flat_map(|reading| &reading.view.members);
        let named = members.filter(|(name, _)| Some(name.as_str()) == wanted);
        let healthy =
            named.filter(|(name, record)| *name != self.options.name() && record.follows()).map(|(name, _)| name);
        let others_follow_us = |name: &&MemberName| !self.follows_us(name);
        healthy.into_iter().find(others_follow_us).unwrap_or(leader)
    }

    /// Two members that name each other would wait for each other.
    fn follows_us(&self, name: &MemberName) -> bool {
        let record = self.reading.as_ref().and_then(|reading| reading.view.members.get(name));
        let wanted = record.and_then(|record| record.tags.get("replicatefrom")?.as_str());
        wanted == Some(self.options.name().as_str())
    }

    /// A member tagged `clonefrom`, so that the leader is spared; the leader when there is none, or after a failure.
    fn clone_source(&self) -> Option<&MemberName> {
        let leader = self.leader_name()?;
        let failed = self.pg.finished.as_ref().is_some_and(|done| done.job == Job::Clone && done.failure.is_some());
        let members = self.reading.iter().flat_map(|reading| &reading.view.members);
        let serves = |(name, record): &(&MemberName, &MemberRecord)| {
            *name != self.options.name() && record.tag("clonefrom") && record.follows()
        };
        members.filter(|_| !failed).find(serves).map(|(name, _)| name).or(Some(leader))
    }

    /// The archive that spares the leader.
    fn backup_order(&self) -> Option<from_backup::Order> {
        let section = self.config.archive.clone().filter(|archive| archive.clone == CloneMembers::WhenPossible)?;
        let leader = self.leader_name()?;
        Some(from_backup::Order {
            section,
            scope: self.options.scope.clone(),
            system: self.reading.as_ref()?.view.initialize.as_ref()?.value.clone(),
            leader: self.source(leader, &self.options.rewind_libpq)?,
            stream: self.source(leader, &self.options.libpq)?,
        })
    }

    pub(super) fn hba_rules(&self) -> hba::Rules {
        let (own, shared) = (&self.options, &self.config.postgresql);
        hba::Rules {
            lines: own.pg_hba.clone().unwrap_or_else(|| shared.pg_hba.clone()),
            ident: own.pg_ident.clone().unwrap_or_else(|| shared.pg_ident.clone()),
            require_tls: own.require_tls,
        }
    }

    /// Decisions own who is followed and who must acknowledge; people own the rest.
    fn postgres_settings(&self, settings: &Settings) -> matriarch_postgres::Settings {
        let mut parameters = crate::policy::parameters(&self.config);
        parameters.extend(self.options.parameters.clone());
        crate::policy::archiving(&self.options, &self.config, &mut parameters);
        let from_archive = self.options.from_archive();
        if from_archive {
            crate::policy::from_archive(&mut parameters);
        }
        let upstream = settings.upstream.as_ref().map(|leader| self.stream_source(leader));
        let source = upstream.and_then(|name| self.source(name, &self.options.libpq));
        matriarch_postgres::Settings {
            parameters,
            cluster_name: self.options.scope.clone(),
            upstream: source.map(|source| Upstream {
                source,
                slot: self.config.member_slots().then(|| self.options.name().slot()),
            }),
            incarnation: self.pg.incarnation(),
            synchronous_standby_names: with_tails(&settings.synchronous_standby_names, &self.tail_names()),
            tls: self.options.tls.clone(),
            log_for_program: self.options.stream_postgres_log,
            // What keeps them in step asks the primary.
            sync_slots: !from_archive && crate::policy::sync_slots(&self.config),
            // While paused the agent starts nothing.
            restarts_itself: self.config.pause,
        }
    }

    /// Makes PostgreSQL's settings so, unless they are already; a running server loads them.
    pub(super) fn configure(&mut self, settings: Settings) {
        if self.configuring || self.pg.incarnation().is_none() {
            return;
        }
        let leader = settings.upstream.clone();
        let (postgres, rules) = (self.postgres_settings(&settings), self.hba_rules());
        let wanted = Configured { settings: settings.clone(), postgres, rules };
        let unreachable = leader.is_some() && wanted.postgres.upstream.is_none();
        if unreachable || self.configured.as_ref() == Some(&wanted) {
            return;
        }
        let Configured { postgres, rules, .. } = wanted.clone();
        let conninfo = match conf::effective(self.pg.instance(), &postgres) {
            Ok(effective) => effective.get("primary_conninfo").cloned(),
            Err(error) => {
                tracing::error!("the settings cannot be written: {error}");
                return;
            }
        };
        if let (Some(leader), Some(conninfo)) = (leader, conninfo) {
            // Whoever streams from another replica follows the leader all the same.
            self.pg.names_upstream(conninfo, leader);
        }
        let running = matches!(self.pg.server, Server::Running(_));
        let Some(sql) = self.pg.sql().filter(|_| running && self.pg.busy().is_none()) else {
            // The next start writes them; a server that runs and is not to be had now is asked again.
            if self.pg.server == Server::Stopped {
                self.configured = Some(wanted);
            }
            return;
        };
        self.configured = Some(wanted);
        let upstream = postgres.upstream.is_some();
        self.pg.configuring(upstream);
        self.configuring = true;
        let control = self.pg.control.clone().filter(|_| !self.pg.is_primary());
        let (files, sender) = (self.pg.files.clone(), self.sender.clone());
        tokio::spawn(async move {
            let failure = files.load(&postgres, &rules, control, &sql).await.err().map(|error| error.to_string());
            let _ = sender.send(Event::Configured { upstream, failure });
        });
    }

    /// Reads the local configuration again. Returns what is worth telling, or why it cannot be used.
    pub(super) fn reload_local(&mut self) -> Result<String, String> {
        self.configured = None;
        self.published.member = None;
        if self.options.api_tls.is_some() {
            self.certificates_are_due();
        }
        let Some(file) = &self.options.config_file else { return Ok("the configuration is loaded again".to_owned()) };
        let new = LocalConfig::load(file).map_err(|error| format!("the old local configuration stays: {error}"))?;
        let mut options = (*self.options).clone();
        let old = self.local.replace(new.clone()).unwrap_or_else(|| new.clone());
        let waiting = options.reload(&old, &new);
        self.options = Arc::new(options);
        if waiting.is_empty() {
            return Ok("the configuration is loaded again".to_owned());
        }
        // Still different from what runs, also at the next reload.
        self.local = Some(old);
        Ok(format!("the configuration is loaded again; restart the agent for changes of {}", waiting.join(", ")))
    }
}
