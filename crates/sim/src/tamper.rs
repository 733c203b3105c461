//! Ways to take a rule away that the simulator and the model (`crates/model`) share: each changes what `decide` is shown,
//! what it remembers or what it answered, so that one rule has no effect.

use std::collections::BTreeMap;

use matriarch_core::decide::{
    Action, Barrier, Change, ClusterView, Data, Decision, Job, Memory, Millis, Names, Observation, Policy, Purpose,
    Running, Server, decide,
};
use matriarch_core::record::{Pledge, SyncRecord, Versioned, key};
use matriarch_core::rule::Rule;
use matriarch_core::transaction::{Compare, Txn, Write};
use matriarch_core::{Incarnation, Lsn, MemberName, Timeline};

/// Revision of a record that nobody wrote.
pub const INVENTED: u64 = u64::MAX;

/// A barrier counts as soon as a session has seen the new setting.
pub fn settle_barrier(memory: &mut Memory, observation: &Observation) {
    let Some(running) = observation.running() else { return };
    let names = &running.synchronous_standby_names;
    if memory.barrier.as_ref().is_none_or(|barrier| barrier.names != *names) {
        memory.barrier = Some(Barrier { names: names.clone(), since: 0, settled: true, lsn: None });
    }
}

/// The barrier that was passed under the names that are in force, whatever was in force since.
pub fn recall_barrier(memory: &mut Memory, observation: &Observation, passed: &mut BTreeMap<String, Barrier>) {
    if let Some(barrier) = memory.barrier.as_ref().filter(|barrier| barrier.lsn.is_some()) {
        passed.insert(barrier.names.clone(), barrier.clone());
    }
    let Some(running) = observation.running() else { return };
    if let (None, Some(barrier)) = (&memory.barrier, passed.get(&running.synchronous_standby_names)) {
        memory.barrier = Some(barrier.clone());
    }
}

/// A voter that has not pledged is shown as one that did, at no position; [`drop_invented`] belongs to it.
pub fn invent_pledge(view: &mut ClusterView) {
    let Some(sync) = view.sync.as_ref().map(|sync| &sync.value) else { return };
    let pledged = |name| view.pledges.get(name).is_some_and(|pledge| pledge.value.epoch == sync.epoch);
    let missing = sync.rule.voters.iter().find(|(name, _)| !pledged(*name));
    if let Some((name, incarnation)) = missing {
        view.pledges.insert(name.clone(), nothing(sync.epoch, incarnation));
    }
}

/// A pledge that nobody made and that claims nothing.
pub fn nothing(epoch: u64, incarnation: &Incarnation) -> Versioned<Pledge> {
    let value = Pledge { epoch, incarnation: incarnation.clone(), timeline: 0, lsn: Lsn::ZERO, withdrawn: false };
    Versioned { revision: INVENTED, value }
}

/// Nobody is shown to have pledged at more than this member has.
pub fn level_pledges(view: &mut ClusterView, me: &MemberName) {
    let mine = view.pledges.get(me).map(|pledge| (pledge.value.timeline, pledge.value.lsn));
    let Some(mine) = mine else { return };
    for pledge in view.pledges.values_mut() {
        (pledge.value.timeline, pledge.value.lsn) = mine.min((pledge.value.timeline, pledge.value.lsn));
    }
}

/// The stream is shown to have ended.
pub fn hide_stream(server: &mut Server) {
    if let Server::Running(running) = server {
        running.receiving = false;
        running.upstream = None;
        running.caught_up = true;
    }
}

/// PostgreSQL is shown to enforce what was only written, and everybody to have confirmed everything.
pub fn show_as_proved(server: &mut Server, written: &str) {
    if let Server::Running(running) = server {
        running.synchronous_standby_names = written.to_owned();
        let end = running.lsn;
        running.replicas.values_mut().for_each(|flushed| *flushed = end);
    }
}

/// A standby is shown to wait by the rule already, and to follow nobody.
pub fn show_rule_in_force(server: &mut Server, rule: &Rule) {
    if let Server::Running(running @ Running { in_recovery: true, .. }) = server {
        running.upstream = None;
        running.synchronous_standby_names = rule.synchronous_standby_names();
    }
}

/// A primary is shown on the timeline that is reserved, or an earlier one.
pub fn show_as_reserved(observation: &mut Observation, reserved: Timeline) {
    match &mut observation.server {
        Server::Running(running) if !running.in_recovery => running.timeline = running.timeline.min(reserved),
        _ => {}
    }
    if let Data::Ready(facts) = &mut observation.data {
        facts.timeline = facts.timeline.min(reserved);
    }
}

/// A voter is a name only.
pub fn ignore_incarnations(view: &mut ClusterView) {
    let Some(sync) = view.sync.as_mut().map(|sync| &mut sync.value) else { return };
    for (name, pledge) in &view.pledges {
        if let Some(incarnation) = sync.rule.voters.get_mut(name) {
            *incarnation = pledge.value.incarnation.clone();
        }
    }
}

/// A leader that stopped cleanly is shown to hand over to this member, whatever that holds.
pub fn hand_over(sync: &mut SyncRecord, me: &MemberName) {
    if let Some(release) = sync.released.as_mut().filter(|release| release.shutdown_checkpoint.is_some()) {
        release.shutdown_checkpoint = Some(Lsn::ZERO);
        release.candidate = Some(me.clone());
    }
}

/// The pledges of the others are shown as made against the newest epoch.
pub fn refresh_pledges(view: &mut ClusterView, me: &MemberName) {
    let Some(epoch) = view.sync.as_ref().map(|sync| sync.value.epoch) else { return };
    view.pledges.iter_mut().filter(|(name, _)| *name != me).for_each(|(_, pledge)| pledge.value.epoch = epoch);
}

/// Nothing is compared with what was invented.
pub fn drop_invented(decision: &mut Decision) {
    for action in &mut decision.actions {
        if let Action::Commit(change) = action {
            let invented = |compare: &Compare| matches!(compare, Compare::Revision { revision: INVENTED, .. });
            change.txn.compares.retain(|compare| !invented(compare));
        }
    }
}

/// A takeover does not compare this key.
pub fn take_over_uncompared(decision: &mut Decision, unseen: &str) {
    uncompared(decision, Purpose::Takeover, unseen);
}

/// Changes of one purpose do not compare this key.
pub fn uncompared(decision: &mut Decision, purpose: Purpose, unseen: &str) {
    for change in changes(decision, purpose) {
        change.txn.compares.retain(|compare| match compare {
            Compare::Absent { key } | Compare::Revision { key, .. } => key != unseen,
        });
    }
}

/// A pledge is withdrawn without writing `sync` anew, so that its serial number tells nobody.
pub fn withdraw_unnumbered(decision: &mut Decision) {
    for action in &mut decision.actions {
        if let Action::Commit(change) = action
            && change.purpose == Purpose::Withdraw
        {
            change.txn.writes.retain(|write| !writes_sync(write));
        }
    }
}

/// A release says that PostgreSQL stopped cleanly.
pub fn call_clean(decision: &mut Decision) {
    rewrite_sync(decision, Purpose::Release, |next| {
        if let Some(release) = &mut next.released {
            release.shutdown_checkpoint.get_or_insert(Lsn::ZERO);
        }
    });
}

/// Who admits members goes on until `until`, as if it were still alone.
pub fn overlook_newcomers(decision: &mut Decision, until: Millis) {
    let admits = |action: &Action| matches!(action, Action::Commit(change) if change.purpose == Purpose::Membership);
    if decision.actions.iter().any(admits) {
        decision.authority = decision.authority.max(Some(until));
    }
}

/// A leader under the empty rule admits whoever is there, whatever else it decides.
pub fn admit_at_once(decision: &mut Decision, observation: &Observation, me: &MemberName) {
    let Some(view) = &observation.store else { return };
    let Some(sync) = view.sync.as_ref().filter(|sync| sync.value.rule.is_empty()) else { return };
    let leads = view.leader.as_ref().is_some_and(|leader| leader.held && leader.name == *me);
    let joined = view.members.keys().any(|name| !sync.value.membership.contains(name));
    let commits = decision.actions.iter().any(|action| matches!(action, Action::Commit(_)));
    if leads && joined && !commits {
        let mut next = sync.value.clone();
        next.membership.extend(view.members.keys().cloned());
        let change = Change { purpose: Purpose::Membership, txn: Txn::new().rewrite_sync(sync, next) };
        decision.actions.push(Action::Commit(change));
    }
}

/// Who writes the records of a store anew leaves the pledges in it alone.
pub fn keep_old_pledges(decision: &mut Decision) {
    let pledge = |key: &str| key.starts_with("pledges/");
    for action in &mut decision.actions {
        if let Action::Commit(change) = action
            && change.purpose == Purpose::Recreate
        {
            change.txn.writes.retain(|write| match write {
                Write::Put { key, .. } | Write::Delete { key } => !pledge(key),
            });
        }
    }
}

/// Pledges are shown to be on one timeline.
pub fn ignore_timelines(view: &mut ClusterView, me: &MemberName) {
    let Some(mine) = view.pledges.get(me).map(|pledge| pledge.value.timeline) else { return };
    view.pledges.values_mut().for_each(|pledge| pledge.value.timeline = mine);
}

/// A pledge is written whenever it lands.
pub fn pledge_uncompared(decision: &mut Decision) {
    for change in changes(decision, Purpose::Pledge) {
        change.txn.compares.clear();
        change.txn.writes.retain(|write| !writes_sync(write));
    }
}

/// Whoever finds no cluster claims and founds it, whatever the store says by then.
pub fn found_uncompared(decision: &mut Decision) {
    for purpose in [Purpose::Claim, Purpose::Found] {
        changes(decision, purpose).for_each(|change| change.txn.compares.clear());
    }
}

/// The lead of an earlier process is taken over, and what that has sent may still land.
pub fn reclaim_unnumbered(decision: &mut Decision) {
    for change in changes(decision, Purpose::Reclaim) {
        change.txn.writes.retain(|write| !writes_sync(write));
    }
}

/// Records that are written anew have the number that others have seen them with.
pub fn recreate_unnumbered(decision: &mut Decision) {
    rewrite_sync(decision, Purpose::Recreate, |next| next.serial = next.serial.saturating_sub(100));
}

/// The changes of one purpose.
fn changes(decision: &mut Decision, purpose: Purpose) -> impl Iterator<Item = &mut Change> {
    decision.actions.iter_mut().filter_map(move |action| match action {
        Action::Commit(change) if change.purpose == purpose => Some(change),
        _ => None,
    })
}

/// Where a person accepts loss, nobody else is shown to have the data that counts.
pub fn believe_the_word(view: &mut ClusterView, me: &MemberName) {
    if view.failover.as_ref().is_some_and(|request| request.value.accept_data_loss) {
        let others = view.members.iter_mut().filter(|(name, _)| *name != me);
        others.for_each(|(_, member)| member.incarnation = None);
    }
}

/// A takeover leaves all voters out of its rule.
pub fn take_over_asynchronous(decision: &mut Decision) {
    rewrite_sync(decision, Purpose::Takeover, |next| {
        if !next.established {
            next.rule = Rule::default();
        }
    });
}

/// PostgreSQL is to enforce at once what is only being published.
pub fn enforce_unpublished(decision: &mut Decision) {
    let published = decision.actions.iter().find_map(|action| match action {
        Action::Commit(change) if change.purpose == Purpose::Rule => written_sync(&change.txn),
        _ => None,
    });
    let Some(next) = published else { return };
    set_names(decision, &next.rule.synchronous_standby_names());
}

/// Whatever is configured waits for nobody.
pub fn wait_for_nobody(decision: &mut Decision) {
    set_names(decision, "");
}

fn set_names(decision: &mut Decision, names: &str) {
    for action in &mut decision.actions {
        if let Action::Configure(settings) = action {
            settings.synchronous_standby_names = names.to_owned();
        }
    }
}

/// A primary is told of the names that it would have if it waited for nobody yet.
pub fn name_at_once(decision: &mut Decision, policy: &Policy, memory: &Memory, observation: &Observation) {
    let mut shown = observation.clone();
    let Server::Running(running @ Running { in_recovery: false, .. }) = &mut shown.server else { return };
    running.synchronous_standby_names.clear();
    let none = Names { loaded: String::new(), asked: String::new(), since: 0 };
    let memory = Memory { names: memory.names.as_ref().map(|_| none), ..memory.clone() };
    let wanted = decide(policy, &memory, &shown).actions.into_iter().find_map(|action| match action {
        Action::Configure(settings) => Some(settings.synchronous_standby_names),
        _ => None,
    });
    if let Some(names) = wanted {
        set_names(decision, &names);
    }
}

/// What a leader publishes whose PostgreSQL would end with its lease is published by one whose would not.
pub fn publish_at_once(decision: &mut Decision, policy: &Policy, memory: &Memory, observation: &Observation) {
    let mut shown = observation.clone();
    shown.support.clear();
    shown.guarded_until = None;
    let publishes = |action: &Action| matches!(action, Action::Commit(change) if change.purpose == Purpose::Rule);
    let commits = decision.actions.iter().any(|action| matches!(action, Action::Commit(_)));
    if let Some(published) = decide(policy, memory, &shown).actions.into_iter().find(publishes).filter(|_| !commits) {
        decision.actions.push(published);
    }
}

/// A leader is shown a lease for as long as it would go on if it had sent no rule for publication.
pub fn overlook_sent_rules(policy: &Policy, memory: &Memory, observation: &mut Observation) {
    let memory = Memory { proposed: None, announced: None, ..memory.clone() };
    let authority = decide(policy, &memory, observation).authority;
    if let Some(lease) = &mut observation.lease {
        lease.until = lease.until.max(authority.unwrap_or_default());
    }
}

/// Who accepts loss takes the next numbers of what the store says.
pub fn forget_numbers(decision: &mut Decision, observation: &Observation) {
    let sync = observation.store.as_ref().and_then(|view| view.sync.as_ref()).map(|sync| &sync.value);
    let before = sync.map(|sync| sync.accepted_loss.clone());
    let (epoch, timeline) = sync.map_or((0, 1), |sync| (sync.epoch, sync.timeline));
    for purpose in [Purpose::Takeover, Purpose::Found] {
        rewrite_sync(decision, purpose, |next| {
            if next.accepted_loss.is_some() && before.as_ref() != Some(&next.accepted_loss) {
                (next.epoch, next.timeline) = (epoch + 1, timeline + 1);
            }
        });
    }
}

/// On its way to a takeover a member does not end its stream.
pub fn keep_stream(decision: &mut Decision) {
    if ["pledge", "election", "takeover"].iter().any(|start| decision.why.code.starts_with(start)) {
        decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
    }
}

/// A promotion begins with the settings as they are.
pub fn promote_unprepared(decision: &mut Decision) {
    if decision.actions.contains(&Action::Run(Job::Promote)) {
        decision.actions.retain(|action| !matches!(action, Action::Configure(_)));
    }
}

fn writes_sync(write: &Write) -> bool {
    matches!(write, Write::Put { key, .. } if key == key::SYNC)
}

/// The `sync` record that a transaction writes.
fn written_sync(txn: &Txn) -> Option<SyncRecord> {
    txn.writes.iter().find(|write| writes_sync(write)).and_then(|write| match write {
        Write::Put { value, .. } => serde_json::from_str(value).ok(),
        Write::Delete { .. } => None,
    })
}

/// Has the changes of one purpose write another `sync` record.
fn rewrite_sync(decision: &mut Decision, purpose: Purpose, change_record: impl Fn(&mut SyncRecord)) {
    for action in &mut decision.actions {
        if let Action::Commit(change) = action
            && change.purpose == purpose
            && let Some(mut next) = written_sync(&change.txn)
        {
            change_record(&mut next);
            change.txn.writes.retain(|write| !writes_sync(write));
            change.txn = std::mem::take(&mut change.txn).put(key::SYNC, &next);
        }
    }
}
