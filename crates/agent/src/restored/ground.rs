//! The directory beside the data directory's place that a restore fills: what an earlier try has left there goes on, or goes first.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, Held, Options, Plan, RestoreError, Took};
use matriarch_postgres::{Instance, clone, restored, volumes};

use super::Failed;
use super::spaces::{clear_spaces, is_marked, mark_spaces};

/// Beside files and WAL: the end of recovery.
const SPARE: u64 = 64 << 20;
/// Where others fill the volume meanwhile, so much is left to them.
const LEAST: u64 = SPARE / 2;
/// How often it is looked how far it is, and whether there still is room.
const LOOK: Duration = Duration::from_millis(100);
/// How often it tells how far it is.
const TELL: Duration = Duration::from_secs(30);

/// Whom the data is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A cluster that is not there yet: nothing may be in the data directory's place.
    Founder,
    /// A member, whose old data stays where it is until the new one is whole.
    Member,
}

/// There is no room for a restore.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct NoRoom {
    text: String,
    /// Without the WAL there would be.
    pub files_fit: bool,
}

/// Where a restore goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub instance: &'a Instance,
    pub plan: &'a Plan,
    /// Bytes of a segment of WAL.
    pub segment: u64,
    /// Places of all tablespaces.
    pub spaces: &'a BTreeMap<u32, PathBuf>,
    pub whose: Whose,
}

impl Ground<'_> {
    /// Fills it, beside what is there already; `options` for the directory, and who wants to know now and then how far it is.
    /// Where it is, and how it went.
    ///
    /// # Errors
    /// A [`NoRoom`] among others; what there is stays for the next try.
    pub async fn fill(
        &self,
        found: &Held,
        options: impl Fn(&Path) -> Result<Options, Failed>,
        mut shown: impl FnMut(&Progress),
    ) -> Result<(PathBuf, Took), Failed> {
        let (backup, target, repository) = (&self.plan.summary.backup, &self.plan.target, found.repository());
        if let Some(dir) = self.left().await? {
            self.room(used(&dir))?;
            tracing::info!(%backup, repository, %target, "a restore that was cut off goes on");
            match self.work(found, &options(&dir)?, &mut shown).await? {
                Ok(took) => return Ok((dir, took)),
                Err(error) if error.is_passing() => return Err(self.explained(&dir, error)),
                Err(error) => {
                    tracing::info!("what was cut off cannot be gone on with, and is begun anew: {error}");
                }
            }
        }
        let dir = self.anew().await?;
        tracing::info!(%backup, repository, %target, bytes = self.plan.summary.size, "restoring a backup");
        match self.work(found, &options(&dir)?, &mut shown).await? {
            Ok(took) => Ok((dir, took)),
            Err(error) => Err(self.explained(&dir, error)),
        }
    }

    /// What an earlier try has left and this one can go on with.
    async fn left(&self) -> Result<Option<PathBuf>, Failed> {
        if !is_marked(&self.instance.data_dir, self.spaces.values())? {
            return Ok(None);
        }
        Ok(match self.whose {
            Whose::Founder => restored::left(self.instance, restore::is_unfinished).await?,
            Whose::Member => clone::left(self.instance, restore::is_unfinished).await?,
        })
    }

    /// An empty directory to restore into, and empty tablespaces. What an earlier try has left goes first, since it takes room.
    async fn anew(&self) -> Result<PathBuf, Failed> {
        let dir = match self.whose {
            Whose::Founder => restored::begin(self.instance).await?,
            Whose::Member => clone::begin(self.instance).await?,
        };
        clear_spaces(&self.instance.data_dir)?;
        self.room(0)?;
        mark_spaces(&self.instance.data_dir, self.spaces.values())?;
        Ok(dir)
    }

    /// Restores, and tells how far it is. The outer error: somebody fills the volume meanwhile.
    async fn work(
        &self,
        found: &Held,
        options: &Options,
        shown: &mut impl FnMut(&Progress),
    ) -> Result<Result<Took, RestoreError>, Failed> {
        let mut work = std::pin::pin!(found.restore(self.plan, options));
        let (progress, mut told) = (&options.progress, Instant::now());
        loop {
            tokio::select! {
                took = &mut work => return Ok(took),
                () = tokio::time::sleep(LOOK) => {
                    shown(progress);
                    if volumes::free(&options.data).is_ok_and(|free| free < LEAST) {
                        self.room(used(&options.data))?;
                    }
                    if told.elapsed() >= TELL {
                        let (done, there, bytes) = (progress.done(), progress.there(), progress.total());
                        tracing::info!(done, there, bytes, "restoring");
                        told = Instant::now();
                    }
                }
            }
        }
    }

    /// Whether there is room, where so many bytes are there already.
    pub fn room(&self, there: u64) -> Result<(), Failed> {
        let beside = self.instance.data_dir.parent().unwrap_or(Path::new("/"));
        let files = self.plan.summary.size + SPARE;
        let needed = files + self.plan.wal(self.segment);
        let free = volumes::free(beside).map_err(|error| format!("{}: {error}", beside.display()))?;
        if free + there >= needed {
            return Ok(());
        }
        let of_them = if there > 0 { format!(" ({there} of them are there)") } else { String::new() };
        let missing = needed - free - there;
        let text = format!("{} has {free} bytes free, and files and WAL need {needed}{of_them}", beside.display());
        let text = format!("{text}: free {missing} more{}", self.remedy());
        Err(NoRoom { text, files_fit: free + there >= files }.into())
    }

    fn remedy(&self) -> String {
        let data = &self.instance.data_dir;
        match self.whose {
            Whose::Founder => ", or begin with a later backup".to_owned(),
            Whose::Member => {
                let old = used(data);
                let kept = format!(
                    "; the old data in {} takes {old} and stays until the new one is whole: remove it if nobody needs it",
                    data.display()
                );
                format!(", and it goes on by itself{}", if old > 0 { kept } else { String::new() })
            }
        }
    }

    fn explained(&self, dir: &Path, error: RestoreError) -> Failed {
        if !error.is_full() {
            return error.into();
        }
        // Somebody may have made room since.
        self.room(used(dir)).err().unwrap_or_else(|| NoRoom { text: error.to_string(), files_fit: false }.into())
    }
}

/// Bytes of a volume that a directory takes.
fn used(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}
