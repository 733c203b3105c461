//! What a copy that comes from elsewhere must know of the leader that it is to follow.

use std::collections::BTreeSet;
use std::path::Path;

use matriarch_core::{Lsn, Timeline};
use serde::Deserialize;

use crate::conninfo::Source;
use crate::instance::Instance;
use crate::tool::{self, ToolError};

/// A leader as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Leader {
    /// Its timeline.
    pub timeline: Timeline,
    /// Where its WAL was flushed to.
    pub flushed: Lsn,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// Content of the file that was asked for, if it is there.
    pub file: Option<String>,
    /// Names of the segments in `pg_wal`. Some may be of WAL to come.
    pub segments: BTreeSet<String>,
}

/// A leader that did not tell.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// It was not reached, or refused.
    #[error("the leader at {address} does not tell where it is: {source}")]
    Ask {
        /// `host:port`.
        address: String,
        /// What psql said.
        #[source]
        source: ToolError,
    },
    /// It told something else.
    #[error("the leader at {address} does not tell where it is: {source}")]
    Answer {
        /// `host:port`.
        address: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks a leader, as the user of pg_rewind, who may list and read its files. `file` is one of its data directory.
///
/// # Errors
/// When it does not answer, or is no primary.
pub async fn ask(instance: &Instance, source: &Source, file: &str) -> Result<Leader, LeaderError> {
    let file = crate::roles::quote_literal(file);
    let query = format!(
        "SELECT json_build_object(\
           'timeline', ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, \
           'flushed', pg_current_wal_flush_lsn()::text, \
           'segment_size', pg_size_bytes(current_setting('wal_segment_size')), \
           'file', convert_from(pg_read_binary_file({file}, 0, 1048576, true), 'UTF8'), \
           'segments', (SELECT coalesce(json_agg(name), '[]') FROM pg_ls_dir('pg_wal', true, false) AS name \
                        WHERE name ~ '^[0-9A-F]{{24}}$'))"
    );
    let mut command = tool::command(instance, "psql", Path::new("/"));
    command.env("PGPASSWORD", &instance.rewind.password);
    command.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align"]);
    command.arg("-d").arg(source.conninfo(&instance.rewind, &[("dbname", "postgres")]));
    command.arg("-c").arg(query);
    let address = format!("{}:{}", source.host, source.port);
    match tool::run(command, |_| ()).await {
        Ok(printed) => serde_json::from_str(&printed.stdout).map_err(|source| LeaderError::Answer { address, source }),
        Err(source) => Err(LeaderError::Ask { address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_understood() {
        let text = r#"{"timeline" : 3, "flushed" : "0/3000148", "segment_size" : 16777216, "file" : null,
                       "segments" : ["000000030000000000000003"]}"#;
        let leader: Leader = serde_json::from_str(text).unwrap();
        assert_eq!((leader.timeline, leader.flushed, leader.file), (3, Lsn(0x300_0148), None));
        assert!(leader.segments.contains("000000030000000000000003"));
    }
}
