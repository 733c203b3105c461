//! Promotions: which timeline they open, and that they go on without whoever asked for them.

use matriarch_core::decide::Job;

use crate::check::Violation;
use crate::mutation::Mutation;
use crate::scene::Scene;
use crate::setup::member_name;
use crate::state::{Ended, Id, Process, Record, name};

impl Scene<'_> {
    /// A promotion comes to its end, whether or not somebody still waits for it.
    pub fn promoted(&mut self, me: Id) -> bool {
        let pg = &self.state.at(me).pg;
        let Some(timeline) = pg.promoting.filter(|_| pg.process == Process::Standby) else { return false };
        if let Some(from) = self.state.at(me).pg.receiver {
            self.receiver_end(me, true);
            self.note(|| format!("{}: was still streaming from {}", name(me), name(from)));
        }
        let member = self.state.member(me);
        let Some(dir) = &mut member.dir else { return false };
        dir.wal.push(Record { timeline, author: me, commit: 0 });
        dir.checkpoint = (timeline, dir.wal.len() as u64 - 1);
        dir.standby = false;
        let history = dir.history();
        member.pg.promoting = None;
        member.pg.process = Process::Primary;
        if let Some(job) = member.busy.take_if(|job| *job == Job::Promote) {
            member.finished = Some(Ended { job, failed: false });
        }
        self.note(|| format!("{}: promoted on timeline {timeline}", name(me)));
        if self.state.ledger.timelines >> timeline & 1 == 1 {
            self.violate(Violation::TimelineTwice, || format!("timeline {timeline} was opened before"));
        }
        self.state.ledger.timelines |= 1 << timeline;
        let Some(sync) = self.state.sync().cloned() else { return true };
        if sync.leader == member_name(me) && self.state.at(me).pg.led == sync.epoch {
            // The shell publishes where timelines forked.
            self.state.store().history = history;
            self.check_new_leader(me, &sync);
        }
        true
    }

    /// PostgreSQL takes the first number above its own for which it finds no history. The agent writes them for all
    /// numbers below the one that is reserved when it begins; what is reserved later changes nothing any more.
    pub fn begin_promotion(&mut self, me: Id) {
        let member = self.state.at(me);
        let Some(dir) = member.dir.as_ref().filter(|_| member.pg.process == Process::Standby) else { return };
        let reserved = self.state.view(me).sync.as_ref().map_or(0, |sync| sync.value.timeline);
        let next = match self.setup.mutation {
            Some(Mutation::TimelineNotReserved) => dir.timeline() + 1,
            _ => reserved,
        };
        // Files that an earlier promotion left take the number from this one.
        if dir.timeline() >= next || member.pg.promoting.is_some_and(|earlier| earlier > next) {
            self.end_promotion(me);
            return;
        }
        self.note(|| format!("{}: its promotion will open timeline {next}", name(me)));
        self.state.member(me).pg.promoting = Some(next);
    }

    /// The agent no longer waits for a promotion, which goes on if it had begun.
    pub fn end_promotion(&mut self, me: Id) -> bool {
        let member = self.state.member(me);
        let Some(job) = member.busy.take_if(|job| *job == Job::Promote) else { return false };
        member.finished = Some(Ended { job, failed: true });
        self.note(|| format!("{}: the promotion has failed, as far as its agent knows", name(me)));
        true
    }
}
