//! Drills: ending a primary that could be spared, as a crash would.

use std::time::Duration;

use matriarch_api::{Blow, BlowBody};
use matriarch_core::decide::Server;
use matriarch_core::rule::application_name;
use matriarch_postgres::process;
use rustix::process::{Signal, getpid, kill_process};

use super::Shell;
use crate::event::Reply;

/// Time for the answer to leave before its sender dies.
const ANSWER: Duration = Duration::from_millis(50);

impl Shell {
    /// The last look before the blow: the person's own bounds were looked at from afar and some time ago.
    pub(super) fn strike(&mut self, body: BlowBody, reply: Reply) {
        if let Err(reason) = self.may_be_struck(body) {
            return reply.done(Some(reason), "");
        }
        match body.blow {
            Blow::Postgres => {
                tracing::warn!("a drill: SIGKILL to the postmaster");
                let failure = self.pg.strike().err();
                reply.done(failure, "the postmaster was killed");
            }
            Blow::Instance => {
                tracing::warn!("a drill: SIGKILL to PostgreSQL and to this agent");
                let data_dir = self.pg.instance().data_dir.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(ANSWER).await;
                    // Nothing of this agent may run between the two, or it would give up the lead as after a crash.
                    if let Err(error) = process::kill_tree(&data_dir, Duration::from_secs(10)) {
                        tracing::error!("{error}");
                    }
                    let _ = kill_process(getpid(), Signal::KILL);
                });
                reply.done(None, "PostgreSQL and the agent are being killed");
            }
        }
    }

    fn may_be_struck(&self, body: BlowBody) -> Result<(), String> {
        let refuse = |reason: String| Err(format!("no drill here: {reason}"));
        let Some(sync) = self.sync().filter(|sync| self.leads() && sync.leader == *self.options.name()) else {
            return refuse("this member does not lead".to_owned());
        };
        if sync.epoch != body.epoch {
            return refuse(format!("it leads in epoch {}, not {}", sync.epoch, body.epoch));
        }
        if self.config.pause {
            return refuse("the cluster is paused, so nobody would take over".to_owned());
        }
        if self.stopping || self.pg.busy().is_some() || !matches!(self.pg.server, Server::Running(_)) {
            return refuse("it is busy, or PostgreSQL does not answer".to_owned());
        }
        if self.reading.as_ref().is_some_and(|reading| reading.view.failover.is_some()) {
            return refuse("a switchover is asked for".to_owned());
        }
        if sync.rule.is_empty() || !sync.established {
            return refuse(format!("the durability rule is {} or not established", sync.rule));
        }
        let rows = self.pg.probe.iter().flat_map(|probe| &probe.replication);
        let streaming: Vec<&str> = rows
            .filter(|row| row.state.as_deref() == Some("streaming"))
            .map(|row| row.application_name.as_str())
            .collect();
        let voters = sync.rule.voters.iter();
        let living = voters.filter(|(name, data)| streaming.contains(&application_name(name, data).as_str())).count();
        let wanted = sync.rule.fence().max((sync.rule.needed + body.spare_voters) as usize);
        if living < wanted {
            return refuse(format!("{living} voters stream, and {wanted} are wanted"));
        }
        if body.blow == Blow::Instance && !self.options.supervised {
            return refuse(
                "nothing is known that would start this agent again (`matriarch up` and systemd do)".to_owned(),
            );
        }
        Ok(())
    }
}
