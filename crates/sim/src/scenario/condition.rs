//! What a scenario may expect of the world.

use crate::node::{Node, NodeId};
use crate::scenario::parse::member;
use crate::server::Process;
use crate::world::{Setup, World};

/// One thing that holds or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// One of these leads and accepts writes.
    Leader(Vec<NodeId>),
    /// Nobody accepts writes as the leader.
    NoLeader,
    /// The published rule, as people read it.
    Rule(String),
    /// The published rule is not established yet.
    RuleUnproved,
    /// Every member is well and the rule is as wanted.
    Healthy,
    /// This member is well.
    Well(NodeId),
    /// Commits are acknowledged.
    Writes,
    /// No commit is acknowledged.
    NoWrites,
    /// Nothing acknowledged is missing, and no other invariant was broken.
    NothingLost,
    /// A takeover has given up acknowledged commits, or none has.
    LossAccepted(bool),
    /// The epoch.
    Epoch(u64),
    /// The member's last reason has this code.
    Why(NodeId, String),
    /// The member says that something stands in its way, in words that contain these.
    Problem(NodeId, String),
    /// PostgreSQL runs, or every process of it is gone.
    Runs(NodeId, bool),
    /// It accepts no writes, whether it runs or not.
    ReadOnly(NodeId),
    /// The data is another than when the last fault began, or still the same.
    NewData(NodeId, bool),
}

/// What conditions compare with: the world when the last fault began.
#[derive(Debug, Default)]
pub struct Before {
    /// Commits acknowledged.
    pub acknowledged: u64,
    /// Identity of each member's data.
    pub data: Vec<Option<String>>,
}

/// The identity of each member's data now.
pub(super) fn identities(world: &World) -> Vec<Option<String>> {
    let identity = |node: &Node| Some(node.disk.dir()?.incarnation.as_ref()?.to_string());
    world.nodes.iter().map(identity).collect()
}

impl Condition {
    /// Reads a condition.
    pub fn parse(setup: &Setup, words: &[&str]) -> Result<Condition, String> {
        let of = |name: &str| member(setup, name);
        Ok(match *words {
            ["leader", ref names @ ..] => {
                let names: Vec<_> = names.iter().filter(|word| **word != "or").map(|name| of(name)).collect();
                Condition::Leader(names.into_iter().collect::<Result<_, _>>()?)
            }
            ["no", "leader"] => Condition::NoLeader,
            ["rule", text] => Condition::Rule(text.to_owned()),
            ["rule", "not", "established"] => Condition::RuleUnproved,
            ["members", "healthy"] => Condition::Healthy,
            ["writes"] => Condition::Writes,
            ["no", "writes"] => Condition::NoWrites,
            ["nothing", "lost"] => Condition::NothingLost,
            ["loss", "accepted"] => Condition::LossAccepted(true),
            ["no", "loss", "accepted"] => Condition::LossAccepted(false),
            ["epoch", number] => {
                Condition::Epoch(number.parse().map_err(|_| format!("'{number}' is not the number of an epoch"))?)
            }
            [name, "healthy"] => Condition::Well(of(name)?),
            [name, "decides", code] => Condition::Why(of(name)?, code.to_owned()),
            [name, "complains", text] => Condition::Problem(of(name)?, text.to_owned()),
            [name, "runs"] => Condition::Runs(of(name)?, true),
            [name, "stopped"] => Condition::Runs(of(name)?, false),
            [name, "read-only"] => Condition::ReadOnly(of(name)?),
            [name, "has", "new", "data"] => Condition::NewData(of(name)?, true),
            [name, "has", "its", "data"] => Condition::NewData(of(name)?, false),
            _ => return Err(format!("'{}' is not a condition; the README has the words", words.join(" "))),
        })
    }

    /// Why it does not hold, if it does not.
    pub fn missing(&self, world: &mut World, before: &Before) -> Option<String> {
        let fails = |holds: bool, text: String| (!holds).then_some(text);
        let code = |world: &World, node: NodeId| world.nodes[node].agent.why.as_ref().map_or("-", |why| why.code);
        match self {
            Condition::Leader(nodes) => {
                let leader = world.primary();
                let holds = leader.is_some_and(|leader| nodes.contains(&leader));
                fails(holds, format!("the leader is {:?}", leader.map(|leader| world.nodes[leader].name.to_string())))
            }
            Condition::NoLeader => fails(world.primary().is_none(), "there is a leader".to_owned()),
            Condition::Rule(text) => {
                let rule = world.store.view().cluster.sync.as_ref().map(|sync| sync.value.rule.to_string());
                fails(rule.as_ref() == Some(text), format!("the rule is {rule:?}"))
            }
            Condition::RuleUnproved => {
                let established = world.store.view().cluster.sync.as_ref().is_some_and(|sync| sync.value.established);
                fails(!established, "the rule is established".to_owned())
            }
            Condition::Healthy => world.trouble(),
            Condition::Well(node) => world.ailment(*node),
            Condition::Writes => {
                fails(world.checker.acknowledged > before.acknowledged + 2, "no commit is acknowledged".to_owned())
            }
            Condition::NoWrites => {
                fails(world.checker.acknowledged == before.acknowledged, "commits are acknowledged".to_owned())
            }
            Condition::NothingLost => world.checker.violation.clone(),
            Condition::LossAccepted(wanted) => {
                let sync = world.store.view().cluster.sync.as_ref().map(|sync| sync.value.clone());
                let loss = sync.and_then(|sync| sync.accepted_loss);
                fails(loss.is_some() == *wanted, format!("the loss accepted is {loss:?}"))
            }
            Condition::Epoch(number) => {
                let epoch = world.store.view().cluster.sync.as_ref().map_or(0, |sync| sync.value.epoch);
                fails(epoch == *number, format!("the epoch is {epoch}"))
            }
            Condition::Why(node, wanted) => {
                let code = code(world, *node);
                fails(code == wanted, format!("{} decides {code}", world.nodes[*node].name))
            }
            Condition::Problem(node, text) => {
                let problem = world.nodes[*node].agent.problem.clone().unwrap_or_default();
                fails(problem.contains(text), format!("{} complains '{problem}'", world.nodes[*node].name))
            }
            Condition::Runs(node, runs) => {
                let process = world.nodes[*node].pg.process;
                let holds =
                    if *runs { matches!(process, Process::Running { .. }) } else { process == Process::Stopped };
                fails(holds, format!("PostgreSQL of {} is {process:?}", world.nodes[*node].name))
            }
            Condition::ReadOnly(node) => {
                fails(!world.nodes[*node].pg.writable(), format!("{} accepts writes", world.nodes[*node].name))
            }
            Condition::NewData(node, new) => {
                let now = identities(world);
                let changed = now[*node].is_some() && now.get(*node) != before.data.get(*node);
                fails(changed == *new, format!("the data of {} is {:?}", world.nodes[*node].name, now[*node]))
            }
        }
    }
}
