//! `archive check --identity`: whether a private key opens the newest backups, while another one can still be named.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use matriarch_api::ArchiveCheckRow;
use matriarch_archive::format::Identities;
use matriarch_archive::keys;
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, checks, code, endings, round_trips};
use serde::Serialize;

use super::archives::{Found, WhereArgs, find};
use super::list::seconds;
use crate::cluster::{self, Which};

/// What `archive check --identity -o json` shows.
#[derive(Clone, Debug, Serialize)]
struct Page {
    /// The round trips of the leader's agent.
    repositories: Vec<ArchiveCheckRow>,
    identity: PathBuf,
    /// The public halves of its keys.
    public: Vec<String>,
    /// What is archived from now on is encrypted to one of them, or not encrypted at all.
    is_recipient: bool,
    backups: Vec<Line>,
}

/// The newest backup of one repository.
#[derive(Clone, Debug, Serialize)]
struct Line {
    repository: String,
    backup: Option<String>,
    incarnation: Option<String>,
    ended: Option<Timestamp>,
    /// To how many keys it is encrypted; 0: to none.
    recipients: Option<usize>,
    /// It was opened with the identity.
    opens: bool,
    problem: Option<String>,
}

/// Has the agent do its round trips, then opens each repository's newest backup from here.
pub async fn prove_keys(identity: PathBuf, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&identity).with_context(|| format!("--identity {}", identity.display()))?;
    let identities = Identities::parse(&text)
        .map_err(|error| Failure::new(code::CONFIG, format!("--identity {}: {error}", identity.display())))?;
    if identities.is_empty() {
        let text = format!(
            "--identity {}: it holds no key; a private age key begins with AGE-SECRET-KEY-1",
            identity.display()
        );
        return Err(Failure::new(code::CONFIG, text).into());
    }
    let repositories = round_trips(&cluster::find(which).await?.target(), false).await?;
    let found = find(which, &WhereArgs::default()).await?;
    let public = identities.public();
    let recipients = &found.section.encryption.recipients;
    let is_recipient = recipients.is_empty() || recipients.iter().any(|one| public.contains(one));
    let backups = backups(found, identities).await;
    let page = Page { repositories, identity, public, is_recipient, backups };
    ui.show(&page, || parts(&page))?;
    verdict(&page)
}

async fn backups(found: Found, identities: Identities) -> Vec<Line> {
    let configured = found.configured.with_identities(identities);
    let mut lines = Vec::new();
    let names: Vec<String> = configured.names().collect();
    for (repository, opened) in names.into_iter().zip(configured.repositories().await) {
        let newest = match opened {
            Ok(opened) => keys::newest(&configured, &opened).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let none = Line {
            repository,
            backup: None,
            incarnation: None,
            ended: None,
            recipients: None,
            opens: false,
            problem: None,
        };
        lines.push(match newest {
            Err(problem) => Line { problem: Some(problem), ..none },
            Ok(None) => none,
            Ok(Some(newest)) => {
                let failure = newest.opens.and_then(Result::err).map(|error| error.to_string());
                Line {
                    backup: Some(newest.backup),
                    incarnation: Some(newest.incarnation),
                    ended: Some(newest.ended),
                    recipients: Some(newest.recipients.unwrap_or(0)),
                    opens: failure.is_none(),
                    problem: failure,
                    ..none
                }
            }
        });
    }
    lines
}

fn parts(page: &Page) -> Vec<Part> {
    let mut grid = Grid::new(&["Repository", "Newest backup", "Ended", "Encrypted to", "Opened", "Problem"]);
    for line in &page.backups {
        let tone = if line.opens { Tone::Plain } else { Tone::Bad };
        let sealed = match line.recipients {
            None => String::new(),
            Some(0) => "nobody: in the clear".to_owned(),
            Some(1) => "1 key".to_owned(),
            Some(count) => format!("{count} keys"),
        };
        let opened = match (&line.backup, line.opens) {
            (None, _) => "there is none",
            (_, true) => "yes",
            (_, false) => "no",
        };
        grid.row(
            tone,
            vec![
                line.repository.clone(),
                line.backup.clone().unwrap_or_default(),
                line.ended.map(seconds).unwrap_or_default(),
                sealed,
                opened.to_owned(),
                line.problem.clone().unwrap_or_default(),
            ],
        );
    }
    let keys = format!("{} holds the private half of {}", page.identity.display(), page.public.join(", "));
    let ends = page.repositories.iter().flat_map(|row| endings(&row.name, &row.ends));
    let round_trips = std::iter::once(Part::Grid(checks(&page.repositories))).chain(ends);
    round_trips.chain([Part::Line(Tone::Plain, keys), Part::Grid(grid)]).collect()
}

fn verdict(page: &Page) -> anyhow::Result<()> {
    let broken = page.repositories.iter().find(|row| row.problem.is_some());
    if let Some(row) = broken.filter(|row| row.opens != Some(false)) {
        return Err(Failure::new(code::TEMPORARY, format!("{} cannot be archived to as it is", row.name)).into());
    }
    let shut = page.backups.iter().find(|line| line.backup.is_some() && !line.opens);
    if let Some(line) = shut {
        return Err(Failure::new(code::PERMISSION, shut_text(&page.identity, line)).into());
    }
    if let Some(line) = page.backups.iter().find(|line| line.problem.is_some()) {
        let text = format!("{} could not be looked at from here", line.repository);
        return Err(Failure::new(code::UNAVAILABLE, text).into());
    }
    if !page.is_recipient {
        let text = format!(
            "{} opens what there is, but what is archived from now on is encrypted to others (archive.encryption.recipients): \
             add {}",
            page.identity.display(),
            page.public.join(" or ")
        );
        return Err(Failure::new(code::PERMISSION, text).into());
    }
    Ok(())
}

fn shut_text(identity: &Path, line: &Line) -> String {
    format!(
        "{} does not open the newest backup of {}. Whoever has no other key has no backup. While the cluster lives that can be \
         mended: find the right file, or add the public half of a key that is kept to archive.encryption.recipients ('matriarch \
         config edit') and take a backup",
        identity.display(),
        line.repository
    )
}
