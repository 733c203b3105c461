//! The course of one drill:
//! ```text
//! look: anything against it? ──> refused, nothing done
//! open the ledger, write ───┐
//! look again ───────────────┤ ──> refused or interrupted: the table is dropped, nothing done
//! strike, or ask for a move ┘
//! wait until writes are back and a leader of a newer epoch is there
//! read the rows again, drop the table
//! wait until every member is well (an interrupt ends only this)
//! keep the result where every member sees it
//! ```

use std::time::{Duration, Instant};

use jiff::{Timestamp, Zoned};
use matriarch_api::{Blow, BlowBody, DrillKind, DrillLog, DrillRecord, DrillResult, SwitchoverBody};
use matriarch_cli::view::{self, View};
use matriarch_cli::{Failure, Target, Ui, code, consent, in_turn};

use crate::args::Order;
use crate::bounds::{ailments, refusals};
use crate::interrupt::Interrupt;
use crate::ledger::{self, Ledger};
use crate::schedule::Practice;
use crate::{address, history, reckoning, schedule};

/// Writing before the blow, so that a pause can be told from a slow start.
const WARM_UP: Duration = Duration::from_secs(1);
/// Writing afterwards: the second stall of some failovers.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the cluster is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// When a leader that still leads has certainly been started again in place.
const IN_PLACE: Duration = Duration::from_secs(10);
/// Until every member must be well again.
const WELL: Duration = Duration::from_secs(300);
/// For the store to take the result.
const KEEP: Duration = Duration::from_secs(30);

/// What came of an attempt.
pub enum Attempt {
    /// Nothing was done, and why.
    Refused(Vec<String>),
    /// Drills that were done.
    Done(Vec<DrillRecord>),
}

/// One drill, or many, as ordered.
pub async fn drill(target: &Target, ui: &mut Ui, order: Order) -> anyhow::Result<()> {
    let (view, log) = look(target).await?;
    let reasons = refusals(&order.common, order.kind, &view, &log, &Zoned::now());
    if order.common.when.dry_run {
        return rehearse(target, ui, &order, &view, reasons).await;
    }
    if order.common.when.every.is_none() && !reasons.is_empty() {
        return Err(refusal(&reasons));
    }
    consent(ui.prompt.as_mut(), order.common.force, &format!("{}?", plan(&order, &view)))?;
    let stop = Interrupt::listen()?;
    if let Some(every) = order.common.when.every {
        return schedule::keep_on(&mut Moves { target, order: &order }, ui, every, stop).await;
    }
    let drills = match attempt(target, ui, &order, &stop).await? {
        Attempt::Refused(reasons) => return Err(refusal(&reasons)),
        Attempt::Done(drills) => drills,
    };
    ui.show(&drills, || history::parts(&drills))?;
    match drills.iter().find(|drill| drill.result != DrillResult::Passed) {
        Some(drill) => Err(Failure::new(code::SOFTWARE, format!("the drill has not passed: {}", drill.note)).into()),
        None => Ok(()),
    }
}

/// Moves of the primary, for the schedule.
struct Moves<'a> {
    target: &'a Target,
    order: &'a Order,
}

impl Practice for Moves<'_> {
    fn kind(&self) -> DrillKind {
        self.order.kind
    }

    async fn log(&mut self) -> anyhow::Result<DrillLog> {
        look(self.target).await.map(|(_, log)| log)
    }

    async fn attempt(&mut self, ui: &mut Ui, stop: &Interrupt) -> anyhow::Result<Attempt> {
        attempt(self.target, ui, self.order, stop).await
    }
}

/// Why nothing was done.
pub fn refusal(reasons: &[String]) -> anyhow::Error {
    Failure::new(code::TEMPORARY, format!("no drill, and nothing was done: {}", reasons.join("; "))).into()
}

/// What is to happen, in words.
fn plan(order: &Order, view: &View) -> String {
    let (scope, leader) = (&view.cluster.scope, view.leader().unwrap_or("nobody"));
    match (order.kind, order.blow) {
        (DrillKind::Switchover, _) if order.and_back => {
            format!("Move the primary of {scope} away from {leader} and back")
        }
        (DrillKind::Switchover | DrillKind::Restore, _) => format!("Move the primary of {scope} away from {leader}"),
        (DrillKind::Failover, Blow::Postgres) => format!("Kill PostgreSQL of {leader}, the primary of {scope}"),
        (DrillKind::Failover, Blow::Instance) => {
            format!("Kill PostgreSQL and the agent of {leader}, the primary of {scope}")
        }
    }
}

async fn rehearse(
    target: &Target,
    ui: &mut Ui,
    order: &Order,
    view: &View,
    mut reasons: Vec<String>,
) -> anyhow::Result<()> {
    let config = address::choose(target, view, &order.common)?;
    if let Err(error) = ledger::connect(&config).await {
        reasons.push(format!("{error:#}"));
    }
    let text = format!("{}, writing to {}", plan(order, view), address::describe(&config));
    let data = serde_json::json!({ "plan": text, "possible": reasons.is_empty(), "refused_because": reasons });
    ui.show(&data, || {
        use matriarch_cli::{Part, Tone};
        let verdict = if reasons.is_empty() { "It could be done now" } else { "It would be refused now" };
        let against = reasons.iter().map(|reason| Part::Line(Tone::Warn, format!("  {reason}")));
        [Part::Line(Tone::Plain, text.clone()), Part::Line(Tone::Strong, verdict.to_owned())]
            .into_iter()
            .chain(against)
            .collect()
    })?;
    if reasons.is_empty() { Ok(()) } else { Err(refusal(&reasons)) }
}

/// The cluster, and the drills before.
pub async fn look(target: &Target) -> anyhow::Result<(View, DrillLog)> {
    let view = view::read(target).await?;
    let endpoints = view.in_order(view.leader());
    let log = in_turn(target, &endpoints, |client| async move { client.drills().await }).await?;
    Ok((view, log))
}

/// One drill, or there and back, if nothing is against it.
async fn attempt(target: &Target, ui: &mut Ui, order: &Order, stop: &Interrupt) -> anyhow::Result<Attempt> {
    let mut done = Vec::new();
    let mut back_to = None;
    loop {
        let mut order = order.clone();
        if back_to.is_some() {
            // The way back belongs to the same drill.
            order.common.when.at_least_apart = None;
        }
        let record = match once(target, ui, &order, back_to.as_deref(), stop).await? {
            Ok(record) => record,
            Err(reasons) if done.is_empty() => return Ok(Attempt::Refused(reasons)),
            Err(reasons) => {
                ui.note(&format!("not moved back: {}", reasons.join("; ")));
                return Ok(Attempt::Done(done));
            }
        };
        let from = record.from.clone();
        let passed = record.result == DrillResult::Passed;
        done.push(record);
        if !order.and_back || back_to.is_some() || !passed || stop.came() {
            return Ok(Attempt::Done(done));
        }
        back_to = Some(from);
    }
}

/// One drill. The inner error: why nothing was done.
async fn once(
    target: &Target,
    ui: &mut Ui,
    order: &Order,
    candidate: Option<&str>,
    stop: &Interrupt,
) -> anyhow::Result<Result<DrillRecord, Vec<String>>> {
    let (view, log) = look(target).await?;
    let reasons = refusals(&order.common, order.kind, &view, &log, &Zoned::now());
    if !reasons.is_empty() {
        return Ok(Err(reasons));
    }
    let config = address::choose(target, &view, &order.common)?;
    ui.note(&format!("writing to {}", address::describe(&config)));
    let ledger = Ledger::open(config).await?;
    let ready = tokio::select! {
        ready = warm_up(&ledger) => ready,
        () = stop.times(1) => Err("interrupted before anything was done".to_owned()),
    };
    let (view, log) = look(target).await?;
    let mut reasons = refusals(&order.common, order.kind, &view, &log, &Zoned::now());
    reasons.extend(ready.err());
    let Some(leader) = view.leader().filter(|_| reasons.is_empty() && !stop.came()) else {
        ledger.close().await?;
        return Ok(Err(if reasons.is_empty() {
            vec!["interrupted before anything was done".to_owned()]
        } else {
            reasons
        }));
    };
    let mut course = Course { target, order, view: &view, leader, begun: Instant::now(), at: Timestamp::now() };
    tokio::select! {
        record = course.run(ui, ledger, candidate, stop) => record.map(Ok),
        () = stop.times(2) => Err(Failure::new(code::TEMPORARY, "left at once: the drill's table stays until a drill in an hour or later, \
            and its result is not kept; 'matriarch list' shows the cluster").into()),
    }
}

async fn warm_up(ledger: &Ledger) -> Result<(), String> {
    let wrote = ledger.writes(Duration::from_secs(10)).await;
    tokio::time::sleep(WARM_UP).await;
    let book = ledger.book();
    if wrote && !book.troubled() {
        return Ok(());
    }
    let errors: Vec<&str> = book.errors.keys().map(String::as_str).collect();
    Err(format!("writes fail before anything is done: {}", errors.join("; ")))
}

struct Course<'a> {
    target: &'a Target,
    order: &'a Order,
    /// The cluster just before.
    view: &'a View,
    leader: &'a str,
    begun: Instant,
    at: Timestamp,
}

impl Course<'_> {
    async fn run(
        &mut self,
        ui: &mut Ui,
        ledger: Ledger,
        candidate: Option<&str>,
        stop: &Interrupt,
    ) -> anyhow::Result<DrillRecord> {
        let (mut record, mut notes, moved) = self.measure(ui, ledger, candidate).await;
        let (well, last) = self.well(ui, stop).await;
        if let Some(view) = last {
            note_outcome(&mut record, &view);
        }
        record.well_after_seconds = well.as_ref().ok().copied();
        let interrupted = well.is_err() && stop.came();
        if let Err(ills) = &well {
            notes.push(match interrupted {
                true => "interrupted before every member was well".to_owned(),
                false => format!("not well {} s later: {ills}", WELL.as_secs()),
            });
        }
        record.result = match record.lost_writes {
            Some(lost) if lost > 0 => {
                notes.insert(0, format!("{lost} acknowledged writes are missing"));
                DrillResult::LostWrites
            }
            Some(_) if moved && (well.is_ok() || interrupted) => DrillResult::Passed,
            _ => DrillResult::Failed,
        };
        record.note = notes.join("; ").chars().take(500).collect();
        keep(self.target, &record).await?;
        Ok(record)
    }

    /// Strikes and measures: what is known then, what is worth noting, and whether it went as ordered.
    async fn measure(
        &mut self,
        ui: &mut Ui,
        mut ledger: Ledger,
        candidate: Option<&str>,
    ) -> (DrillRecord, Vec<String>, bool) {
        let mut notes = Vec::new();
        (self.begun, self.at) = (Instant::now(), Timestamp::now());
        let struck_at = ledger.now();
        let asked = match self.strike(candidate).await {
            Ok(text) => {
                self.tell(ui, &text);
                true
            }
            Err(error) => {
                notes.push(format!("{error:#}"));
                false
            }
        };
        let patience = self.order.common.patience;
        let back = match asked {
            true => self.aftermath(ui, &ledger, &mut notes).await,
            // Refused, or called off: nothing has moved, and what it cost is measured all the same.
            false => ledger.writes(patience).await,
        };
        if !back {
            notes.push(format!("writes were not back after {} s", patience.as_secs()));
        }
        tokio::time::sleep(SETTLE).await;
        ledger.stop();
        let mut record = self.record(&ledger, struck_at);
        match ledger.rows().await {
            Ok(rows) => record.lost_writes = Some(reckoning::lost(&ledger.book(), &rows).len() as u64),
            Err(error) => notes.push(format!("{error:#}")),
        }
        if let Err(error) = ledger.close().await {
            notes.push(format!("{error:#}"));
        }
        (record, notes, asked && back)
    }

    fn tell(&self, ui: &mut Ui, text: &str) {
        ui.note(&format!("{:5.2} s  {text}", self.begun.elapsed().as_secs_f64()));
    }

    /// Strikes, or asks for the move; answers in words.
    async fn strike(&self, candidate: Option<&str>) -> anyhow::Result<String> {
        let endpoint = self.view.endpoint(self.leader).ok_or_else(|| anyhow::anyhow!("{} has gone", self.leader))?;
        let client = self.target.asking_client(&endpoint.api_url)?;
        let reply = match self.order.kind {
            DrillKind::Failover => {
                let epoch = self.view.cluster.matriarch.epoch;
                let spare_voters = self.order.common.spare_voters;
                client.drill(&BlowBody { blow: self.order.blow, epoch, spare_voters }).await?
            }
            DrillKind::Switchover | DrillKind::Restore => {
                let candidate = candidate.map(str::to_owned);
                let body = SwitchoverBody { leader: Some(self.leader.to_owned()), candidate, scheduled_at: None };
                client.switchover(&body).await?
            }
        };
        Ok(reply.text)
    }

    /// Waits until writes are back under a newer epoch, or under the old one for so long that nobody takes over.
    async fn aftermath(&self, ui: &mut Ui, ledger: &Ledger, notes: &mut Vec<String>) -> bool {
        let epoch = self.view.cluster.matriarch.epoch;
        let wait = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let Ok(view) = view::read(self.target).await else { continue };
                let Some(leader) = view.leader().and_then(|leader| view.row(leader)) else { continue };
                let moved = view.cluster.matriarch.epoch > epoch;
                let settled = leader.state == "running" && (moved || self.begun.elapsed() > IN_PLACE);
                if settled && ledger.writes(Duration::from_secs(2)).await {
                    return (leader.name.clone(), moved);
                }
            }
        };
        let Ok((leader, moved)) = tokio::time::timeout(self.order.common.patience, wait).await else { return false };
        self.tell(ui, &format!("writes are back, {leader} leads"));
        if !moved {
            notes.push("nobody took over: PostgreSQL was started again in place".to_owned());
        }
        true
    }

    fn record(&self, ledger: &Ledger, struck_at: f64) -> DrillRecord {
        let book = ledger.book();
        let timeline = self.view.row(self.leader).and_then(|row| row.timeline).unwrap_or_default();
        DrillRecord {
            kind: self.order.kind,
            blow: (self.order.kind == DrillKind::Failover).then_some(self.order.blow),
            at: self.at.to_string(),
            from: self.leader.to_owned(),
            timeline_before: timeline,
            gap_seconds: (book.gap(struck_at, ledger.now()) * 1000.0).round() / 1000.0,
            acknowledged: book.acknowledged.len() as u64,
            unacknowledged: book.unknown.len() as u64,
            errors: book.refused,
            ..DrillRecord::default()
        }
    }

    /// Waits until every member is well: after how many seconds, or what is not; and the last look.
    async fn well(&self, ui: &mut Ui, stop: &Interrupt) -> (Result<f64, String>, Option<View>) {
        let until = Instant::now() + WELL;
        let (mut told, mut last) = (String::new(), None);
        loop {
            let ills = match view::read(self.target).await {
                Ok(view) => {
                    let ills = ailments(&view, self.order.kind, self.order.common.spare_voters).join("; ");
                    last = Some(view);
                    ills
                }
                Err(error) => format!("{error:#}"),
            };
            if ills.is_empty() {
                return (Ok((self.begun.elapsed().as_secs_f64() * 100.0).round() / 100.0), last);
            }
            if ills != told {
                self.tell(ui, &ills);
                told = ills;
            }
            if stop.came() || Instant::now() > until {
                return (Err(told), last);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Puts a result where every member sees it.
pub async fn keep(target: &Target, record: &DrillRecord) -> anyhow::Result<()> {
    let until = Instant::now() + KEEP;
    loop {
        let kept = async {
            let view = view::read(target).await?;
            let endpoints = view.in_order(view.leader());
            in_turn(target, &endpoints, |client| async move { client.keep_drill(record).await }).await?;
            anyhow::Ok(())
        };
        match kept.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => {
                return Err(error.context(format!("the result could not be kept ({})", in_words(record))));
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

fn note_outcome(record: &mut DrillRecord, view: &View) {
    record.epoch = view.cluster.matriarch.epoch;
    record.to = view.leader().unwrap_or_default().to_owned();
    record.timeline = view.leader().and_then(|leader| view.row(leader)?.timeline).unwrap_or_default();
}

/// A drill in one line.
pub fn in_words(drill: &DrillRecord) -> String {
    let lost = drill.lost_writes.map_or_else(|| "unknown".to_owned(), |lost| lost.to_string());
    let note = if drill.note.is_empty() { String::new() } else { format!(", {}", drill.note) };
    if drill.kind == DrillKind::Restore {
        let figures = drill.restore.clone().unwrap_or_default();
        let (result, ready) = (drill.result.as_str(), figures.seconds.until_ready());
        return format!(
            "restore drill {result}: backup {}, {ready:.2} s until it took connections{note}",
            figures.backup
        );
    }
    format!(
        "{} drill {}: from {} to {} (timeline {}), {:.2} s without a write, {} acknowledged, {lost} lost{note}",
        drill.kind.as_str(),
        drill.result.as_str().replace('_', " "),
        drill.from,
        drill.to,
        drill.timeline,
        drill.gap_seconds,
        drill.acknowledged
    )
}
