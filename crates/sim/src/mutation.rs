//! Bugs put in on purpose, to prove that the simulator would notice them. They change what `decide` is shown or what
//! it answered; `decide` itself stays as it is.

use matriarch_core::decide::{Action, Decision, Job, Observation, Server};

use matriarch_core::Lsn;
use matriarch_core::record::{Pledge, Versioned};
use matriarch_core::transaction::Compare;

use crate::node::NodeId;
use crate::world::World;

/// Revision of a pledge that nobody made.
const INVENTED: u64 = u64::MAX;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A takeover counts one pledge fewer than the fence asks for.
    FenceOneFewer,
    /// Any pledger takes over, not only the one with the greatest position.
    AnyPledger,
    /// A pledge is written while WAL is still received.
    PledgeWhileReceiving,
    /// A voter is removed, or one more needed, in the store before PostgreSQL has proved it.
    PublishBeforeBarrier,
    /// The previous rule does not count while the new one is not established.
    PreviousRuleIgnored,
    /// A voter is a name only.
    IncarnationsIgnored,
    /// A deposed primary is not stopped, neither by the agent nor by the guard.
    DeposedKeepsRunning,
}

/// All of them.
pub const MUTATIONS: [Mutation; 7] = [
    Mutation::FenceOneFewer,
    Mutation::AnyPledger,
    Mutation::PledgeWhileReceiving,
    Mutation::PublishBeforeBarrier,
    Mutation::PreviousRuleIgnored,
    Mutation::IncarnationsIgnored,
    Mutation::DeposedKeepsRunning,
];

impl World {
    /// The guard is part of the bug.
    pub(crate) fn mutes_guard(&self) -> bool {
        self.setup.mutation == Some(Mutation::DeposedKeepsRunning)
    }

    /// Shows `decide` something else than what is.
    pub(crate) fn mutate_observation(&self, node: NodeId, observation: &mut Observation) {
        let Some(mutation) = self.setup.mutation else { return };
        let me = &self.nodes[node].name;
        let Some(view) = &mut observation.store else { return };
        let nobody_leads = view.leader.is_none();
        let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
        match mutation {
            Mutation::FenceOneFewer if nobody_leads => {
                let epoch = sync.epoch;
                let pledged = |name| view.pledges.get(name).is_some_and(|pledge| pledge.value.epoch == epoch);
                let missing = sync.rule.voters.iter().find(|(name, _)| !pledged(*name));
                if let Some((name, incarnation)) = missing {
                    let nothing = Pledge { epoch, incarnation: incarnation.clone(), timeline: 0, lsn: Lsn::ZERO };
                    view.pledges.insert(name.clone(), Versioned { revision: INVENTED, value: nothing });
                }
            }
            Mutation::AnyPledger if nobody_leads => {
                let mine = view.pledges.get(me).map(|pledge| (pledge.value.timeline, pledge.value.lsn));
                let Some(mine) = mine else { return };
                for pledge in view.pledges.values_mut() {
                    (pledge.value.timeline, pledge.value.lsn) = mine.min((pledge.value.timeline, pledge.value.lsn));
                }
            }
            Mutation::PledgeWhileReceiving if nobody_leads => {
                if let Server::Running(running) = &mut observation.server {
                    running.receiving = false;
                    running.upstream = None;
                    running.caught_up = true;
                }
            }
            Mutation::PublishBeforeBarrier => {
                if let Server::Running(running) = &mut observation.server {
                    running.synchronous_standby_names = self.nodes[node].settings.synchronous_standby_names.clone();
                    let end = running.lsn;
                    running.replicas.values_mut().for_each(|flushed| *flushed = end);
                }
            }
            Mutation::PreviousRuleIgnored => {
                sync.previous.clear();
                sync.established |= nobody_leads;
            }
            Mutation::IncarnationsIgnored if nobody_leads => {
                for (name, pledge) in &view.pledges {
                    if let Some(incarnation) = sync.rule.voters.get_mut(name) {
                        *incarnation = pledge.value.incarnation.clone();
                    }
                }
            }
            _ => {}
        }
    }

    /// Does something else than what was decided.
    pub(crate) fn mutate_decision(&self, decision: &mut Decision) {
        match self.setup.mutation {
            Some(Mutation::FenceOneFewer) => {
                for action in &mut decision.actions {
                    if let Action::Commit(change) = action {
                        change.txn.compares.retain(
                            |compare| !matches!(compare, Compare::Revision { revision, .. } if *revision == INVENTED),
                        );
                    }
                }
            }
            Some(Mutation::DeposedKeepsRunning) => {
                decision.actions.retain(|action| *action != Action::Run(Job::StopImmediate));
            }
            Some(Mutation::PledgeWhileReceiving)
                if ["pledge", "election", "takeover"].iter().any(|start| decision.why.code.starts_with(start)) =>
            {
                decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
            }
            _ => {}
        }
    }
}
