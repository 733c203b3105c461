//! The sum of a soak: one row for each kind of fault.

use std::collections::BTreeMap;

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
}

/// All outcomes so far. It is printed when it goes, so that a soak that fails shows what came before.
#[derive(Debug, Default)]
pub struct Table {
    seed: u64,
    rows: BTreeMap<String, Vec<Outcome>>,
}

impl Table {
    pub fn new(seed: u64) -> Table {
        Table { seed, rows: BTreeMap::new() }
    }

    /// A fault begins: until it is settled it counts as one that needs help.
    pub fn open(&mut self, kind: &str) {
        self.rows.entry(kind.to_owned()).or_default().push(Outcome { help: true, ..Outcome::default() });
    }

    /// The fault that was opened last is over.
    pub fn settle(&mut self, kind: &str, outcome: Outcome) {
        let rows = self.rows.entry(kind.to_owned()).or_default();
        rows.pop();
        rows.push(outcome);
    }

    /// Whether nothing was lost, never were there two primaries, and nobody had to help.
    pub fn is_clean(&self) -> bool {
        self.rows.values().flatten().all(|outcome| outcome.lost == 0 && outcome.dual == 0 && !outcome.help)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<22} {:>5} {:>10} {:>8} {:>5} {:>15} {:>11}",
            "fault", "count", "gap median", "gap p99", "lost", "dual primaries", "human help"
        )?;
        let all: Vec<Outcome> = self.rows.values().flatten().cloned().collect();
        for (kind, outcomes) in
            self.rows.iter().map(|(kind, outcomes)| (kind.as_str(), outcomes)).chain([("all", &all)])
        {
            let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
            let (median, p99) = (quantile(outcomes, 0.5), quantile(outcomes, 0.99));
            let (lost, dual, help) = (sum(|o| o.lost), sum(|o| o.dual), sum(|o| usize::from(o.help)));
            writeln!(
                f,
                "{kind:<22} {:>5} {median:>8.2} s {p99:>6.2} s {lost:>5} {dual:>15} {help:>11}",
                outcomes.len()
            )?;
        }
        write!(f, "MATRIARCH_SOAK_SEED={}", self.seed)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        eprintln!("\n{self}");
    }
}

fn quantile(outcomes: &[Outcome], part: f64) -> f64 {
    let mut gaps: Vec<f64> = outcomes.iter().map(|outcome| outcome.gap).collect();
    gaps.sort_by(f64::total_cmp);
    let rank = (part * gaps.len() as f64).ceil() as usize;
    gaps.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[test]
fn the_table_counts_and_ranks() {
    let mut table = Table::new(7);
    for gap in [0.3, 0.1, 0.2] {
        table.open("Frozen");
        table.settle("Frozen", Outcome { gap, ..Outcome::default() });
    }
    assert!(table.is_clean());
    table.open("Cut");
    table.settle("Cut", Outcome { gap: 1.5, lost: 2, dual: 0, help: true });
    assert!(!table.is_clean());
    let text = table.to_string();
    assert!(
        text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>()
            == ["Frozen", "3", "0.20", "s", "0.30", "s", "0", "0", "0"]),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>()
                == ["all", "4", "0.20", "s", "1.50", "s", "2", "0", "1"]),
        "{text}"
    );
}
