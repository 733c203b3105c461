//! Which archive: from the cluster's configuration in its store, or from a file when the store is gone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use matriarch_archive::archive::Archive;
use matriarch_archive::base;
use matriarch_archive::configured::Configured;
use matriarch_archive::repository::Repository;
use matriarch_cli::{Failure, code, exit_code};
use matriarch_config::{self as config, Document, DynamicConfig, LocalConfig};
use serde_json::json;

use super::fail::failed;
use crate::cluster::{self, Which};
use crate::store;

/// How long a call is repeated while a store does not answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which archive.
#[derive(Args, Clone, Debug, Default)]
pub struct WhereArgs {
    /// YAML file with the section `archive`, as 'matriarch config show' prints it, with --scope: for when the store is gone
    #[arg(long, global = true, value_name = "FILE", help_heading = "Which archive")]
    pub archive: Option<PathBuf>,
    /// Only this repository: its `location`
    #[arg(long, global = true, value_name = "LOCATION", help_heading = "Which archive")]
    pub repository: Option<String>,
    /// Only this incarnation of the cluster, as 'matriarch backup list' shows it
    #[arg(long, global = true, value_name = "NAME", help_heading = "Which archive")]
    pub incarnation: Option<String>,
    /// File of private keys (age), instead of `archive.encryption.identity_file`
    #[arg(long, global = true, value_name = "FILE", help_heading = "Which archive")]
    pub identity: Option<PathBuf>,
}

/// The archive of a cluster, as far as it is asked for.
pub struct Found {
    /// The section of the configuration, with the repositories that are meant.
    pub section: config::Archive,
    /// Name of the cluster.
    pub scope: String,
    /// Its repositories.
    pub configured: Configured,
    /// The incarnation that is meant, if only one is.
    pub incarnation: Option<String>,
}

/// Finds it.
pub async fn find(which: &Which, args: &WhereArgs) -> anyhow::Result<Found> {
    let (mut section, scope) = match &args.archive {
        Some(file) => from_file(file, which)?,
        None => from_store(which).await?,
    };
    if let Some(location) = &args.repository {
        let known: Vec<String> = section.repositories.iter().map(|one| one.location.to_string()).collect();
        // Also as lists name it.
        let wanted = location.strip_prefix("directory ").unwrap_or(location).trim_end_matches('/');
        section.repositories.retain(|one| one.location.to_string() == wanted);
        if section.repositories.is_empty() {
            let text = format!("no repository of this archive lies at '{location}'; there are {}", known.join(", "));
            return Err(Failure::new(code::USAGE, text).into());
        }
    }
    if let Some(path) = &args.identity {
        // A key that is asked for by name must be there.
        std::fs::metadata(path).with_context(|| format!("--identity {}", path.display()))?;
        section.encryption.identity_file = Some(std::path::absolute(path)?);
    }
    Ok(Found { incarnation: args.incarnation.clone(), ..Found::of(section, scope)? })
}

fn from_file(file: &std::path::Path, which: &Which) -> anyhow::Result<(config::Archive, String)> {
    let wrong = |text: String| Failure::new(code::CONFIG, format!("{}: {text}", file.display()));
    let text = std::fs::read_to_string(file).with_context(|| format!("--archive {}", file.display()))?;
    let value = Document::parse(&text).map_err(|error| wrong(error.to_string()))?.value;
    let section = value.get("archive").unwrap_or(&value);
    let parsed = DynamicConfig::from_json(&json!({ "archive": section })).map_err(|error| wrong(error.to_string()))?;
    let archive = parsed.archive.ok_or_else(|| wrong("it has no section `archive`".to_owned()))?;
    let config = which.config.as_ref().map(LocalConfig::load).transpose()?;
    let scope = which.scope.clone().or(config.map(|config| config.scope));
    let scope = scope.ok_or_else(|| {
        Failure::new(code::USAGE, "--archive needs --scope, the name of the cluster whose archive it is")
    })?;
    Ok((archive, scope))
}

async fn from_store(which: &Which) -> anyhow::Result<(config::Archive, String)> {
    let hint = "with --archive FILE and --scope NAME no store is needed";
    let place = cluster::find_store(which).await.context(hint)?;
    let store = store::open(&place.address, &place.prefix, false).await.context(hint)?;
    let reading = matriarch_agent::view::read(&store.read().await.context(hint)?, None, jiff::Timestamp::now());
    let scope = place.prefix.trim_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let none = || {
        let text = format!(
            "cluster '{scope}' has no archive: set `archive` ('matriarch config edit', docs/configuration.md), or name a \
             file with --archive"
        );
        Failure::new(code::CONFIG, text)
    };
    let config = reading.config.ok_or_else(none)?;
    let value = serde_json::from_str(&config.value).context("the configuration in the store is no JSON")?;
    let archive = DynamicConfig::from_json(&value)?.archive.ok_or_else(none)?;
    Ok((archive, scope))
}

impl Found {
    /// All of an archive.
    pub fn of(section: config::Archive, scope: String) -> anyhow::Result<Found> {
        let configured = Configured::new(&section, &scope, PATIENCE).map_err(failed)?;
        Ok(Found { section, scope, configured, incarnation: None })
    }

    /// Every repository that is meant, all of which must answer.
    pub async fn repositories(&self) -> anyhow::Result<Vec<Repository>> {
        let opened = self.opened().await;
        let hint =
            if opened.len() > 1 { "; nothing was done, and --repository names those that are meant" } else { "" };
        let opened = opened.into_iter().map(|(_, repository)| {
            repository.map_err(|error| Failure::new(exit_code(&error), format!("{error:#}{hint}")).into())
        });
        opened.collect()
    }

    /// The incarnations that are meant in one repository, by the time they began.
    pub async fn incarnations(&self, repository: &Repository) -> anyhow::Result<Vec<Archive>> {
        let all = self.configured.incarnations(repository).await.map_err(failed)?;
        let names: Vec<String> = all.iter().map(|archive| archive.place().incarnation().to_owned()).collect();
        let meant: Vec<Archive> = all
            .into_iter()
            .filter(|archive| self.incarnation.as_deref().is_none_or(|name| name == archive.place().incarnation()))
            .collect();
        if meant.is_empty() {
            let text = match &self.incarnation {
                Some(name) => format!("there is no incarnation '{name}'; there are {}", names.join(", ")),
                None => format!("{} holds nothing of cluster '{}'", repository.name(), self.scope),
            };
            return Err(Failure::new(code::DATA, text).into());
        }
        Ok(meant)
    }

    /// The incarnation of each repository in which one backup lies, also one that was cut off; needs no private key.
    pub async fn holders(&self, name: &str) -> anyhow::Result<Vec<Archive>> {
        let mut holders = Vec::new();
        for repository in self.repositories().await? {
            for archive in self.incarnations(&repository).await? {
                if base::is_known(&archive, name).await.map_err(failed)? {
                    holders.push(archive);
                    break;
                }
            }
        }
        if holders.is_empty() {
            let places: Vec<String> = self.configured.names().collect();
            let text = format!("there is no backup '{name}' in {}", places.join(", "));
            return Err(Failure::new(code::DATA, text).into());
        }
        Ok(holders)
    }
}
