//! `restore --in-place`, `--undo` and `--confirm`: what will happen, the question, the request in the store, and how it ends.

use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use matriarch_agent::in_place::{InPlace, KEY, Phase, Request, What, Wish};
use matriarch_agent::view::{self, Reading};
use matriarch_archive::archive::Archive;
use matriarch_archive::restore::{self, Plan, Target, Window};
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_core::record::{Versioned, key};
use matriarch_dcs::{Committed, Store, Txn};
use serde::Serialize;

use super::archives::find;
use super::fail::failed;
use super::list::seconds;
use super::restore::{RestoreArgs, choose};
use crate::cluster::{self, Which};
use crate::store;

/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);
/// A leader takes a request on within moments.
const TAKEN: Duration = Duration::from_secs(30);

/// What would be done, as `-o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
struct Page {
    cluster: String,
    target: String,
    backup: String,
    repository: String,
    incarnation: String,
    timeline: u32,
    backup_ended: Timestamp,
    /// Bytes of all files.
    size: u64,
    /// Bytes of WAL that is replayed, at most.
    wal: u64,
    window: (Timestamp, Option<Timestamp>),
    window_lsn: String,
    /// Who restores, and keeps its present data aside.
    leader: String,
    /// Who copies the restored data.
    others: Vec<String>,
    /// Where the leader's WAL ends now, as far as it is known.
    now: String,
}

/// Does what the options say.
pub async fn run(args: RestoreArgs, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    let place = cluster::find_store(which).await?;
    let store = store::open(&place.address, &place.prefix, false).await?;
    let scope = place.prefix.trim_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let reading = read(&*store).await?;
    if let Some(request) = reading.in_place.as_ref().and_then(|record| record.value.under_way()) {
        // Whoever alone had the restored data is gone with it, unless it comes back.
        let is_lost = request.phase == Phase::Replacing && reading.view.leader.is_none();
        if !(args.running.undo && is_lost) {
            let text = format!("a request of {} is under way: {}", request.asked, request.text);
            return Err(Failure::new(code::TEMPORARY, text).into());
        }
    }
    let what = if args.running.in_place {
        match ask_to_go_back(&args, which, &reading, &scope, ui).await? {
            Some(wish) => What::Restore(wish),
            None => return Ok(()),
        }
    } else {
        let kept = reading.in_place.as_ref().and_then(|record| record.value.kept.as_ref());
        let Some(kept) = kept else {
            return Err(Failure::new(code::DATA, "no data is kept aside: the cluster was not restored in place").into());
        };
        let (member, path) = (&kept.member, kept.path.display());
        if args.running.undo {
            let question = format!(
                "{}. Every PostgreSQL of {scope} stops, and {path} on {member} is its data again, as it was at {} on timeline {}; \
                 what was written since goes aside",
                kept.why, kept.lsn, kept.timeline
            );
            consent(ui, &scope, &question, args.running.yes)?;
            if reading.view.leader.is_none() {
                return give_up_line(&*store, &reading, ui).await;
            }
            What::Undo
        } else {
            let question = format!("{path} on {member}, the data before that ({}), is removed for good", kept.why);
            consent(ui, &scope, &question, args.running.yes)?;
            What::Confirm
        }
    };
    let id = ask(&*store, &reading, what).await?;
    follow(&*store, &id, ui).await
}

async fn read(store: &dyn Store) -> anyhow::Result<Reading> {
    Ok(view::read(&store.read().await?, None, Timestamp::now()))
}

/// Plans, shows, asks; nothing when it was only to be shown.
async fn ask_to_go_back(
    args: &RestoreArgs,
    which: &Which,
    reading: &Reading,
    scope: &str,
    ui: &mut Ui,
) -> anyhow::Result<Option<Wish>> {
    if args.place.archive.is_some() || args.place.identity.is_some() || args.place.repository.is_some() {
        let text = "--in-place reads the cluster's own archive with the keys that its hosts have: --archive, --repository and \
                    --identity cannot be given; set archive.encryption.identity_file and put the key there";
        return Err(Failure::new(code::USAGE, text).into());
    }
    let found = find(which, &args.place).await?;
    let wanted = args.goal.wanted();
    let (archive, plan) = choose(&found, &wanted, ui).await?;
    let window = restore::window(&archive, Some(plan.history.timeline)).await.map_err(failed)?;
    if let Some(kept) = reading.in_place.as_ref().and_then(|record| record.value.kept.as_ref()) {
        let text = format!(
            "the data before the last restore is still kept on {} in {}: 'matriarch restore --confirm' or --undo first",
            kept.member,
            kept.path.display()
        );
        return Err(Failure::new(code::TEMPORARY, text).into());
    }
    let Some(leader) = reading.view.leader.as_ref().map(|leader| leader.name.clone()) else {
        let text = "nobody leads, so nobody can restore in place; see 'matriarch list', or bootstrap.restore for a new cluster";
        return Err(Failure::new(code::TEMPORARY, text).into());
    };
    let others = reading.view.members.keys().filter(|name| **name != leader).map(ToString::to_string).collect();
    let page = Page { leader: leader.to_string(), others, ..page(scope, reading, &archive, &plan, window) };
    if args.dry_run {
        ui.show(&page, || parts(&page))?;
        return Ok(None);
    }
    let shown = ui.rendered(&page, || parts(&page))?;
    ui.note(shown.trim_end());
    let question = format!("Every PostgreSQL of {scope} stops, and goes on as it was at {}", plan.target);
    consent(ui, scope, &question, args.running.yes)?;
    let wish = Wish {
        to: written(&wanted.target),
        timeline: wanted.timeline,
        // What was planned and agreed to, whatever comes meanwhile.
        backup: Some(plan.summary.backup.clone()),
        incarnation: Some(archive.place().incarnation().to_owned()),
        no_tail: !wanted.tail,
        tablespaces: args.tablespace.clone(),
    };
    Ok(Some(wish))
}

fn page(scope: &str, reading: &Reading, archive: &Archive, plan: &Plan, window: Option<Window>) -> Page {
    let summary = &plan.summary;
    Page {
        cluster: scope.to_owned(),
        target: plan.target.to_string(),
        backup: summary.backup.clone(),
        repository: archive.repository().name().to_owned(),
        incarnation: archive.place().incarnation().to_owned(),
        timeline: plan.history.timeline,
        backup_ended: summary.stop_time,
        size: summary.size,
        wal: plan.wal(archive.incarnation().segment_size),
        window: (
            window.as_ref().map_or(summary.stop_time, |window| window.oldest.stop_time),
            window.as_ref().and_then(|window| window.last_transaction),
        ),
        window_lsn: window.as_ref().map_or(plan.reach, |window| window.reach).to_string(),
        leader: String::new(),
        others: Vec::new(),
        now: reading.view.optime.to_string(),
    }
}

fn parts(page: &Page) -> Vec<Part> {
    let until = page.window.1.map_or_else(String::new, |to| format!("{} ", seconds(to)));
    let others = if page.others.is_empty() { "nobody".to_owned() } else { page.others.join(", ") };
    let rows = [
        ("Target", page.target.clone()),
        ("Backup", format!("{}, ended {}", page.backup, seconds(page.backup_ended))),
        ("Repository", format!("{}, incarnation {}, timeline {}", page.repository, page.incarnation, page.timeline)),
        ("Reachable", format!("{} to {until}({})", seconds(page.window.0), page.window_lsn)),
        (
            "Restored by",
            format!("{}: {} of files, {} of WAL", page.leader, units::bytes(page.size), units::bytes(page.wal)),
        ),
        ("Copied by", others),
        (
            "Lost",
            format!(
                "what was written after the target; {} is at {} now, and goes on until it stops",
                page.leader, page.now
            ),
        ),
        ("Kept", format!("the present data of {}, beside the restored one, until --confirm or --undo", page.leader)),
    ];
    let mut grid = Grid::new(&["What", "Is"]);
    for (what, is) in rows {
        grid.row(Tone::Plain, vec![what.to_owned(), is]);
    }
    let title = format!("Cluster {} would go back to {}", page.cluster, page.target);
    vec![Part::Line(Tone::Strong, title), Part::Grid(grid)]
}

/// The target as the request has it.
fn written(target: &Target) -> String {
    match target {
        Target::Latest => "latest".to_owned(),
        Target::Immediate => "immediate".to_owned(),
        Target::Time(time) => format!("time={time}"),
        Target::Lsn(lsn) => format!("lsn={lsn}"),
        Target::Xid(xid) => format!("xid={xid}"),
        Target::Name(name) => format!("name={name}"),
    }
}

/// Has the person type the name of the cluster, unless that was said beforehand.
fn consent(ui: &mut Ui, scope: &str, question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !ui.prompt.interactive() {
        let text = format!("{question}. There is no terminal to ask at: add --yes");
        return Err(Failure::new(code::USAGE, text).into());
    }
    let question = format!("{question}. Type the name of the cluster ({scope}) to go on");
    if ui.prompt.answer(&question)?.trim() == scope {
        return Ok(());
    }
    Err(Failure::new(code::USAGE, "nothing was done: that is not the cluster's name").into())
}

/// Nobody leads, so what only the restored data has cannot be had: the line before it counts again, and whoever has data of it
/// may lead.
async fn give_up_line(store: &dyn Store, reading: &Reading, ui: &mut Ui) -> anyhow::Result<()> {
    let Some(seen) = &reading.in_place else { return Ok(()) };
    let line = seen.value.kept.as_ref().map(|kept| kept.line.clone());
    let record = InPlace { line, kept: seen.value.kept.clone(), request: None };
    let txn = compared(seen, &record)?.absent(key::LEADER);
    match store.commit(txn).await? {
        Committed::Applied { .. } => {
            let text =
                "Nobody leads: the data of before counts again wherever it is, and a member that has it takes over";
            ui.say(Tone::Warn, text)
        }
        Committed::Refused { .. } => Err(overtaken()),
    }
}

fn compared(seen: &Versioned<InPlace>, record: &InPlace) -> anyhow::Result<Txn> {
    Ok(Txn::new().revision(KEY, seen.revision).put(KEY, serde_json::to_string(record)?))
}

fn overtaken() -> anyhow::Error {
    Failure::new(
        code::TEMPORARY,
        "somebody else has asked for something meanwhile; nothing was done: look, and try again",
    )
    .into()
}

/// Writes the request; its name.
async fn ask(store: &dyn Store, reading: &Reading, what: What) -> anyhow::Result<String> {
    let now = Timestamp::now();
    let id = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let request = Request {
        id: id.clone(),
        what,
        phase: Phase::Asked,
        member: None,
        text: "asked for".to_owned(),
        done: 0,
        total: 0,
        asked: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        swap: None,
    };
    let seen = reading.in_place.as_ref();
    let record = InPlace { request: Some(request), ..seen.map(|seen| seen.value.clone()).unwrap_or_default() };
    let txn = match seen {
        Some(seen) => compared(seen, &record)?,
        None => Txn::new().absent(KEY).put(KEY, serde_json::to_string(&record)?),
    };
    match store.commit(txn).await.context("the request could not be written")? {
        Committed::Applied { .. } => Ok(id),
        Committed::Refused { .. } => Err(overtaken()),
    }
}

/// Tells how far it is until it has ended. Whoever stops looking on changes nothing.
async fn follow(store: &dyn Store, id: &str, ui: &mut Ui) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        // A store that does not answer for a moment, or a leader that moves.
        let Ok(reading) = read(store).await else { continue };
        let seen = reading.in_place.as_ref();
        let request = seen.and_then(|seen| seen.value.request.as_ref()).filter(|request| request.id == id);
        let (Some(seen), Some(request)) = (seen, request) else {
            let text = "the request has gone from the store; 'matriarch list' shows how the cluster is";
            return Err(Failure::new(code::TEMPORARY, text).into());
        };
        let much = match request.total {
            0 => String::new(),
            total => format!(" ({} of {})", units::bytes(request.done), units::bytes(total)),
        };
        let now = format!("{}{much}", request.text);
        if told != now && !request.phase.is_over() {
            ui.note(&now);
            told = now;
        }
        match request.phase {
            Phase::Done => return ui.say(Tone::Strong, &capital(&request.text)),
            Phase::Failed => {
                return Err(Failure::new(code::TEMPORARY, format!("not done: {}", request.text)).into());
            }
            Phase::Asked if begun.elapsed() > TAKEN => {
                let mut record = seen.value.clone();
                if let Some(request) = &mut record.request {
                    request.phase = Phase::Failed;
                    request.text = "no leader took it on".to_owned();
                }
                // Refused: somebody has just taken it on.
                let _ = store.commit(compared(seen, &record)?).await?;
            }
            _ => {}
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_written() {
        for text in ["latest", "immediate", "lsn=0/3000148", "xid=7", "name=before", "time=2026-11-22T06:00:00Z"] {
            let target: Target = text.parse().unwrap();
            assert_eq!(written(&target), text);
        }
    }
}
