//! The day everything is broken: a person gives up what the members that are gone alone had acknowledged.
//!
//! Honoured only for the member that was named, while nobody leads, and when no takeover is possible that certainly loses
//! nothing: the ordinary election comes first.

use std::collections::BTreeMap;

use crate::decide::candidates;
use crate::decide::turn::Turn;
use crate::decide::{ClusterView, DataFacts, Job, Pulse, Purpose, Running, Server, Settings, Why};
use crate::lsn::Timeline;
use crate::name::{Incarnation, MemberName};
use crate::record::{AcceptedLoss, FailoverRequest, Role, SyncRecord, Versioned, key};
use crate::rule::Rule;
use crate::transaction::{Life, Txn};

impl<'a> Turn<'a> {
    /// Takes the lead although acknowledged commits may be lost, if a person has accepted that for this member. `missing`:
    /// whose data is missing, in words. Our pledge stands, so our position is exact and nothing is received any more.
    pub(super) fn accept_loss(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        missing: &str,
    ) -> Option<Why> {
        let request = self.accepted_for_us(view)?;
        let running = self.obs.running()?.clone();
        // What was promised, and to whom, the newest record says that we have seen: the store may have gone back since.
        let old = self.overtakes(&sync.value).unwrap_or(&sync.value);
        if let Some(refusal) = self.too_early(view, old, sync.value.epoch) {
            return Some(self.trouble("accept_loss_refused", format!("data loss is not accepted: {refusal}")));
        }
        let incarnation = self.obs.incarnation().cloned()?;
        let mut next = old.clone();
        next.leader = self.policy.me.clone();
        next.incarnation = incarnation;
        next.epoch = old.epoch.max(sync.value.epoch) + 1;
        next.released = None;
        next.handover = false;
        next.rule = self.rule_of_the_living(view, &sync.value, &running);
        next.established = false;
        // What was promised under them has just been given up.
        next.previous.clear();
        next.timeline = newest_timeline(view, old.timeline, &running) + 1;
        let last = match view.optime.0 {
            0 => format!("where {} last stood is not known", old.leader),
            _ => format!("{} was last known at {}", old.leader, view.optime),
        };
        let text = format!("data loss accepted: continued at {}/{}; {last}; {missing}", running.timeline, running.lsn);
        next.accepted_loss = Some(AcceptedLoss { timeline: next.timeline, text: text.clone() });
        let mut txn = Txn::new()
            .absent(key::LEADER)
            .unchanged(key::FAILOVER, request.revision)
            .as_seen(&key::pledge(&self.policy.me), view.pledges.get(&self.policy.me).map(|pledge| pledge.revision));
        // Whoever is away and comes back meanwhile may hold what is given up here.
        let count = std::iter::once(&old.leader).chain(old.rule.voters.keys());
        for name in count.filter(|name| !view.members.contains_key(*name)) {
            txn = txn.absent(&key::member(name));
        }
        let txn = txn
            .delete(key::FAILOVER)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .rewrite_sync(&Versioned { revision: sync.revision, value: old.clone() }, next);
        self.commit(Purpose::Takeover, txn);
        Some(Why::new("takeover_with_loss", text))
    }

    /// The store knows no cluster, and no primary is left that could found it on its data: a replica does, when a person has
    /// named it and accepted what may be lost.
    pub(super) fn found_on_replica(&mut self, view: &ClusterView, facts: &DataFacts) -> Option<Why> {
        let request = self.accepted_for_us(view)?.clone();
        let primary = view.members.iter().find(|(_, member)| member.role == Role::Primary);
        if let Some((name, _)) = primary {
            let text = format!("data loss is not accepted: {name} has a primary's data, and founds the cluster on it");
            return Some(self.trouble("accept_loss_refused", text));
        }
        if !self.policy.may_lead {
            return Some(self.trouble("accept_loss_refused", NOT_ELIGIBLE));
        }
        if let Some(name) = self.holds_what_counts(view) {
            let text = format!(
                "data loss is not accepted: {name} is there with data that counts, which this member's does not: name that one, or stop \
                 its agent first"
            );
            return Some(self.trouble("accept_loss_refused", text));
        }
        self.configure(Settings::default());
        let running = match &self.obs.server {
            Server::Stopped => {
                return Some(self.run(Job::StartStandby, Why::new("start_to_promote", "starting, to be promoted")));
            }
            Server::Running(running) if running.in_recovery => running,
            _ => return Some(Why::new("unready", "PostgreSQL does not answer yet")),
        };
        if running.upstream.is_some() || running.receiving || !running.caught_up {
            self.wake_at(self.obs.now + 20);
            return Some(Why::new(
                "election_replay",
                "replaying the rest of the local WAL, to found the cluster on it",
            ));
        }
        let incarnation = facts.incarnation.clone()?;
        let known = self.obs.newest.as_ref();
        let epochs = view.members.values().map(|member| member.epoch).chain(known.map(|sync| sync.epoch));
        let mut membership = known.map(|sync| sync.membership.clone()).unwrap_or_default();
        membership.extend(view.members.keys().cloned());
        membership.insert(self.policy.me.clone());
        let timeline = newest_timeline(view, known.map_or(0, |sync| sync.timeline), running) + 1;
        let text = format!(
            "data loss accepted: continued at {}/{} with a store that knew no cluster",
            running.timeline, running.lsn
        );
        let record = SyncRecord {
            epoch: epochs.max().unwrap_or(0) + 1,
            serial: known.map_or(0, |sync| sync.serial) + 1,
            membership,
            accepted_loss: Some(AcceptedLoss { timeline, text: text.clone() }),
            ..SyncRecord::first(self.policy.me.clone(), incarnation, timeline)
        };
        let mut txn = Txn::new()
            .absent(key::INITIALIZE)
            .absent(key::LEADER)
            .as_seen(key::SYNC, view.sync.as_ref().map(|sync| sync.revision))
            .unchanged(key::FAILOVER, request.revision)
            .delete(key::FAILOVER)
            .put_text(key::INITIALIZE, facts.system_identifier.clone(), Life::Permanent)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .put(key::SYNC, &record);
        if let Some(config) = &self.policy.bootstrap_config {
            txn = txn.put_text(key::CONFIG, config.clone(), Life::Permanent);
        }
        self.commit(Purpose::Found, txn);
        Some(Why::new("takeover_with_loss", text))
    }

    /// The newest record that we have seen, where the store shows an older one.
    pub(super) fn overtakes(&self, shown: &SyncRecord) -> Option<&'a SyncRecord> {
        let newest = self.obs.newest.as_ref()?;
        ((newest.epoch, newest.serial) > (shown.epoch, shown.serial)).then_some(newest)
    }

    /// The request of a person who has accepted loss on this member, if it is due.
    pub(super) fn accepted_for_us<'v>(&self, view: &'v ClusterView) -> Option<&'v Versioned<FailoverRequest>> {
        let request = view.failover.as_ref().filter(|_| view.failover_due && view.leader.is_none())?;
        let wanted = &request.value;
        let ours =
            wanted.accept_data_loss && wanted.leader.is_none() && wanted.member.as_ref() == Some(&self.policy.me);
        ours.then_some(request)
    }

    /// Why nothing needs to be given up, or not yet. `epoch`: against which members pledge.
    fn too_early(&self, view: &ClusterView, sync: &SyncRecord, epoch: u64) -> Option<String> {
        let leader = &sync.leader;
        if matches!(self.obs.pulse, Pulse::Alive { .. }) {
            return Some(format!("{leader} is heard and may still lead: stop it first"));
        }
        let there =
            view.members.get(leader).is_some_and(|member| member.incarnation.as_ref() == Some(&sync.incarnation));
        if there && *leader != self.policy.me {
            return Some(format!(
                "{leader} led last, and its agent is there with the data it led with, which holds everything: it leads again \
                 once its PostgreSQL starts; if it shall not, stop its agent first"
            ));
        }
        let counts = sync.rule.voters.iter().filter(|(name, _)| **name != self.policy.me);
        let undecided = counts.filter(|(name, data)| {
            let pledged = view
                .pledges
                .get(*name)
                .map(|pledge| &pledge.value)
                .is_some_and(|pledge| pledge.counts_against(epoch) && pledge.incarnation == **data);
            view.members.get(*name).is_some_and(|member| member.incarnation.as_ref() == Some(*data)) && !pledged
        });
        if let Some((name, _)) = undecided.into_iter().next() {
            return Some(format!(
                "the agent of {name} is there with data that counts, and has not said yet how far it reaches: it is tried \
                 again in a moment; if it cannot, stop its agent first"
            ));
        }
        if self.obs.now < self.obs.promised_until {
            return Some(format!("we have just promised {leader} not to take over; it is tried again in a moment"));
        }
        (!self.policy.may_lead).then(|| NOT_ELIGIBLE.to_owned())
    }

    /// Who is there and led last, or voted, when we did neither, as far as we know.
    fn holds_what_counts<'v>(&self, view: &'v ClusterView) -> Option<&'v MemberName> {
        let newest = self.obs.newest.as_ref()?;
        let counts = |name: &MemberName, data: &Incarnation| {
            (&newest.leader, &newest.incarnation) == (name, data) || newest.rule.has(name, data)
        };
        if self.obs.incarnation().is_none_or(|own| counts(&self.policy.me, own)) {
            return None;
        }
        let there =
            view.members.iter().find(|(name, it)| it.incarnation.as_ref().is_some_and(|data| counts(name, data)));
        there.map(|(name, _)| name)
    }

    /// Living members that hold nothing we lack; the others have to be rewound before they can vote.
    fn rule_of_the_living(&self, view: &ClusterView, old: &SyncRecord, running: &Running) -> Rule {
        let wanted = self.policy.synchronous;
        if wanted.needed == 0 || old.membership.len() < wanted.from_members {
            return Rule::default();
        }
        let ours = (running.timeline, running.lsn);
        let voters: BTreeMap<_, _> = view
            .pledges
            .iter()
            .map(|(name, pledge)| (name, &pledge.value))
            .filter(|(name, pledge)| {
                let fit = view.members.get(*name).is_some_and(|it| candidates::may_vote(it, &pledge.incarnation));
                let counts = pledge.counts_against(old.epoch);
                **name != self.policy.me && counts && fit && (pledge.timeline, pledge.lsn) <= ours
            })
            .map(|(name, pledge)| (name.clone(), pledge.incarnation.clone()))
            .collect();
        let needed = if wanted.strict { wanted.needed } else { wanted.needed.min(voters.len() as u32) };
        let rule = Rule { voters, needed, ..Rule::default() };
        if needed == 0 { Rule::default() } else { candidates::in_order(self.policy, view, rule) }
    }
}

const NOT_ELIGIBLE: &str = "this member is tagged as never to be leader: take the tag away and restart its agent first";

/// No timeline that anybody may have opened is opened once more.
fn newest_timeline(view: &ClusterView, reserved: Timeline, running: &Running) -> Timeline {
    let history = view.history.iter().map(|entry| entry.0);
    let members = view.members.values().filter_map(|member| member.timeline);
    let pledges = view.pledges.values().map(|pledge| pledge.value.timeline);
    history.chain(members).chain(pledges).chain([reserved, running.timeline]).max().unwrap_or(reserved)
}
