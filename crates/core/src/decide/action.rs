//! What a decision asks the shell to do, and why.

use std::fmt;

use crate::decide::observation::{Job, Millis};
use crate::name::MemberName;
use crate::transaction::Txn;

/// One thing to do. The shell does them in order, never blocks on one, and decides again when one ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Renew the leader lease; the answer counts from the moment of sending.
    RenewLease,
    /// Change the store, all or nothing.
    Commit(Change),
    /// Start a job; only when none is under way.
    Run(Job),
    /// Make PostgreSQL's settings so, durably, and have a running PostgreSQL load them.
    Configure(Settings),
    /// Forget the leader lease (it is revoked in the store as well).
    DropLease,
    /// Tell whoever asked for a restart why it is not done.
    RefuseRestart(String),
}

/// A transaction with the name of its purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For logs and for the shell's book-keeping.
    pub purpose: Purpose,
    /// The transaction.
    pub txn: Txn,
}

/// Why the store is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Claim the right to run initdb.
    Claim,
    /// Announce the new cluster and lead it.
    Found,
    /// Take the lead in a new epoch.
    Takeover,
    /// Bind our own leader key to the lease of this process.
    Reclaim,
    /// Give up the lead.
    Release,
    /// State that we stopped receiving.
    Pledge,
    /// Take that back, and void what is under way of it.
    Withdraw,
    /// Publish a rule, that it is established, or another timeline for its epoch.
    Rule,
    /// Announce or call off a planned switchover.
    Handover,
    /// Write the records of the newest epoch into a store that has lost them.
    Recreate,
    /// Publish where timelines forked.
    History,
    /// Note who belongs to the cluster.
    Membership,
}

/// The part of PostgreSQL's configuration that decisions own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whom to stream from; nobody when none.
    pub upstream: Option<MemberName>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
}

/// The reason for a decision: one value for the log line, the metric label, the API and the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Short, stable, for machines: `election_waits_for_pledges`.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

impl Why {
    /// The member has to change its data, and a rule counts on that.
    pub const STILL_A_VOTER: &str = "still_a_voter";

    /// A reason with its text.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Why { code, text: text.into() }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What this member tells the others directly about where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stance {
    /// Nothing that anybody could rely on: not a member yet, in an election, pledged, or about to pledge.
    #[default]
    Neutral,
    /// It follows the leader of this epoch and has not pledged against it.
    Follows {
        /// The epoch.
        epoch: u64,
    },
    /// It leads in this epoch, and its PostgreSQL may be written to.
    Leads {
        /// The epoch.
        epoch: u64,
    },
}

/// What to do now, what to remember, and when to look again at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In order.
    pub actions: Vec<Action>,
    /// To be handed to the next call.
    pub memory: super::Memory,
    /// Look again at this time even if nothing happens.
    pub next_wake: Millis,
    /// The reason.
    pub why: Why,
    /// What stands in the way of this member, for the member record.
    pub problem: Option<String>,
    /// What other members are told.
    pub stance: Stance,
    /// PostgreSQL may be writable until then, and the guard ends it afterwards; it may also come down again: the end of the lease, or later while enough
    /// members stand by this leader. None when this member does not lead.
    pub authority: Option<Millis>,
    /// The lease cannot be renewed and the rule is empty: the others are to be asked to promise not to take over.
    pub asks_promise: bool,
}
