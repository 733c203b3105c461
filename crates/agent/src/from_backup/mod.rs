//! A member's data from the newest backup of its cluster instead of from another member (`archive.clone`).
//!
//! ```text
//! what is the leader? ── a backup that fits, WAL after it ── what was left goes on, or is swept ── room?
//!   ── restore beside the data directory's place, WAL put there
//!   ── PostgreSQL replays it by itself, promotes nothing ── what was archived meanwhile? ── has the leader all that follows?
//!   ── into its place, a standby with an incarnation of its own
//! ```
//! The leader is asked for two short answers, and nothing is read of its data. Whatever does not fit ends with the reason, and
//! nothing is in the directory's place then: the member is copied from another one, unless it is room that is missing, which it
//! would be for that as well. What was cut off before all files were there goes on with the next try. Only complete segments are
//! used, and only those that the leader's history shares. It has a thread of its own, as every restore ([`restored::apart`]).

mod fits;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use matriarch_archive::archive::{Archive, ArchiveError};
use matriarch_archive::base::{self, Summary};
use matriarch_archive::configured::{Configured, Identity, ORIGIN, Own};
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_archive::restore::{self, AtTarget, Held, History, Options, Plan, RestoreError, Switch, Target, Took};
use matriarch_archive::wal::{self, Segment, WalName};
use matriarch_core::Lsn;
use matriarch_postgres::clone::{self, CloneProgress};
use matriarch_postgres::leader::{self, Leader};
use matriarch_postgres::{Instance, Source, history, restored as recovered};
use tokio::sync::watch;

use self::fits::Wanted;
use crate::restored::{self, Failed, Ground, NoRoom, PATIENCE, WORKERS, Whose};

/// So many segments are left to the member's own start: what it replays there must be done before it is held to be stuck.
const LEFT: usize = 4;
/// How often replay is begun again for what was archived meanwhile, and how often the leader is asked whether it goes on.
const ROUNDS: u32 = 20;
/// Before it is asked again, or a gap is looked at again: segments are archived several at a time.
const PAUSE: Duration = Duration::from_secs(2);
const LOOKS: u32 = 3;

/// Which archive may stand in for a leader.
#[derive(Clone, Debug)]
pub struct Order {
    /// The archive.
    pub section: matriarch_config::Archive,
    /// Name of the cluster.
    pub scope: String,
    /// The cluster's system identifier.
    pub system: String,
    /// The leader, as pg_rewind reaches it.
    pub leader: Source,
    /// The leader, as a replica reaches it.
    pub stream: Source,
}

/// Why there is no copy from the archive, in words.
#[derive(Debug)]
pub enum Unserved {
    /// The archive does not serve; another member may.
    Archive(String),
    /// There is no room for the data, wherever it comes from.
    Room(String),
}

impl<E: std::fmt::Display> From<E> for Unserved {
    fn from(error: E) -> Unserved {
        Unserved::Archive(error.to_string())
    }
}

/// Puts a copy that comes from the archive in the data directory's place; says what it is.
///
/// # Errors
/// Why it cannot be. The data directory is as before then.
pub async fn perform(
    instance: &Arc<Instance>,
    order: &Arc<Order>,
    log: &Path,
    progress: &Arc<watch::Sender<CloneProgress>>,
) -> Result<String, Unserved> {
    let copy =
        Copying { instance: instance.clone(), order: order.clone(), log: log.to_owned(), progress: progress.clone() };
    let answer = restored::apart(move || async move {
        match copy.build().await {
            Ok(built) => Ok(Ok(built)),
            Err(error) => error.downcast::<NoRoom>().map(|missing| Err(*missing)),
        }
    })?;
    let (dir, text) = match answer.await.unwrap_or_else(|_| Err("its thread ended".to_owned()))? {
        Ok(built) => built,
        // A copy of a member brings less WAL along.
        Err(missing) if missing.files_fit => return Err(missing.into()),
        Err(missing) => return Err(Unserved::Room(missing.to_string())),
    };
    clone::place(instance, &dir).await?;
    restored::settle(&instance.data_dir)?;
    Ok(text)
}

struct Copying {
    instance: Arc<Instance>,
    order: Arc<Order>,
    log: PathBuf,
    progress: Arc<watch::Sender<CloneProgress>>,
}

/// A backup that serves.
struct Found {
    archive: Archive,
    plan: Plan,
    wanted: restore::Wanted,
    /// The complete segments that are used.
    segments: Vec<Segment>,
}

impl Copying {
    async fn build(&self) -> Result<(PathBuf, String), Failed> {
        let configured = Configured::new(&self.order.section, &self.order.scope, PATIENCE)?;
        if !configured.is_readable() {
            let key = "archive.encryption.identity_file";
            let text = match &self.order.section.encryption.identity_file {
                Some(file) => format!("its private key is not on this host: there is no {} ({key})", file.display()),
                None => format!("{key} is not set"),
            };
            return Err(format!("the archive is encrypted, and {text}").into());
        }
        let leader = self.ask().await?;
        let history = self.history(&leader).await?;
        let left = clone::left(&self.instance, restore::is_unfinished).await?;
        let begun = left.and_then(|dir| restore::begun(&dir));
        let mut found = self.find(&configured, &leader, &history, begun.as_deref()).await?;
        restored::fits(&self.instance, &found.plan.summary)?;
        let dir = self.restore(&found, leader.segment_size).await?;
        self.settings(&dir)?;
        if leader.timeline > 1 {
            // Without a gap between the histories PostgreSQL finds the newest one.
            history::reserve(&self.built(&dir), leader.timeline, leader.timeline + 1)?;
        }
        let end = self.catch_up(&mut found, &leader, &dir).await?;
        let (backup, ended) = (&found.plan.summary.backup, found.plan.summary.stop_time);
        let repository = found.archive.repository().name();
        let text = format!("from backup {backup} in {repository}, which ended at {ended}, and its WAL up to {end}");
        Ok((dir, text))
    }

    async fn ask(&self) -> Result<Leader, Failed> {
        Ok(leader::ask(&self.instance, &self.order.leader, ORIGIN).await?)
    }

    async fn history(&self, leader: &Leader) -> Result<History, Failed> {
        let told = history::fetch(&self.instance, &self.order.stream, leader.timeline).await?;
        let switch = |ancestor: &history::Ancestor| Switch { timeline: ancestor.timeline, lsn: ancestor.switch_lsn };
        Ok(History { timeline: told.timeline, switches: told.ancestors.iter().map(switch).collect() })
    }

    fn built(&self, dir: &Path) -> Instance {
        Instance { data_dir: dir.to_owned(), ..(*self.instance).clone() }
    }

    /// The newest backup that serves, in the first repository that has one; before it, the one whose restore was begun.
    async fn find(
        &self,
        configured: &Configured,
        leader: &Leader,
        history: &History,
        begun: Option<&str>,
    ) -> Result<Found, Failed> {
        let identity = Identity {
            system_identifier: self.order.system.parse()?,
            major: self.instance.binaries.version().major,
            segment_size: leader.segment_size,
        };
        let own = Own::told(leader.file.as_deref(), identity)?;
        let age = SignedDuration::try_from(self.order.section.clone_max_age)?;
        let wanted = Wanted {
            leader,
            history,
            system: &self.order.system,
            major: identity.major,
            oldest: Timestamp::now().checked_sub(age)?,
        };
        let mut refused: Option<Failed> = None;
        for repository in configured.repositories().await {
            let found = async { self.find_in(configured, &repository?, (&own.name, begun), &wanted).await };
            match found.await {
                Ok(found) => return Ok(found),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| "the archive has no repository".into()))
    }

    async fn find_in(
        &self,
        configured: &Configured,
        repository: &Repository,
        (incarnation, begun): (&str, Option<&str>),
        wanted: &Wanted<'_>,
    ) -> Result<Found, Failed> {
        let archive = match configured.open(repository, incarnation).await {
            Err(ArchiveError::Repository(error)) if error.is_absent() => {
                return Err(format!("{} holds nothing of incarnation {incarnation}", repository.name()).into());
            }
            opened => opened?,
        };
        if archive.incarnation().segment_size != wanted.leader.segment_size {
            return Err(format!("{}: its segments of WAL have another size", repository.name()).into());
        }
        let mut refused: Option<Failed> = None;
        let mut backups = base::list(&archive).await?;
        backups.sort_by_key(|backup| begun == Some(backup.backup.as_str()));
        for backup in backups.iter().rev() {
            let found = match wanted.refuses(backup) {
                Some(why) => Err(why.into()),
                None => self.plan(&archive, backup, wanted).await,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| format!("{} holds no backup of this cluster", repository.name()).into()))
    }

    async fn plan(&self, archive: &Archive, backup: &Summary, wanted: &Wanted<'_>) -> Result<Found, Failed> {
        let asked = restore::Wanted {
            timeline: Some(wanted.leader.timeline),
            backup: Some(backup.backup.clone()),
            tail: false,
            ..restore::Wanted::new(Target::Latest)
        };
        let mut plan = continuous(archive, &asked).await?;
        if !fits::agree(&plan.history, wanted.history, backup.timeline) {
            let text =
                format!("the archive and the leader tell another history of timeline {}", wanted.leader.timeline);
            return Err(text.into());
        }
        let segments = wanted.shared(&plan.complete, backup)?;
        let size = wanted.leader.segment_size;
        let much = segments.len() as u64 * size;
        if fits::is_much(much, backup) {
            return Err(format!("{much} bytes of WAL follow backup {}, more than its files", backup.backup).into());
        }
        plan.complete = segments.clone();
        restore::check(archive, &plan).await?;
        Ok(Found { archive: archive.clone(), plan, wanted: asked, segments })
    }

    /// Where the files are, and the WAL.
    async fn restore(&self, found: &Found, segment: u64) -> Result<PathBuf, Failed> {
        let plan = &found.plan;
        let spaces = plan.summary.tablespaces.iter().map(|space| (space.oid, PathBuf::from(&space.path))).collect();
        let ground = Ground { instance: &self.instance, plan, segment, spaces: &spaces, whose: Whose::Member };
        let options = |dir: &Path| {
            Ok(Options {
                data: dir.to_owned(),
                tablespaces: BTreeMap::new(),
                restore_command: String::new(),
                place_wal: true,
                files: Vec::new(),
                at_target: AtTarget::Shutdown,
                owner: self.instance.owner.as_ref().map(|owner| (owner.uid, owner.gid)),
                workers: WORKERS,
                progress: Progress::default(),
            })
        };
        let shown = |progress: &Progress| {
            self.progress.send_replace(CloneProgress { done: progress.done(), total: progress.total() });
        };
        let held = Held::Archive(Box::new(found.archive.clone()));
        let (dir, Took { files, wal, there, fetched }) = ground.fill(&held, options, shown).await?;
        tracing::info!(?files, ?wal, there, fetched, "a backup is copied: PostgreSQL replays the WAL after it now");
        Ok(dir)
    }

    /// Without the lines that a restore leaves for whoever starts it by hand.
    fn settings(&self, dir: &Path) -> Result<(), Failed> {
        let name = "postgresql.auto.conf";
        let text = restore::without_ours(&std::fs::read_to_string(dir.join(name))?);
        Ok(recovered::write(&self.instance, dir, name, text.as_bytes())?)
    }

    /// Replays, takes what was archived meanwhile, and again, until the leader has everything that follows. Where that begins.
    async fn catch_up(&self, found: &mut Found, before: &Leader, dir: &Path) -> Result<Lsn, Failed> {
        let size = before.segment_size;
        let mut replayed = 0;
        for round in 0..ROUNDS {
            let left = if round == 0 { 0 } else { LEFT };
            if found.segments.len() > replayed + left {
                let until = fits::target(&found.segments, size, &found.plan.summary);
                recovered::replay(&self.instance, dir, until, before.timeline, &self.log).await?;
                replayed = found.segments.len();
            }
            // Segments are archived several at a time, so there may be a gap for a moment.
            let complete = restore::plan(&found.archive, &found.wanted).await.map(|plan| plan.complete);
            let leader = self.ask().await?;
            if leader.timeline != before.timeline {
                return Err(format!("timeline {} was opened meanwhile", leader.timeline).into());
            }
            let history = &found.plan.history;
            let wanted =
                Wanted { leader: &leader, history, system: "", major: 0, oldest: found.plan.summary.stop_time };
            let shared = wanted.shared(&complete.unwrap_or_default(), &found.plan.summary).unwrap_or_default();
            for segment in shared.into_iter().skip(found.segments.len()) {
                self.take(&found.archive, segment, dir).await?;
                found.segments.push(segment);
            }
            let end = fits::end(&found.segments, size).ok_or("it has no WAL")?;
            if found.segments.len() <= replayed + LEFT {
                if wanted.goes_on(end) {
                    return Ok(end);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        let end = fits::end(&found.segments, size).unwrap_or(found.plan.summary.stop_lsn);
        Err(format!("the leader has removed its WAL from {end} on, and the archive does not lead up to what it has")
            .into())
    }

    async fn take(&self, archive: &Archive, segment: Segment, dir: &Path) -> Result<(), Failed> {
        let to = dir.join("pg_wal").join(segment.to_string());
        wal::fetch(std::slice::from_ref(archive), &WalName::Segment(segment), &to).await?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600))?;
        if let Some(owner) = &self.instance.owner {
            chown(&to, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(())
    }
}

/// The plan, once a gap that closes by itself has closed.
async fn continuous(archive: &Archive, wanted: &restore::Wanted) -> Result<Plan, RestoreError> {
    for _ in 1..LOOKS {
        match restore::plan(archive, wanted).await {
            Err(RestoreError::OutOfReach { .. } | RestoreError::Gap { .. }) => tokio::time::sleep(PAUSE).await,
            planned => return planned,
        }
    }
    restore::plan(archive, wanted).await
}
