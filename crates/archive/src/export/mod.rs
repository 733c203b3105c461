//! Doors out: a backup of ours, and its WAL, as another tool's own, so that nobody has to stay and nobody has to believe us: what
//! restores it was written by others.
//!
//! [`Export::prepare`] looks at what is there, on both sides; [`Export::write`] writes. `backup.info` is what makes a backup one
//! to Barman, and comes last. What Barman keeps where, [`crate::door`] knows, which reads it.

mod layout;
mod tars;
mod wal;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::archive::{Archive, ArchiveError};
use crate::base::Manifest;
use crate::door::{Foreign, Info, Outlet};
use crate::layout::{BadName, checked};
use crate::packs::in_order::Contents;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::restore::{self, Last, Plan, RestoreError};
use tars::Job;

/// How what is written is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, which every version of Barman reads; at its fastest.
    #[default]
    Gzip,
}

impl Compression {
    /// The end of an object's name.
    fn ending(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
        }
    }
}

/// An export that was not begun, or not finished.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What is there to export.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A repository, ours or Barman's.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The name of the server.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The backup is there already, or another one of that second.
    #[error(
        "server {server} in {repository} already holds {id}{whose}: nothing is written over; export to another server's name (--server)"
    )]
    Taken {
        /// Barman's name of the server.
        server: String,
        /// Where.
        repository: String,
        /// Barman's name of the backup.
        id: String,
        /// What is known of the one that is there.
        whose: String,
    },
    /// What is there is of another database.
    #[error(
        "server {server} in {repository} is another database: {found}, and this backup is of {ours}; export to another server's name (--server)"
    )]
    Foreign {
        /// Barman's name of the server.
        server: String,
        /// Where.
        repository: String,
        /// What tells, and its database system identifier.
        found: String,
        /// Ours.
        ours: String,
    },
    /// WAL of the same name is there with another content.
    #[error(
        "{object} is already in {repository} with another content than {name} in our archive: two servers have written it. Nothing is \
         written over; export to another server's name (--server)"
    )]
    Differs {
        /// The object.
        object: String,
        /// Where.
        repository: String,
        /// The file of the WAL.
        name: String,
    },
    /// A thread ended by itself.
    #[error("a worker of the export failed: {0}")]
    Worker(String),
    /// Whoever writes a tar found nobody to read from or to write to; there is an error that says more.
    #[error("the export ended early")]
    Ended,
}

impl From<ArchiveError> for ExportError {
    fn from(error: ArchiveError) -> Self {
        ExportError::Restore(error.into())
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Tars.
    pub tars: usize,
    /// Bytes of them.
    pub stored: u64,
    /// Segments of WAL that were not there yet.
    pub segments: usize,
    /// Segments that were there with the same content.
    pub there: usize,
}

/// A backup that can be exported.
#[derive(Debug)]
pub struct Export {
    archive: Archive,
    plan: Plan,
    manifest: Manifest,
    outlet: Outlet,
    id: String,
    compression: Compression,
}

impl Export {
    /// Looks whether everything is there that the plan needs, and whether the server's folder below `to` can take it.
    pub async fn prepare(
        archive: &Archive,
        plan: Plan,
        (to, server): (&Foreign, &str),
        compression: Compression,
        patience: Duration,
    ) -> Result<Export, ExportError> {
        let outlet = Outlet::open(to, &checked("a server", server)?, patience)?;
        let manifest = restore::check(archive, &plan).await?;
        let id = Info::id(&plan.summary);
        let export = Export { archive: archive.clone(), plan, manifest, outlet, id, compression };
        export.look().await?;
        Ok(export)
    }

    /// What Barman calls the backup.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What Barman calls the server.
    pub fn server(&self) -> &str {
        self.outlet.name()
    }

    /// Where it goes, as people write it.
    pub fn repository(&self) -> &str {
        self.outlet.repository().name()
    }

    /// What is exported.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn look(&self) -> Result<(), ExportError> {
        let (server, repository) = (self.server().to_owned(), self.repository().to_owned());
        let ours = &self.plan.summary.system_identifier;
        if let Some((found, what)) = self.outlet.systems().await?.into_iter().find(|(found, _)| found != ours) {
            let found = format!("{what} is of the system {found}");
            return Err(ExportError::Foreign { server, repository, found, ours: ours.clone() });
        }
        self.free().await
    }

    /// Fails if there is a backup of that name.
    async fn free(&self) -> Result<(), ExportError> {
        let text = match self.outlet.repository().get(&self.outlet.info_of(&self.id)).await {
            Err(error) if error.is_absent() => return Ok(()),
            read => read?,
        };
        let info = Info::parse(&String::from_utf8_lossy(&text)).ok();
        let whose = info.as_ref().and_then(Info::name).map(|name| format!(" ({name})")).unwrap_or_default();
        let (server, repository) = (self.server().to_owned(), self.repository().to_owned());
        Err(ExportError::Taken { server, repository, id: self.id.clone(), whose })
    }

    /// Writes the WAL, the tars, and then `backup.info`. Dropped or failed, it leaves no backup that looks like one;
    /// [`Export::abandon`] clears away what it leaves.
    pub async fn write(&self, workers: usize, progress: &Progress) -> Result<Written, ExportError> {
        let size = self.archive.incarnation().segment_size;
        progress.expect(self.plan.summary.size + self.plan.wal(size));
        // Tars of an earlier attempt would be unpacked with ours.
        self.abandon().await?;
        let mut written = wal::write(self, workers, progress).await?;
        let control = STANDARD.decode(&self.plan.summary.control);
        let control = control.map_err(|error| self.corrupt(error.to_string()))?;
        let last = Last { label: self.plan.summary.backup_label.clone(), control };
        let contents = Contents::of(&self.archive, &self.manifest)?;
        let (tars, files) = layout::lay_out(&self.manifest, &contents, workers).map_err(|why| self.corrupt(why))?;
        written.tars = tars.len();
        let job = Job {
            archive: self.archive.clone(),
            outlet: self.outlet.clone(),
            id: self.id.clone(),
            compression: self.compression,
            time: u64::try_from(self.plan.summary.stop_time.as_second()).unwrap_or_default(),
            contents,
            files,
            last,
            progress: progress.clone(),
        };
        written.stored = tars::write(job, tars, workers).await?;
        self.free().await?;
        let info = Info::of_ours(&self.plan.summary, self.server(), size).to_text();
        self.outlet.repository().put(&self.outlet.info_of(&self.id), Bytes::from(info)).await?;
        Ok(written)
    }

    /// Removes what an export that did not come to its end has left; a backup stays.
    pub async fn abandon(&self) -> Result<(), ExportError> {
        self.free().await?;
        for object in self.outlet.objects_of(&self.id).await? {
            self.outlet.repository().delete(&object).await?;
        }
        Ok(())
    }

    fn corrupt(&self, why: String) -> RepositoryError {
        self.archive.repository().corrupt(&self.archive.place().manifest(&self.plan.summary.backup), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::Codec;

    #[test]
    fn names_of_compressions_are_those_that_are_read() {
        let read = |compression: Compression| Codec::of(compression.ending().strip_prefix('.'));
        assert_eq!(read(Compression::None), Ok(Codec::Plain));
        assert_eq!(read(Compression::Gzip), Ok(Codec::Gzip));
    }
}
