//! What may stop a tail.

use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::replication::ReplicationError;

use crate::repository::RepositoryError;
use crate::wal::{BadSegment, Segment};

/// A tail that cannot go on, or a segment that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The server, or the connection to it. [`ReplicationError::WalRemoved`] means that there will be a gap: begin anew
    /// with [`super::Start::Anew`], and say so.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The repository, other than an outage: that is waited for.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The archive is of another database than the server.
    #[error("the server is {found}, and the archive holds {expected}; open an incarnation of its own")]
    OtherDatabase {
        /// What the server says.
        found: String,
        /// What the archive's record says.
        expected: String,
    },
    /// Somebody else has archived other WAL at this place of this timeline: this server is not, or no longer, the one
    /// whose WAL counts.
    #[error("another server has archived other WAL of timeline {timeline} at {from}: {source}")]
    Deposed {
        /// The timeline.
        timeline: Timeline,
        /// The start of the part that differs.
        from: Lsn,
        /// What the repository said, with the names of both.
        #[source]
        source: RepositoryError,
    },
    /// The repository holds more of this timeline than the server has.
    #[error(
        "the archive holds timeline {timeline} up to {held} and the server has it only up to {server}: it has lost WAL, or \
         another server has written it"
    )]
    Behind {
        /// The timeline.
        timeline: Timeline,
        /// The end of what is archived.
        held: Lsn,
        /// The end of what the server has.
        server: Lsn,
    },
    /// Two chunks say different things about one position: two servers wrote the same timeline.
    #[error(
        "{name} in {repository} and the chunks before it do not agree about the byte at {at}: two servers wrote them"
    )]
    Contradiction {
        /// The later of the two.
        name: String,
        /// The repository.
        repository: String,
        /// The position.
        at: Lsn,
    },
    /// A chunk is damaged, and no other one has what it held.
    #[error("segment {segment} can be joined only up to {end}: {source}")]
    Damaged {
        /// The segment.
        segment: Segment,
        /// Up to where it can be joined without the damaged one.
        end: Lsn,
        /// What is wrong with which object.
        #[source]
        source: RepositoryError,
    },
    /// The chunks make up something that is not this segment.
    #[error("the chunks of {segment} do not make up this segment: {why}")]
    NotThatSegment {
        /// The segment.
        segment: Segment,
        /// What is wrong.
        why: BadSegment,
    },
    /// The archive's record holds no number where the system identifier must be.
    #[error("the incarnation's record has the system identifier '{0}', which is no number")]
    BadRecord(String),
}
