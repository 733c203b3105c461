//! What the examples are told on the command line: `--members N`, how often each fault may happen, as in `--writes 2
//! --expiries 1`, and `--mutation NAME`.
// Each of the examples uses some of it.
#![allow(dead_code)]

use matriarch_model::mutation::MUTATIONS;
use matriarch_model::setup::{Budget, Setup};

/// The command line.
pub struct Options(Vec<String>);

impl Options {
    pub fn new() -> Options {
        Options(std::env::args().skip(1).collect())
    }

    pub fn of(line: &str) -> Options {
        Options(line.split_whitespace().map(str::to_owned).collect())
    }

    pub fn value(&self, name: &str) -> Option<&String> {
        self.0.iter().position(|arg| arg == name).and_then(|at| self.0.get(at + 1))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg == name)
    }

    pub fn number(&self, name: &str, usual: usize) -> usize {
        self.value(name).map_or(usual, |text| text.parse().expect("a number"))
    }

    fn count(&self, name: &str, usual: u8) -> u8 {
        u8::try_from(self.number(name, usual as usize)).expect("a small number")
    }

    fn budget(&self) -> Budget {
        Budget {
            writes: self.count("--writes", 0),
            expiries: self.count("--expiries", 0),
            delays: self.count("--delays", 0),
            renewals: self.count("--renewals", 0),
            crashes: self.count("--crashes", 0),
            restarts: self.count("--restarts", 0),
            wipes: self.count("--wipes", 0),
            backups: self.count("--backups", 0),
            copies: self.count("--copies", 0),
            cuts: self.count("--cuts", 0),
            suspicions: self.count("--suspicions", 0),
            stops: self.count("--stops", 0),
            restores: self.count("--restores", 0),
            outages: self.count("--outages", 0),
            overrides: self.count("--overrides", 0),
            relapses: self.count("--relapses", 0),
        }
    }

    pub fn setup(&self) -> Setup {
        let mut setup = Setup::quorum(self.count("--members", 3), self.budget());
        if let Some(voters) = self.value("--voters") {
            let ids = voters.split(',').filter(|id| !id.is_empty());
            setup.voters = ids.map(|id| id.parse().expect("a number")).collect();
        }
        setup.needed = self.number("--needed", usize::from(!self.flag("--asynchronous"))) as u32;
        setup.needed_at_first = self.number("--needed-at-first", setup.needed as usize) as u32;
        if self.flag("--asynchronous") {
            setup.voters.clear();
        }
        setup.strict = self.flag("--strict");
        setup.clocked = self.flag("--clocked");
        setup.lone = self.flag("--lone");
        if let Some(name) = self.value("--mutation") {
            let known = MUTATIONS.into_iter().find(|mutation| format!("{mutation:?}") == *name);
            let mutation = known.unwrap_or_else(|| panic!("'{name}' is none of {MUTATIONS:?}"));
            setup.mutation = Some(mutation);
            if !self.flag("--writes") {
                return mutation.shows_in();
            }
        }
        setup
    }
}
