//! The sum of a soak: one row for each kind of fault.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

/// What one fault came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The longest pause of writes, in seconds.
    pub gap: f64,
    /// Acknowledged and gone, or answered in contradiction.
    pub lost: usize,
    /// Moments with two members that took writes.
    pub dual: usize,
    /// Plain reads that showed the past, for no longer than they may: older ones are counted as lost, too.
    pub old_reads: usize,
    /// The age of the oldest, in seconds.
    pub oldest: f64,
    /// Nothing happened: a switchover that was called off. It is no fault that was survived.
    pub called_off: bool,
    /// Whether somebody would have had to help.
    pub help: bool,
    /// Seconds of each step.
    pub steps: Vec<(&'static str, f64)>,
}

#[derive(Debug)]
struct Entry {
    kind: String,
    deck: usize,
    victim: String,
    settled: bool,
    outcome: Outcome,
}

/// All outcomes so far. It is printed when it goes, so that a soak that fails shows what came before, and written to the
/// file that `MATRIARCH_SOAK_OUTPUT` names.
#[derive(Debug)]
pub struct Table {
    seed: u64,
    faults: usize,
    begun: Instant,
    entries: Vec<Entry>,
    /// Rows lost that cannot be laid at one fault's door.
    blamed: BTreeMap<&'static str, usize>,
}

impl Table {
    pub fn new(seed: u64, faults: usize) -> Table {
        Table { seed, faults, begun: Instant::now(), entries: Vec::new(), blamed: BTreeMap::new() }
    }

    /// A fault begins: until it is settled it counts as one that needs help. Gives back its number.
    pub fn open(&mut self, kind: &str) -> usize {
        let outcome = Outcome { help: true, ..Outcome::default() };
        let (kind, victim) = (kind.to_owned(), String::new());
        self.entries.push(Entry { kind, deck: 0, victim, settled: false, outcome });
        self.entries.len()
    }

    /// A fault is over, and says so.
    pub fn settle(&mut self, number: usize, deck: usize, victim: &str, outcome: Outcome) {
        let entry = &mut self.entries[number - 1];
        *entry = Entry { kind: entry.kind.clone(), deck, victim: victim.to_owned(), settled: true, outcome };
        let (kind, outcome) = (entry.kind.clone(), entry.outcome.clone());
        let Outcome { gap, lost, dual, old_reads, oldest, .. } = outcome;
        let called_off = if outcome.called_off { "called off, " } else { "" };
        let steps: Vec<String> = entry.outcome.steps.iter().map(|(step, took)| format!("{step} {took:.1}")).collect();
        let settled = self.settled();
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!(
            "{seconds:8.1} s  {settled} of {} done: {number} {kind} of {victim} (deck {deck}): {called_off}gap {gap:.2} s, \
             {lost} lost, {dual} dual, {old_reads} old reads up to {oldest:.2} s ({})",
            self.faults,
            steps.join(", ")
        );
    }

    /// Something was lost, and nobody knows at which fault.
    pub fn blame(&mut self, what: &'static str, lost: usize) {
        *self.blamed.entry(what).or_default() += lost;
    }

    /// How many faults are over.
    pub fn settled(&self) -> usize {
        self.entries.iter().filter(|entry| entry.settled).count()
    }

    /// Whether nothing was lost, never were there two primaries, and nobody had to help.
    pub fn is_clean(&self) -> bool {
        let clean = |outcome: &Outcome| outcome.lost == 0 && outcome.dual == 0 && !outcome.help;
        self.blamed.is_empty() && self.entries.iter().all(|entry| clean(&entry.outcome))
    }

    fn rows(&self) -> Vec<Row> {
        let mut kinds: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for entry in &self.entries {
            kinds.entry(&entry.kind).or_default().push(&entry.outcome);
        }
        let all = self.entries.iter().map(|entry| &entry.outcome).collect();
        kinds.into_iter().chain([("all", all)]).map(|(kind, outcomes)| Row::new(kind, &outcomes)).collect()
    }

    fn to_json(&self) -> Value {
        let faults = self.entries.iter().map(|entry| {
            let Outcome { gap, lost, dual, old_reads, oldest, called_off, help, steps } = &entry.outcome;
            let steps: serde_json::Map<String, Value> =
                steps.iter().map(|(step, took)| ((*step).to_owned(), json!(took))).collect();
            json!({"kind": entry.kind, "deck": entry.deck, "victim": entry.victim, "gap": gap, "lost": lost,
                "dual_primaries": dual, "old_reads": old_reads, "oldest_read": oldest, "called_off": called_off,
                "human_help": help, "steps": steps})
        });
        let rows = self.rows().into_iter().map(|row| {
            json!({"kind": row.kind, "count": row.count, "called_off": row.called_off, "gap_median": row.median,
                "gap_p99": row.p99, "lost": row.lost, "dual_primaries": row.dual, "old_reads": row.old_reads,
                "oldest_read": row.oldest, "human_help": row.help})
        });
        json!({"seed": self.seed, "seconds": self.begun.elapsed().as_secs_f64(), "lost_elsewhere": self.blamed,
            "table": rows.collect::<Vec<_>>(), "faults": faults.collect::<Vec<_>>()})
    }
}

/// One kind of fault.
struct Row {
    kind: String,
    count: usize,
    /// Not among those that are counted, nor in the gaps.
    called_off: usize,
    median: f64,
    p99: f64,
    lost: usize,
    dual: usize,
    old_reads: usize,
    oldest: f64,
    help: usize,
}

impl Row {
    fn new(kind: &str, outcomes: &[&Outcome]) -> Row {
        let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(|outcome| of(outcome)).sum::<usize>();
        let happened: Vec<&Outcome> = outcomes.iter().copied().filter(|outcome| !outcome.called_off).collect();
        Row {
            kind: kind.to_owned(),
            count: happened.len(),
            called_off: outcomes.len() - happened.len(),
            median: quantile(&happened, 0.5),
            p99: quantile(&happened, 0.99),
            old_reads: sum(|o| o.old_reads),
            oldest: outcomes.iter().map(|outcome| outcome.oldest).fold(0.0, f64::max),
            lost: sum(|o| o.lost),
            dual: sum(|o| o.dual),
            help: sum(|o| usize::from(o.help)),
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<22} {:>5} {:>10} {:>10} {:>8} {:>5} {:>14} {:>9} {:>7} {:>10}",
            "fault",
            "count",
            "called off",
            "gap median",
            "gap p99",
            "lost",
            "dual primaries",
            "old reads",
            "oldest",
            "human help"
        )?;
        for Row { kind, count, called_off, median, p99, lost, dual, old_reads, oldest, help } in self.rows() {
            writeln!(
                f,
                "{kind:<22} {count:>5} {called_off:>10} {median:>8.2} s {p99:>6.2} s {lost:>5} {dual:>14} {old_reads:>9} \
                 {oldest:>5.2} s {help:>10}"
            )?;
        }
        for (what, lost) in &self.blamed {
            writeln!(f, "{what}: {lost} lost")?;
        }
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        write!(f, "{} faults in {minutes:.1} min, MATRIARCH_SOAK_SEED={}", self.settled(), self.seed)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        eprintln!("\n{self}");
        let Some(path) = std::env::var_os("MATRIARCH_SOAK_OUTPUT") else { return };
        if let Err(error) = std::fs::write(&path, format!("{:#}\n", self.to_json())) {
            eprintln!("writing {}: {error}", path.display());
        }
    }
}

fn quantile(outcomes: &[&Outcome], part: f64) -> f64 {
    let mut gaps: Vec<f64> = outcomes.iter().map(|outcome| outcome.gap).collect();
    gaps.sort_by(f64::total_cmp);
    let rank = (part * gaps.len() as f64).ceil() as usize;
    gaps.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[test]
fn the_table_counts_and_ranks() {
    let mut table = Table::new(7, 4);
    for gap in [0.3, 0.1, 0.2] {
        let number = table.open("Frozen");
        table.settle(number, 0, "a", Outcome { gap, ..Outcome::default() });
    }
    assert!(table.is_clean());
    let number = table.open("Cut");
    assert!(!table.is_clean(), "what is not settled needs help");
    table.settle(
        number,
        0,
        "a",
        Outcome { gap: 1.5, lost: 2, help: true, old_reads: 3, oldest: 0.25, ..Outcome::default() },
    );
    assert!(!table.is_clean());
    let number = table.open("Switchover");
    table.settle(number, 0, "a", Outcome { gap: 9.0, called_off: true, ..Outcome::default() });
    let text = table.to_string();
    let shown = |words: &str| text.lines().any(|line| line.split_whitespace().eq(words.split(' ')));
    assert!(shown("Frozen 3 0 0.20 s 0.30 s 0 0 0 0.00 s 0"), "{text}");
    assert!(shown("Switchover 0 1 0.00 s 0.00 s 0 0 0 0.00 s 0"), "what did not happen was not survived: {text}");
    assert!(shown("all 4 1 0.20 s 1.50 s 2 0 3 0.25 s 1"), "{text}");
}
