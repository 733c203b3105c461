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
        let (kind, Outcome { gap, lost, dual, .. }) = (entry.kind.clone(), entry.outcome.clone());
        let steps: Vec<String> = entry.outcome.steps.iter().map(|(step, took)| format!("{step} {took:.1}")).collect();
        let settled = self.settled();
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!(
            "{seconds:8.1} s  {settled} of {} done: {number} {kind} of {victim} (deck {deck}): gap {gap:.2} s, \
             {lost} lost, {dual} dual ({})",
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
            let Outcome { gap, lost, dual, help, steps } = &entry.outcome;
            let steps: serde_json::Map<String, Value> =
                steps.iter().map(|(step, took)| ((*step).to_owned(), json!(took))).collect();
            json!({"kind": entry.kind, "deck": entry.deck, "victim": entry.victim, "gap": gap, "lost": lost,
                "dual_primaries": dual, "human_help": help, "steps": steps})
        });
        let rows = self.rows().into_iter().map(|row| {
            json!({"kind": row.kind, "count": row.count, "gap_median": row.median, "gap_p99": row.p99, "lost": row.lost,
                "dual_primaries": row.dual, "human_help": row.help})
        });
        json!({"seed": self.seed, "seconds": self.begun.elapsed().as_secs_f64(), "lost_elsewhere": self.blamed,
            "table": rows.collect::<Vec<_>>(), "faults": faults.collect::<Vec<_>>()})
    }
}

/// One kind of fault.
struct Row {
    kind: String,
    count: usize,
    median: f64,
    p99: f64,
    lost: usize,
    dual: usize,
    help: usize,
}

impl Row {
    fn new(kind: &str, outcomes: &[&Outcome]) -> Row {
        let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(|outcome| of(outcome)).sum::<usize>();
        Row {
            kind: kind.to_owned(),
            count: outcomes.len(),
            median: quantile(outcomes, 0.5),
            p99: quantile(outcomes, 0.99),
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
            "{:<22} {:>5} {:>10} {:>8} {:>5} {:>15} {:>11}",
            "fault", "count", "gap median", "gap p99", "lost", "dual primaries", "human help"
        )?;
        for Row { kind, count, median, p99, lost, dual, help } in self.rows() {
            writeln!(f, "{kind:<22} {count:>5} {median:>8.2} s {p99:>6.2} s {lost:>5} {dual:>15} {help:>11}")?;
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
    table.settle(number, 0, "a", Outcome { gap: 1.5, lost: 2, dual: 0, help: true, steps: Vec::new() });
    assert!(!table.is_clean());
    let text = table.to_string();
    let shown = |words: &[&str]| text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words);
    assert!(shown(&["Frozen", "3", "0.20", "s", "0.30", "s", "0", "0", "0"]), "{text}");
    assert!(shown(&["all", "4", "0.20", "s", "1.50", "s", "2", "0", "1"]), "{text}");
}
