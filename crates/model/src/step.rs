//! What may happen next.

use std::fmt;
use std::sync::Arc;

use matriarch_core::decide::Job;

use crate::agent::How;
use crate::scene::Scene;
use crate::state::{Id, Process, State, name};
use crate::timers;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// An agent looks, decides and acts; those of its timers that are over, as bits.
    Turn(Id, How, u8),
    /// A watch of an agent is late from now on.
    Lag(Id),
    /// While nobody leads, a person has a member take over, and accepts what that loses.
    Accept(Id),
    /// What an agent sees now is what it will be shown once more.
    Remember(Id),
    /// A leader sends a renewal of its lease, and is not answered at once.
    RenewLate(Id),
    /// The margin of a barrier ends.
    Margin(Id),
    /// A request under way reaches the store.
    Land(u8),
    /// An agent no longer waits for an answer.
    GiveUp(Id),
    /// A job ends.
    JobDone(Id),
    /// A promotion ends.
    Promoted(Id),
    /// Its agent gives up on it before.
    PromotionFails(Id),
    /// A primary that shuts down has ended.
    Ended(Id),
    /// PostgreSQL loads its settings.
    Reload(Id),
    /// Only the postmaster does.
    ReloadPostmaster(Id),
    /// A walsender does.
    ReloadSender(Id, Id),
    /// A standby connects.
    Connect(Id),
    /// A standby receives and flushes a record, and its primary hears of it.
    Stream(Id),
    /// The same, and the primary has not heard of it yet.
    StreamLate(Id),
    /// It hears of it.
    Confirm(Id, Id),
    /// A walreceiver ends because of new settings.
    ReceiverEnd(Id),
    /// A client commits.
    Write(Id),
    /// The leader's lease ends in the store.
    Expire,
    /// A tick of the clock.
    Tick,
    /// A member promises the leader that asks for it not to take over.
    Promise(Id),
    /// The store no longer answers a leader.
    Away(Id),
    /// It does again.
    Back(Id),
    /// PostgreSQL dies.
    Crash(Id),
    /// The agent ends and starts again.
    Restart(Id),
    /// The data directory is lost.
    Wipe(Id),
    /// It is replaced by an old backup.
    Backup(Id),
    /// A stream breaks.
    Cut(Id),
    /// A member begins to suspect the leader.
    Suspect(Id),
    /// It hears the leader again.
    Relief(Id),
    /// The agent is asked to stop.
    Stop(Id),
    /// The store's content is saved.
    Save,
    /// It comes back with that.
    Restore,
}

/// Every step that might be possible.
pub fn candidates(state: &State, clocked: bool, steps: &mut Vec<Step>) {
    let left = &state.left;
    let spend = |count: u8, step: Step| (count > 0).then_some(step);
    for id in state.ids() {
        let member = state.at(id);
        let process = member.pg.process;
        turns(state, id, steps);
        steps.push(Step::Margin(id));
        if member.lease.is_some() {
            steps.extend(spend(left.renewals, Step::RenewLate(id)));
        }
        if member.view.is_none() {
            steps.extend(spend(left.delays, Step::Lag(id)));
            if member.relapse.is_none() {
                steps.extend(spend(left.relapses, Step::Remember(id)));
            }
        }
        if member.busy.is_some() {
            steps.push(Step::JobDone(id));
        }
        if member.pg.promoting.is_some() {
            steps.push(Step::Promoted(id));
        }
        if member.busy == Some(Job::Promote) {
            steps.extend(spend(left.delays, Step::PromotionFails(id)));
        }
        match process {
            Process::Standby => {
                steps.extend([Step::Connect(id), Step::Stream(id), Step::ReceiverEnd(id)]);
                steps.extend(spend(left.delays, Step::StreamLate(id)));
                steps.extend(spend(left.cuts, Step::Cut(id)));
            }
            Process::Primary => steps.extend(spend(left.writes, Step::Write(id))),
            Process::Stopping => steps.push(Step::Ended(id)),
            Process::Stopped => {}
        }
        if process != Process::Stopped {
            steps.extend(spend(left.crashes, Step::Crash(id)));
            if member.pg.loaded != member.file {
                steps.extend([Step::Reload(id), Step::ReloadPostmaster(id)]);
            }
        }
        for sender in &member.pg.senders {
            if sender.confirmed < sender.under_way {
                steps.push(Step::Confirm(id, sender.to));
            }
            if sender.names != member.pg.loaded.names {
                steps.push(Step::ReloadSender(id, sender.to));
            }
        }
        if member.away {
            steps.push(Step::Back(id));
        } else if member.lease.is_some() {
            steps.extend(spend(left.outages, Step::Away(id)));
        }
        if state.records.leader.is_none() && state.records.failover.is_none() {
            steps.extend(spend(left.overrides, Step::Accept(id)));
        }
        steps.extend(spend(left.restarts, Step::Restart(id)));
        steps.extend(spend(left.wipes, Step::Wipe(id)));
        steps.extend(spend(left.backups, Step::Backup(id)));
        steps.extend(spend(left.stops, Step::Stop(id)));
        if member.suspects {
            steps.push(Step::Relief(id));
        } else {
            steps.extend(spend(left.suspicions, Step::Suspect(id)));
        }
    }
    for (place, request) in state.flight.iter().enumerate() {
        steps.push(Step::Land(place as u8));
        if request.awaited {
            steps.push(Step::GiveUp(request.from));
        }
    }
    if clocked {
        steps.push(Step::Tick);
        steps.extend(state.ids().map(Step::Promise));
    }
    if state.records.leader.as_ref().is_some_and(|leader| !clocked || leader.left == 0) && left.expiries > 0 {
        steps.push(Step::Expire);
    }
    if left.restores > 0 {
        steps.push(if state.saved.is_some() { Step::Restore } else { Step::Save });
    }
}

/// Every way in which an agent may take its turn.
fn turns(state: &State, id: Id, steps: &mut Vec<Step>) {
    let member = state.at(id);
    let mut all = |how, view| (0..timers::ways(state, id, view)).for_each(|over| steps.push(Step::Turn(id, how, over)));
    if let Some(view) = &member.view {
        all(How::Stale, view);
        return;
    }
    all(How::Prompt, &state.records);
    if state.left.delays > 0 {
        all(How::Late, &state.records);
        all(How::Lagging, &state.records);
    }
    if let Some(view) = &member.relapse {
        all(How::Stale, view);
    }
}

impl Scene<'_> {
    /// Takes a step; false when it is not possible, or would change nothing.
    pub fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Turn(id, how, over) => {
                let done = self.turn(id, how, over);
                self.state.left.delays -= u8::from(matches!(how, How::Late | How::Lagging) && done);
                done
            }
            Step::Lag(id) => {
                self.state.left.delays -= 1;
                self.note(|| format!("{}: its watch is late", name(id)));
                self.state.member(id).view = Some(self.state.records.clone());
                true
            }
            Step::Remember(id) => {
                self.state.left.relapses -= 1;
                self.note(|| format!("{}: will be shown this once more", name(id)));
                let records = self.state.records.clone();
                let member = self.state.member(id);
                member.newest = records.sync.as_ref().map(|sync| sync.value.clone());
                member.relapse = Some(records);
                true
            }
            Step::RenewLate(id) => {
                self.state.left.renewals -= 1;
                self.renew_lease(id, How::Late)
            }
            Step::Margin(id) => self.margin(id),
            Step::Land(place) => {
                let request = Arc::unwrap_or_clone(self.state.flight.remove(place as usize));
                match (request.compares.is_empty(), request.answered) {
                    (true, false) => self.renew(request),
                    (true, true) => self.renewed(&request),
                    _ => self.land(request),
                }
                true
            }
            Step::GiveUp(id) => self.give_up(id),
            Step::JobDone(id) => self.finish_job(id),
            Step::Promoted(id) => self.promoted(id),
            Step::PromotionFails(id) => {
                self.state.left.delays -= 1;
                self.end_promotion(id)
            }
            Step::Ended(id) => self.ended(id),
            Step::Reload(id) => self.reload(id, true),
            Step::ReloadPostmaster(id) => self.reload(id, false),
            Step::ReloadSender(id, to) => self.sender_reload(id, to),
            Step::Connect(id) => self.connect(id),
            Step::Stream(id) => self.stream(id, false),
            Step::StreamLate(id) => {
                self.state.left.delays -= 1;
                self.stream(id, true)
            }
            Step::Confirm(id, from) => self.confirm(id, from),
            Step::ReceiverEnd(id) => self.receiver_end(id, false),
            Step::Write(id) => {
                self.state.left.writes -= 1;
                self.write(id)
            }
            Step::Tick => self.tick(),
            Step::Promise(id) => self.promise(id),
            _ => self.fault(step),
        }
    }

    fn fault(&mut self, step: Step) -> bool {
        let left = &mut self.state.left;
        match step {
            Step::Expire => {
                left.expiries -= 1;
                self.expire();
            }
            Step::Crash(id) => {
                left.crashes -= 1;
                self.note(|| format!("{}: PostgreSQL dies", name(id)));
                self.kill_postgres(id);
            }
            Step::Away(id) => {
                left.outages -= 1;
                self.note(|| format!("{}: the store does not answer it", name(id)));
                let records = self.state.records.clone();
                let member = self.state.member(id);
                member.away = true;
                member.view.get_or_insert(records);
            }
            Step::Back(id) => {
                self.note(|| format!("{}: the store answers it again", name(id)));
                let records = self.state.records.clone();
                let member = self.state.member(id);
                member.away = false;
                member.look(&records);
            }
            Step::Accept(id) => {
                left.overrides -= 1;
                self.accept_loss(id);
            }
            Step::Restart(id) => {
                left.restarts -= 1;
                self.restart_agent(id);
            }
            Step::Wipe(id) => {
                left.wipes -= 1;
                return self.wipe(id);
            }
            Step::Backup(id) => {
                left.backups -= 1;
                return self.restore_backup(id);
            }
            Step::Cut(id) => {
                left.cuts -= 1;
                return self.receiver_end(id, true);
            }
            Step::Suspect(id) => {
                let leads = self.state.view(id).leads().is_none_or(|leader| leader == id);
                if leads {
                    return false;
                }
                self.state.left.suspicions -= 1;
                self.note(|| format!("{}: suspects the leader", name(id)));
                self.state.member(id).suspects = true;
            }
            Step::Relief(id) => {
                self.note(|| format!("{}: hears the leader again", name(id)));
                self.state.member(id).suspects = false;
            }
            Step::Stop(id) => {
                left.stops -= 1;
                self.note(|| format!("{}: its agent is asked to stop", name(id)));
                self.state.member(id).stopping = true;
            }
            Step::Save => self.state.saved = Some(self.state.records.clone()),
            Step::Restore => {
                left.restores -= 1;
                let saved = self.state.saved.take().expect("something was saved");
                self.restore(saved);
            }
            _ => return false,
        }
        true
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Turn(id, how, 0) => write!(f, "{}'s agent takes a turn ({how:?})", name(*id)),
            Step::Turn(id, how, over) => {
                write!(f, "{}'s agent takes a turn ({how:?}), timers over: {over:b}", name(*id))
            }
            Step::Land(place) => write!(f, "request {place} reaches the store"),
            other => write!(f, "{other:?}"),
        }
    }
}
