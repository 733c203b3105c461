//! What a new primary brings into the archive that the one before it never did.

use std::collections::BTreeSet;
use std::path::Path;

use matriarch_archive::archive::Archive;
use matriarch_archive::repository::RepositoryError;
use matriarch_archive::wal::{self, PushError, Segment, WalName};
use matriarch_core::Timeline;
use matriarch_postgres::history::History;

use super::waiting;

/// A file that could not be archived.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub file: String,
    pub why: String,
    /// Another content has its name.
    pub conflict: bool,
    /// The store does not let us in.
    pub refused: bool,
}

impl Failure {
    pub fn of(name: &WalName, error: &PushError) -> Failure {
        let conflict = matches!(error, PushError::Repository(RepositoryError::Conflict { .. }));
        let refused = matches!(error, PushError::Repository(RepositoryError::Refused { .. }));
        Failure { file: name.to_string(), why: error.to_string(), conflict, refused }
    }
}

/// Archives, up to where this timeline's history left each earlier one, what no repository has: complete segments that are
/// still in `pg_wal`, and the histories themselves. PostgreSQL archives neither on its own, since it received them as a standby.
/// Returns how many files it were.
pub(super) async fn backfill(archives: &[Archive], data_dir: &Path, timeline: Timeline) -> Result<usize, Failure> {
    if timeline <= 1 {
        return Ok(0);
    }
    let folder = data_dir.join("pg_wal");
    let file = History::file_name(timeline);
    let failed = |why: String| Failure { file: file.clone(), why, ..Failure::default() };
    let text = std::fs::read_to_string(folder.join(&file)).map_err(|error| failed(error.to_string()))?;
    let history = History::parse(timeline, &text).map_err(|error| failed(error.to_string()))?;
    let mut pushed = 0;
    let timelines = history.ancestors.iter().map(|ancestor| ancestor.timeline).filter(|ancestor| *ancestor > 1);
    for ancestor in timelines.chain([timeline]) {
        let path = folder.join(History::file_name(ancestor));
        let name = WalName::History(ancestor);
        if waiting::is_original(&path) && !is_in_all(archives, &name).await? {
            push(archives, &path, &name).await?;
            pushed += 1;
        }
    }
    let Some(size) = archives.first().map(|archive| archive.incarnation().segment_size) else { return Ok(pushed) };
    let found = waiting::inherited(data_dir, &history, size).map_err(|error| failed(error.to_string()))?;
    for missing in missing(archives, found.iter().map(|(segment, _)| *segment).collect(), size).await? {
        let path = folder.join(missing.to_string());
        push(archives, &path, &WalName::Segment(missing)).await?;
        pushed += 1;
    }
    Ok(pushed)
}

async fn push(archives: &[Archive], path: &Path, name: &WalName) -> Result<(), Failure> {
    tracing::info!(file = %name, "archiving what an earlier primary has not");
    wal::push(archives, path, name).await.map_err(|error| Failure::of(name, &error))
}

async fn is_in_all(archives: &[Archive], name: &WalName) -> Result<bool, Failure> {
    for archive in archives {
        match archive.repository().size(&archive.place().wal(name)).await {
            Ok(_) => {}
            Err(error) if error.is_absent() => return Ok(false),
            Err(error) => return Err(Failure { file: name.to_string(), why: error.to_string(), ..Failure::default() }),
        }
    }
    Ok(true)
}

/// Those that not every repository lists. A list may be old: then something is archived once more, which harms nothing.
async fn missing(archives: &[Archive], segments: Vec<Segment>, size: u64) -> Result<Vec<Segment>, Failure> {
    let mut missing = BTreeSet::new();
    for archive in archives {
        // What was before its branch lies in the incarnation that this one came from.
        let own = segments.iter().filter(|segment| {
            let parent = archive.incarnation().parent.as_ref();
            !parent.is_some_and(|parent| {
                segment.timeline <= parent.timeline && segment.start(size).0 + size <= parent.lsn.0
            })
        });
        let own: Vec<Segment> = own.copied().collect();
        let timelines: BTreeSet<Timeline> = own.iter().map(|segment| segment.timeline).collect();
        let mut listed = BTreeSet::new();
        for timeline in timelines {
            let folder = archive.place().wal_of(timeline);
            let entries = archive.repository().list(&folder).await;
            let entries =
                entries.map_err(|error| Failure { file: folder, why: error.to_string(), ..Failure::default() })?;
            listed.extend(entries.into_iter().map(|entry| entry.name));
        }
        let place = archive.place();
        missing.extend(own.into_iter().filter(|segment| !listed.contains(&place.wal(&WalName::Segment(*segment)))));
    }
    Ok(missing.into_iter().collect())
}
