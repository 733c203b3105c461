//! From text to steps; every error names its line and what would be understood.

use std::fmt;

use matriarch_core::decide::{CrashPolicy, Millis};

use crate::fault::Fault;
use crate::node::NodeId;
use crate::others::Act;
use crate::scenario::Condition;
use crate::world::Setup;

/// A scenario, ready to run.
#[derive(Debug)]
pub struct Scenario {
    /// The cluster.
    pub setup: Setup,
    /// What happens, with the line each step stands on.
    pub steps: Vec<(usize, Step)>,
}

/// One line.
#[derive(Clone, Debug)]
pub enum Step {
    /// Agents start, their machines too.
    Start(Vec<NodeId>),
    /// Agents are asked to stop.
    Stop(Vec<NodeId>),
    /// A fault begins.
    Begin(Fault),
    /// A fault ends.
    End(Fault),
    /// Time passes.
    Run(Millis),
    /// All of it comes to hold within this time.
    Reach(Vec<Condition>, Millis),
    /// All of it goes on to hold for this time.
    Hold(Vec<Condition>, Millis),
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Counted from 1.
    pub line: usize,
    /// Why.
    pub text: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

type Parsed<T> = Result<T, String>;

/// Reads a scenario.
pub fn parse(text: &str) -> Result<Scenario, Bad> {
    let mut scenario = Scenario { setup: Setup::default(), steps: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.is_empty() {
            continue;
        }
        let bad = |text| Bad { line: at + 1, text };
        match words.as_slice() {
            ["members", names @ ..] => scenario.setup.members = names.iter().map(|name| (*name).to_owned()).collect(),
            ["set", key, value] => set(&mut scenario.setup, key, value).map_err(bad)?,
            words => {
                let step = step(&scenario.setup, words).map_err(bad)?;
                scenario.steps.push((at + 1, step));
            }
        }
    }
    Ok(scenario)
}

/// Words, with what is quoted kept together and commas standing alone.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.replace(',', " , ").split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn set(setup: &mut Setup, key: &str, value: &str) -> Parsed<()> {
    let number = || value.parse::<u32>().map_err(|_| format!("'{key}' is a number, not '{value}'"));
    let switch = || match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{key}' is on or off, not '{value}'")),
    };
    match key {
        "needed" => setup.synchronous.needed = number()?,
        "from" => setup.synchronous.from_members = number()? as usize,
        "strict" => setup.synchronous.strict = switch()?,
        "rewind" => setup.use_rewind = switch()?,
        "ttl" => setup.ttl = time(value)?,
        "shrink" => setup.shrink_delay = time(value)?,
        "nofailover" => drop(setup.nofailover.insert(value.to_owned())),
        "crash" => {
            setup.crash = match value {
                "failover" => CrashPolicy::Failover,
                "restart" => CrashPolicy::Restart,
                _ => return Err(format!("'crash' is failover or restart, not '{value}'")),
            }
        }
        _ => {
            let known = "needed, from, strict, rewind, ttl, shrink, nofailover and crash";
            return Err(format!("'{key}' cannot be set; there are {known}"));
        }
    }
    Ok(())
}

/// `5s` or `300ms`, in milliseconds.
fn time(text: &str) -> Parsed<Millis> {
    let number = |digits: &str| digits.parse::<Millis>().ok();
    let millis = match text.strip_suffix("ms") {
        Some(digits) => number(digits),
        None => text.strip_suffix('s').and_then(number).map(|seconds| seconds * 1000),
    };
    millis.ok_or_else(|| format!("'{text}' is not a time such as 5s or 300ms"))
}

/// The member of this name.
pub(super) fn member(setup: &Setup, name: &str) -> Parsed<NodeId> {
    setup
        .members
        .iter()
        .position(|member| member == name)
        .ok_or_else(|| format!("'{name}' is not a member; they are {}", setup.members.join(", ")))
}

fn members(setup: &Setup, names: &[&str]) -> Parsed<Vec<NodeId>> {
    match names {
        [] | ["all"] => Ok((0..setup.members.len()).collect()),
        names => names.iter().map(|name| member(setup, name)).collect(),
    }
}

fn step(setup: &Setup, words: &[&str]) -> Parsed<Step> {
    Ok(match *words {
        ["start", ref names @ ..] => Step::Start(members(setup, names)?),
        ["stop", ref names @ ..] if names.first() != Some(&"replay") => Step::Stop(members(setup, names)?),
        ["run", length] => Step::Run(time(length)?),
        ["wait" | "expect", ref rest @ .., "within", limit] => Step::Reach(conditions(setup, rest)?, time(limit)?),
        ["expect", ref rest @ .., "for", length] => Step::Hold(conditions(setup, rest)?, time(length)?),
        ["wait", ref rest @ ..] => Step::Reach(conditions(setup, rest)?, 60_000),
        ["expect", ref rest @ ..] => Step::Reach(conditions(setup, rest)?, 0),
        ["heal", ref rest @ ..] => Step::End(fault(setup, rest)?),
        _ => Step::Begin(fault(setup, words)?),
    })
}

fn fault(setup: &Setup, words: &[&str]) -> Parsed<Fault> {
    let of = |name: &str| member(setup, name);
    Ok(match *words {
        ["kill", "postmaster", name] => Fault::KillPostmaster(of(name)?),
        ["kill", "agent", name] => Fault::KillAgent(of(name)?),
        ["kill", "node", name] => Fault::KillNode(of(name)?),
        ["cut", "power", "of", "all"] => Fault::PowerCutAll,
        ["cut", "power", "of", name] => Fault::PowerCut(of(name)?),
        ["freeze", "node", name] => Fault::Freeze(of(name)?),
        ["freeze", "agent", name] => Fault::FreezeAgent(of(name)?),
        ["wipe", name] => Fault::Wipe(of(name)?),
        ["garbage", name] => Fault::Garbage(of(name)?),
        ["restore", "backup", name] => Fault::Restore(of(name)?),
        ["store", "down"] => Fault::StoreDown,
        ["store", "wiped"] => Fault::WipeStore,
        ["store", "restored", length] => Fault::RestoreStore(time(length)?),
        ["store", "forgets", "answers"] => Fault::LostAnswers,
        ["store", "is", "slow"] => Fault::DelayedRequests,
        ["cut", "store", "from", name] => Fault::CutOff(of(name)?),
        ["cut", name, "from", "members"] => Fault::CutFromMembers(of(name)?),
        ["cut", name, "from", "all"] => Fault::CutFromAll(of(name)?),
        ["silence", a, "towards", b] => Fault::Silence(of(a)?, of(b)?),
        ["heartbeats", "are", "unsteady"] => Fault::UnsteadyBeats,
        ["cut", a, "from", b] => Fault::Cut(of(a)?, of(b)?),
        ["slow", "disk", name, length] => Fault::SlowDisk(of(name)?, time(length)?),
        ["stall", "disk", name] => Fault::StallDisk(of(name)?),
        ["fill", "disk", name] => Fault::FillDisk(of(name)?),
        ["hang", "postmaster", name] => Fault::HangPostmaster(of(name)?),
        ["stop", "replay", "of", name] => Fault::StopReplay(of(name)?),
        ["jobs", "fail"] => Fault::Flaky,
        ["switchover"] => Fault::Switchover(None),
        ["switchover", "to", name] => Fault::Switchover(Some(of(name)?)),
        ["accept", "loss", "on", name] => Fault::AcceptLoss(of(name)?),
        ["reinit", name] => Fault::Reinit(of(name)?),
        ["pause"] => Fault::Pause,
        ["foreign", name] => Fault::Foreign(of(name)?),
        ["other", "program", ref does @ ..] => Fault::Others(other_program(setup, does)?),
        ["promote", name, "by", "hand"] => Fault::Others(Act::Promote(of(name)?)),
        ["do", "what", "refusals", "ask"] => Fault::Others(Act::Amend),
        ["router"] => Fault::Router(true),
        ["router", "that", "never", "answers"] => Fault::Router(false),
        _ => {
            return Err(format!(
                "'{}' is not understood; the README beside the scenarios has the words",
                words.join(" ")
            ));
        }
    })
}

fn other_program(setup: &Setup, words: &[&str]) -> Parsed<Act> {
    let of = |name: &str| member(setup, name);
    Ok(match *words {
        ["keeps", "the", "cluster"] => Act::Keep,
        ["stops", "on", name] => Act::Stop(of(name)?),
        ["dies", "on", name] => Act::Die(of(name)?),
        ["returns", "on", name] => Act::Return(of(name)?),
        _ => {
            return Err(format!(
                "the other program keeps the cluster, stops, dies or returns on a member, not '{}'",
                words.join(" ")
            ));
        }
    })
}

fn conditions(setup: &Setup, words: &[&str]) -> Parsed<Vec<Condition>> {
    words.split(|word| *word == ",").map(|words| Condition::parse(setup, words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).expect_err("it was accepted").to_string()
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        assert_eq!(error("members a b\n\nkill node x"), "line 3: 'x' is not a member; they are a, b");
        assert!(error("set colour red").starts_with("line 1: 'colour' cannot be set; there are needed,"));
        assert_eq!(error("# hello\nrun fast"), "line 2: 'fast' is not a time such as 5s or 300ms");
        assert!(error("dance").starts_with("line 1: 'dance' is not understood"));
        assert!(error("expect rain").contains("'rain' is not a condition"));
    }

    #[test]
    fn quotes_keep_commas_together() {
        let scenario = parse("wait leader a, rule \"any 1 of b, c\" within 2s").expect("it is well written");
        let Some((1, Step::Reach(conditions, 2000))) = scenario.steps.first() else { panic!("{scenario:?}") };
        assert_eq!(conditions.len(), 2);
    }
}
