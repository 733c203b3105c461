//! One look at the data directory, and what it means for decisions.

use matriarch_archive::configured::{Identity, Own};
use matriarch_core::Incarnation;
use matriarch_core::decide::{Data, DataFacts};
use matriarch_postgres::control::Unfinished;
use matriarch_postgres::files::FileError;
use matriarch_postgres::{ControlData, DataDirState, Instance, incarnation, inspect};

use crate::claim;

/// One look at the data directory.
#[derive(Debug)]
pub struct DataReport {
    /// How many jobs had begun when a mere second look began; such a look counts only while none has begun since.
    pub second_look: Option<u64>,
    /// For decisions.
    pub data: Data,
    /// The control file.
    pub control: Option<ControlData>,
    /// The line of data that it is, as an archive names it.
    pub line: Option<String>,
}

/// Looks at the directory.
pub async fn data_report(instance: &Instance) -> DataReport {
    let state = match inspect(instance).await {
        Ok(state) => state,
        Err(error) => {
            let data = Data::Unusable(error.to_string());
            return DataReport { second_look: None, data, control: None, line: None };
        }
    };
    let (data, control) = match state {
        DataDirState::Missing | DataDirState::Empty => (Data::Missing, None),
        DataDirState::Incomplete(Unfinished::Build) => (Data::Unfinished, None),
        DataDirState::Incomplete(Unfinished::Rewind) => {
            (Data::Unusable("pg_rewind did not finish, so it mixes two histories".to_owned()), None)
        }
        DataDirState::Garbage(reason) => (Data::Unusable(reason), None),
        DataDirState::OtherMajor { found } => {
            let ours = instance.binaries.version().major;
            (Data::Unusable(format!("it was made by PostgreSQL {found}, the programs are of {ours}")), None)
        }
        DataDirState::Ready(control) => match identity(instance) {
            Ok(incarnation) => (Data::Ready(facts(instance, &control, incarnation)), Some(control)),
            Err(error) => (Data::Unusable(error.to_string()), Some(control)),
        },
    };
    let line = control.as_ref().and_then(|control| line(instance, control));
    DataReport { second_look: None, data, control, line }
}

/// A record that cannot be read is told by the archive, which needs it as well.
fn line(instance: &Instance, control: &ControlData) -> Option<String> {
    let identity = Identity {
        system_identifier: control.system_identifier,
        major: instance.binaries.version().major,
        segment_size: control.wal_segment_size,
    };
    Own::of(&instance.data_dir, identity).ok().map(|own| own.name)
}

/// The directory's identity; one that has none (somebody else made it) gets one now.
fn identity(instance: &Instance) -> Result<Incarnation, FileError> {
    match incarnation::read(instance)? {
        Some(incarnation) => Ok(incarnation),
        None => incarnation::renew(instance),
    }
}

fn facts(instance: &Instance, control: &ControlData, incarnation: Incarnation) -> DataFacts {
    DataFacts {
        system_identifier: control.system_identifier.to_string(),
        incarnation: Some(incarnation),
        timeline: control.timeline,
        checkpoint: control.checkpoint_lsn,
        clean: control.state.is_clean(),
        // A signal file that is still there counts as well: PostgreSQL would start as a standby.
        standby: control.state.is_standby() || instance.data("standby.signal").exists(),
        unclaimed: claim::is_marked(instance),
    }
}
