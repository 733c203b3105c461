//! `restore` in the store: what was asked for, how far it is, and which line of data counts since.

use std::path::PathBuf;

use matriarch_archive::restore::Wanted;
use matriarch_core::{Incarnation, Lsn, MemberName, Timeline};
use serde::{Deserialize, Serialize};

/// Its key; permanent.
pub const KEY: &str = "restore";

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// The line that data must be of, as its archive names it, since the cluster first went back; data of another line is copied
    /// anew and never led with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// What the data that leads now has taken the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// The newest request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// A data directory that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// On whose host.
    pub member: MemberName,
    /// Where.
    pub path: PathBuf,
    /// The line that it is of.
    pub line: String,
    /// The timeline that it was on.
    pub timeline: Timeline,
    /// Its last checkpoint.
    pub lsn: Lsn,
    /// Since when (RFC 3339).
    pub since: String,
    /// What took its place, in words.
    pub why: String,
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names it, and what is kept for it.
    pub id: String,
    /// What is to be done.
    pub what: What,
    /// How far it is.
    pub phase: Phase,
    /// Who does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
    /// How it stands, or how it ended, in words.
    #[serde(default)]
    pub text: String,
    /// Bytes that are restored.
    #[serde(default)]
    pub done: u64,
    /// Bytes there are, as far as that is known.
    #[serde(default)]
    pub total: u64,
    /// When it was asked for (RFC 3339).
    pub asked: String,
    /// The directories that change places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
}

/// See [`Request::what`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Goes back.
    Restore(Wish),
    /// Puts back what is kept.
    Undo,
    /// Removes what is kept.
    Confirm,
}

/// How far a restore is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The target, as people write it.
    pub to: String,
    /// Timeline to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Backup to begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Incarnation to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Without what only the tail has.
    #[serde(default)]
    pub no_tail: bool,
    /// Other places of tablespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<(String, PathBuf)>,
}

impl Wish {
    /// For the plan.
    ///
    /// # Errors
    /// What is wrong with the target.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let Wish { to, timeline, backup, no_tail, .. } = self.clone();
        Ok(Wanted { target: to.parse()?, timeline, backup, tail: !no_tail })
    }
}

/// See [`Request::phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nobody has taken it on.
    Asked,
    /// Files and WAL are restored beside everything; the cluster goes on.
    Restoring,
    /// PostgreSQL of the leader stops.
    Stopping,
    /// The cluster has gone over; directories change places.
    Replacing,
    /// It is done.
    Done,
    /// It was not done; the cluster is as it was.
    Failed,
}

impl Phase {
    /// Nothing is to be done any more.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Done | Phase::Failed)
    }
}

/// Directories that change places, and the identity of the one that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// To be the data directory.
    pub incoming: PathBuf,
    /// Where the data directory goes.
    pub outgoing: PathBuf,
    /// Of the one that comes: what `sync` names as the leader's.
    pub incarnation: Incarnation,
}

impl InPlace {
    /// The request that is under way.
    pub fn under_way(&self) -> Option<&Request> {
        self.request.as_ref().filter(|request| !request.phase.is_over())
    }

    /// Data of this line counts no more.
    pub fn voids(&self, line: &str) -> bool {
        self.line.as_deref().is_some_and(|counts| counts != line)
    }

    /// What people are to know, if anything.
    pub fn sentence(&self) -> Option<String> {
        if let Some(request) = self.under_way() {
            let by = request.member.as_ref().map(|member| format!(" by {member}")).unwrap_or_default();
            let what = match request.what {
                What::Restore(_) => "A restore in place is under way",
                What::Undo => "A restore in place is being undone",
                What::Confirm => "Data that was kept is being removed",
            };
            return Some(format!("{what}{by}: {}", request.text));
        }
        let kept = self.kept.as_ref()?;
        Some(format!(
            "{}; the data before that is kept on {} in {} ('matriarch restore --confirm' removes it, --undo puts it back)",
            kept.why,
            kept.member,
            kept.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_of_the_line_counts_once_there_is_one() {
        let mut record = InPlace::default();
        assert!(!record.voids("7"));
        record.line = Some("7-20261122T060000Z".to_owned());
        assert!(record.voids("7") && !record.voids("7-20261122T060000Z"));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let wish = Wish { to: "lsn=0/3000148".to_owned(), ..Wish::default() };
        assert!(wish.wanted().is_ok());
        assert!(Wish { to: "yesterday".to_owned(), ..wish.clone() }.wanted().unwrap_err().contains("with its zone"));
        let request = Request {
            id: "1".to_owned(),
            what: What::Restore(wish),
            phase: Phase::Asked,
            member: None,
            text: "asked".to_owned(),
            done: 0,
            total: 0,
            asked: "2026-11-22T06:00:00Z".to_owned(),
            swap: None,
        };
        let record = InPlace { request: Some(request), ..InPlace::default() };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<InPlace>(&text).unwrap(), record);
        assert_eq!(record.sentence().as_deref(), Some("A restore in place is under way: asked"));
    }
}
