//! The `restore_command` of a restored directory: by a file beside the data, without agent and store.

use std::path::{Path, PathBuf};

use clap::Args;
use matriarch_archive::configured::Configured;
use matriarch_archive::door::{Door, Foreign};
use matriarch_archive::wal;
use matriarch_cli::Failure;
use matriarch_config as config;
use matriarch_postgres::conf::RESTORE_FETCH;
use serde::{Deserialize, Serialize};

use super::archives::PATIENCE;

/// Above 125, PostgreSQL stops instead of taking it for the end of the log.
const STOP: u8 = 126;

/// Where the WAL of a restored directory comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Version of this file, 1.
    pub format: u32,
    /// Name of the cluster in the archive.
    pub cluster: String,
    /// The incarnation that was restored.
    pub incarnation: String,
    /// The section of the configuration; secrets are in the files that it names.
    pub archive: config::Archive,
}

/// The same for what was restored from another tool's repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Passage {
    /// Version of this file, 1.
    pub format: u32,
    /// Where that repository is; secrets are in the files that it names.
    pub from: Foreign,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Known {
    Theirs(Passage),
    Ours(Source),
}

/// `restore-fetch`.
#[derive(Args, Clone, Debug)]
pub struct FetchArgs {
    /// The file beside the data
    source: PathBuf,
    /// Name of the WAL file (%f)
    file: String,
    /// Where it goes (%p)
    to: PathBuf,
}

/// Fetches one file. The exit code is what PostgreSQL goes by.
pub async fn fetch(args: FetchArgs) -> anyhow::Result<()> {
    let stop = |text: String| Failure::new(STOP, format!("{} cannot be fetched: {text}", args.file));
    let name: wal::WalName = args.file.parse().map_err(|error: wal::BadWalName| stop(error.to_string()))?;
    let source = match read(&args.source).map_err(stop)? {
        Known::Ours(source) => source,
        Known::Theirs(passage) => {
            let door = Door::open(&passage.from, PATIENCE).await.map_err(|error| stop(error.to_string()))?;
            let fetched = door.fetch(&name, &args.to).await;
            return fetched.map_err(|error| Failure::new(error.exit_code(), error.to_string()).into());
        }
    };
    let configured =
        Configured::new(&source.archive, &source.cluster, PATIENCE).map_err(|error| stop(error.to_string()))?;
    let archives = configured.open_all(&source.incarnation).await.map_err(|error| stop(error.to_string()))?;
    let fetched = wal::fetch(&archives, &name, &args.to).await;
    fetched.map_err(|error| Failure::new(error.exit_code(), error.to_string()).into())
}

fn read(path: &Path) -> Result<Known, String> {
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The command for the settings.
pub fn command(program: &Path, source: &Path) -> String {
    let quoted = |path: &Path| {
        let text = path.display().to_string().replace('\'', "'\\''").replace('%', "%%");
        format!("'{text}'")
    };
    format!("{} {RESTORE_FETCH} {} %f %p", quoted(program), quoted(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_shell_and_postgresql() {
        let command = command(Path::new("/opt/a b/matriarch"), Path::new("/d'x/100%/s.json"));
        assert_eq!(command, "'/opt/a b/matriarch' restore-fetch '/d'\\''x/100%%/s.json' %f %p");
    }
}
