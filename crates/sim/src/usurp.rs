//! Bugs about a cluster that another program kept, and about data of another cluster: what a member is shown that takes its rules
//! there away.

use matriarch_core::MemberName;
use matriarch_core::decide::{Data, Decision, Observation, Purpose, Server};
use matriarch_core::record::{Role, key};

use crate::mutation::Mutation;
use crate::tamper;

/// Shows `decide` something else than what is.
pub(crate) fn misjudge(mutation: Mutation, me: &MemberName, observation: &mut Observation) {
    let Some(view) = &mut observation.store else { return };
    let Some(cluster) = view.initialize.as_ref().map(|cluster| cluster.value.clone()) else { return };
    if view.sync.is_some() {
        let leader = view.leader.as_ref().map(|leader| leader.name == *me);
        match (mutation, leader) {
            (Mutation::StrayFollows, Some(false)) | (Mutation::StrayElects, None) => {
                mistake_data(&mut observation.data, &cluster)
            }
            _ => {}
        }
        return;
    }
    match mutation {
        Mutation::OlderTimelineAdopts => view.history.clear(),
        Mutation::MembersTimelinesIgnored => view.members.values_mut().for_each(|member| member.timeline = None),
        Mutation::ShorterAdopts => view.optime.0 = 0,
        Mutation::BesidePrimaryAdopts => view.members.values_mut().for_each(|member| member.role = Role::Replica),
        Mutation::StrangersIgnored => view.strangers.clear(),
        Mutation::OthersLeaderIgnored => view.leader = None,
        Mutation::StrayAdopts => mistake_data(&mut observation.data, &cluster),
        Mutation::LostRecordAdopted => {
            view.members.values_mut().for_each(|member| member.epoch = 0);
            view.pledges.clear();
            view.optime_timeline = 0;
        }
        Mutation::UnclaimedAdopts if observation.facts().is_some_and(|facts| facts.unclaimed) => {
            mistake_data(&mut observation.data, &cluster);
        }
        Mutation::ReplicaAdopts => show_as_primary(observation),
        _ => {}
    }
}

/// Does something else than what was decided, when that was to take the cluster over.
pub(crate) fn overrule(mutation: Mutation, decision: &mut Decision) {
    if decision.why.code != "adopt_found" {
        return;
    }
    match mutation {
        Mutation::OthersLeaderIgnored | Mutation::AdoptLeaderUncompared => {
            tamper::uncompared(decision, Purpose::Found, key::LEADER);
        }
        Mutation::AdoptHistoryUncompared => tamper::uncompared(decision, Purpose::Found, key::HISTORY),
        _ => {}
    }
}

/// The directory is shown to be of this cluster.
fn mistake_data(data: &mut Data, cluster: &str) {
    if let Data::Ready(facts) = data {
        cluster.clone_into(&mut facts.system_identifier);
    }
}

/// A replica is shown as what it follows.
fn show_as_primary(observation: &mut Observation) {
    if let Server::Running(running) = &mut observation.server {
        running.in_recovery = false;
    }
    if let Data::Ready(facts) = &mut observation.data {
        facts.standby = false;
    }
}
