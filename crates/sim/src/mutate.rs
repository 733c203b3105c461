//! What the bugs of [`crate::mutation`] do: they change what `decide` is shown or what it answered; `decide` itself stays as
//! it is.

use matriarch_core::MemberName;
use matriarch_core::decide::{
    Action, ClusterView, Decision, Doubt, Job, Millis, Names, Observation, Pulse, Server, Support, Synchronous, Zones,
};
use matriarch_core::record::key;

use crate::agent::Agent;
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::tamper;
use crate::usurp;
use crate::world::World;

impl World {
    /// The guard is part of the bug.
    pub(crate) fn mutes_guard(&self) -> bool {
        matches!(self.setup.mutation, Some(Mutation::DeposedKeepsRunning | Mutation::GuardMissing))
    }

    /// Has members configured otherwise than they were.
    pub(crate) fn mutated(&self, synchronous: Synchronous) -> Synchronous {
        let ignored = self.setup.mutation == Some(Mutation::ZonesIgnored);
        let strict = synchronous.strict && self.setup.mutation != Some(Mutation::StrictShrinks);
        Synchronous { zones: if ignored { Zones::Ignore } else { synchronous.zones }, strict, ..synchronous }
    }

    /// Has `decide` remember something else than it did.
    pub(crate) fn mutate_memory(&mut self, node: NodeId, observation: &Observation) {
        let own = observation.store.as_ref().and_then(|view| view.pledges.get(&self.nodes[node].name));
        let known = own.is_some_and(|own| !own.value.withdrawn);
        let resumes = match self.setup.mutation {
            Some(Mutation::ResumeAfterPledge) => true,
            // It was never heard of, so it is taken not to have been written.
            Some(Mutation::ResumeWithoutWithdrawal) => !known,
            _ => false,
        };
        let Agent { memory, barriers, .. } = &mut self.nodes[node].agent;
        if resumes {
            memory.pledging.doubt = Doubt::Clear;
        }
        if self.setup.mutation == Some(Mutation::ProposalForgotten) {
            memory.proposed = None;
        }
        if self.setup.mutation == Some(Mutation::BarrierOutlivesNames) {
            tamper::recall_barrier(memory, observation, barriers);
        }
        if self.setup.mutation == Some(Mutation::UsedTimelineLeft) {
            memory.timeline_used = 0;
        }
        if let (Some(names), Some(running)) = (&mut memory.names, observation.running()) {
            let loaded = &running.synchronous_standby_names;
            match self.setup.mutation {
                Some(Mutation::NamesInOneStep) => {
                    *names = Names { loaded: loaded.clone(), asked: loaded.clone(), since: 0 };
                }
                Some(Mutation::NamesUnspaced) => *names = Names { loaded: loaded.clone(), since: 0, ..names.clone() },
                _ => {}
            }
        }
        if self.setup.mutation == Some(Mutation::BarrierTooEarly) {
            tamper::settle_barrier(&mut self.nodes[node].agent.memory, observation);
        }
    }

    /// Shows `decide` something else than what is.
    pub(crate) fn mutate_observation(&self, node: NodeId, observation: &mut Observation) {
        let Some(mutation) = self.setup.mutation else { return };
        mutate_ears(mutation, observation, self.setup.ttl);
        if mutation == Mutation::SilencePromises {
            self.have_everybody_promise(node, observation);
        }
        let me = &self.nodes[node].name;
        if mutation == Mutation::SentRuleOverlooked {
            tamper::overlook_sent_rules(&self.policy(node), &self.nodes[node].agent.memory, observation);
        }
        usurp::misjudge(mutation, me, observation);
        let Some(view) = &mut observation.store else { return };
        let (nobody_leads, leads) = (view.leader.is_none(), i_lead(me, view));
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if nobody_leads => tamper::invent_pledge(view),
            Mutation::AnyPledger if nobody_leads => tamper::level_pledges(view, me),
            Mutation::PledgeWhileReceiving if nobody_leads => tamper::hide_stream(&mut observation.server),
            Mutation::PublishBeforeBarrier => {
                let written = &self.nodes[node].settings.synchronous_standby_names;
                tamper::show_as_proved(&mut observation.server, written);
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= nobody_leads;
            }
            Mutation::IncarnationsIgnored if nobody_leads => tamper::ignore_incarnations(view),
            Mutation::PositionBeforeReplay if !leads => self.show_as_replayed(node, &mut observation.server),
            Mutation::NewcomersOverlooked if sync.rule.is_empty() && sync.leader == *me => {
                observation.alive.retain(|name| sync.membership.contains(name));
            }
            Mutation::OutsiderTakesOver if sync.leader != *me => drop(sync.membership.insert(me.clone())),
            Mutation::LossAcceptedTooEarly if nobody_leads => tamper::believe_the_word(view, me),
            Mutation::TimelinesIgnored if !leads => tamper::ignore_timelines(view, me),
            _ => self.mutate_more(mutation, node, observation),
        }
    }

    fn mutate_more(&self, mutation: Mutation, node: NodeId, observation: &mut Observation) {
        let me = &self.nodes[node].name;
        let incarnation = observation.incarnation().cloned();
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let leads = i_lead(me, view);
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::ResumeAfterPledge => {
                // It is counted by others; the member itself has forgotten it once the leader is heard again.
                if matches!(observation.pulse, Pulse::Alive { .. }) {
                    view.pledges.remove(me);
                }
            }
            Mutation::ResumeWithoutWithdrawal => {
                let resumed = self.nodes[node].agent.memory.pledging.doubt == Doubt::Clear;
                if resumed && matches!(observation.pulse, Pulse::Alive { .. }) {
                    view.pledges.remove(me);
                }
            }
            Mutation::WithdrawnPledgesCount => {
                view.pledges
                    .iter_mut()
                    .filter(|(name, _)| *name != me)
                    .for_each(|(_, own)| own.value.withdrawn = false);
            }
            Mutation::SuspectsWithoutRule if sync.rule.is_empty() && sync.leader != *me => {
                if matches!(observation.pulse, Pulse::Suspected { .. }) {
                    view.leader = None;
                }
            }
            Mutation::SuspicionAlone if matches!(observation.pulse, Pulse::Suspected { .. }) => {
                let voters = sync.rule.voters.iter().filter(|(name, _)| *name != me);
                for (name, incarnation) in voters {
                    view.pledges.insert(name.clone(), tamper::nothing(sync.epoch, incarnation));
                }
            }
            Mutation::HandoverUnchecked if !self.nodes[node].nofailover => tamper::hand_over(sync, me),
            Mutation::PromoteBeforeRule if leads => {
                tamper::show_rule_in_force(&mut observation.server, &sync.rule);
            }
            Mutation::LeftTimelineCounts if nobody_leads => view.history.clear(),
            Mutation::StalePledgesCount if nobody_leads => tamper::refresh_pledges(view, me),
            Mutation::UsedTimelineLeft if leads => {
                let reserved = sync.timeline;
                tamper::show_as_reserved(observation, reserved);
            }
            Mutation::LeaderOfOtherData if sync.leader == *me => {
                if let Some(incarnation) = incarnation {
                    sync.incarnation = incarnation;
                }
            }
            _ => {}
        }
    }

    /// A standby that has not streamed since it started is shown at where its replay is, as if that were all it has.
    fn show_as_replayed(&self, node: NodeId, server: &mut Server) {
        let this = &self.nodes[node];
        let (Server::Running(running), Some(dir)) = (server, this.disk.dir()) else { return };
        if !running.in_recovery || running.caught_up || this.pg.received {
            return;
        }
        let replayed = (dir.wal.timeline(this.pg.replayed), dir.wal.end(this.pg.replayed));
        (running.timeline, running.lsn) = replayed.max(dir.checkpoint);
        running.caught_up = true;
    }

    /// Members that say nothing are shown to have promised not to take over.
    fn have_everybody_promise(&self, node: NodeId, observation: &mut Observation) {
        let until = observation.now + self.setup.ttl;
        for other in self.nodes.iter().filter(|other| other.name != self.nodes[node].name) {
            let Some(incarnation) = other.disk.dir().and_then(|dir| dir.incarnation.clone()) else { continue };
            let silent = Support { incarnation, epoch: 0, heard: 0, promised_until: None };
            let support = observation.support.entry(other.name.clone()).or_insert(silent);
            support.promised_until = support.promised_until.max(Some(until));
        }
    }

    /// Does something else than what was decided.
    pub(crate) fn mutate_decision(&self, node: NodeId, observation: &Observation, decision: &mut Decision) {
        let me = &self.nodes[node].name;
        let leads = observation.store.as_ref().is_some_and(|view| i_lead(me, view));
        if let Some(mutation) = self.setup.mutation {
            usurp::overrule(mutation, decision);
        }
        match self.setup.mutation {
            Some(Mutation::NewcomersOverlooked) => tamper::admit_at_once(decision, observation, me),
            Some(Mutation::NamesInOneStep) if leads => {
                tamper::name_at_once(decision, &self.policy(node), &self.nodes[node].agent.memory, observation);
            }
            Some(Mutation::EmptyRuleAtOnce) if leads => {
                tamper::publish_at_once(decision, &self.policy(node), &self.nodes[node].agent.memory, observation);
            }
            Some(Mutation::LossForgetsNumbers) => tamper::forget_numbers(decision, observation),
            Some(Mutation::StandbyWithoutRule) if !leads => tamper::wait_for_nobody(decision),
            Some(Mutation::WithdrawalUnnumbered) => tamper::withdraw_unnumbered(decision),
            Some(Mutation::PledgeUncompared) => tamper::pledge_uncompared(decision),
            Some(Mutation::RecreatedUnnumbered) => tamper::recreate_unnumbered(decision),
            Some(Mutation::FoundUncompared) => tamper::found_uncompared(decision),
            Some(Mutation::ReclaimWithoutRewrite) => tamper::reclaim_unnumbered(decision),
            Some(Mutation::OldPledgesKept) => tamper::keep_old_pledges(decision),
            Some(Mutation::ReturnedVoterUncompared) => {
                self.nodes.iter().for_each(|other| tamper::take_over_uncompared(decision, &key::member(&other.name)));
            }
            Some(Mutation::TakeoverUncompared) => tamper::take_over_uncompared(decision, key::SYNC),
            Some(Mutation::PledgesUncompared) => {
                tamper::withdraw_unnumbered(decision);
                for other in &self.nodes {
                    tamper::take_over_uncompared(decision, &key::pledge(&other.name));
                }
            }
            Some(Mutation::SuspectsWithoutRule) => tamper::take_over_uncompared(decision, key::LEADER),
            Some(Mutation::FenceOneFewer | Mutation::SuspicionAlone) => tamper::drop_invented(decision),
            Some(Mutation::DeposedKeepsRunning) => {
                decision.actions.retain(|action| *action != Action::Run(Job::StopImmediate));
            }
            Some(Mutation::CrashCalledClean) => tamper::call_clean(decision),
            Some(Mutation::EnforceBeforePublish) => tamper::enforce_unpublished(decision),
            Some(Mutation::TakeoverAsynchronous) => tamper::take_over_asynchronous(decision),
            // What a standby waits for is part of the bug: else the rule of the epoch before would be in force.
            Some(Mutation::PromoteBeforeRule)
                if ["promote", "election", "pledge", "takeover", "follow", "connecting", "leader_not", "start_"]
                    .iter()
                    .any(|start| decision.why.code.starts_with(start) && decision.why.code != "start_primary") =>
            {
                tamper::wait_for_nobody(decision);
            }
            Some(Mutation::PledgeWhileReceiving) => tamper::keep_stream(decision),
            _ => {}
        }
    }
}

fn i_lead(me: &MemberName, view: &ClusterView) -> bool {
    view.leader.as_ref().is_some_and(|leader| leader.name == *me)
}

/// Changes what is heard and remembered.
fn mutate_ears(mutation: Mutation, observation: &mut Observation, ttl: Millis) {
    let view = observation.store.as_ref();
    let sync = view.and_then(|view| view.sync.as_ref()).map(|sync| sync.value.clone());
    let initialized = view.is_some_and(|view| view.initialize.is_some());
    match (mutation, sync) {
        (Mutation::AnybodyStandsBy, Some(sync)) => {
            let heard = observation.support.values().map(|support| support.heard).max();
            for (name, incarnation) in sync.rule.voters {
                let Some(heard) = heard else { continue };
                let support = Support { incarnation, epoch: sync.epoch, heard, promised_until: None };
                observation.support.insert(name, support);
            }
        }
        (Mutation::ExpiredLeaseIgnored, Some(sync)) if sync.rule.is_empty() => {
            if let Some(lease) = &mut observation.lease {
                lease.until = observation.now + ttl;
            }
        }
        (Mutation::NobodyCountedOn, Some(sync)) if sync.rule.is_of_nobody() => {
            if let Some(lease) = &mut observation.lease {
                lease.until = observation.now + ttl;
            }
        }
        (Mutation::PromiseIgnored, _) => observation.promised_until = 0,
        (Mutation::OldStoreTrusted, Some(_)) => observation.newest = None,
        (Mutation::SerialIgnored, _) => observation.newest.iter_mut().for_each(|newest| newest.serial = 0),
        (Mutation::WipedStoreFounded, _) if !initialized => observation.newest = None,
        _ => {}
    }
}
