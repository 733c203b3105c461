//! What must hold before anything is struck. Every reason against it is named at once.

use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;
use matriarch_api::{DrillKind, DrillLog, DrillRecord, MemberRow, StatusPage};
use matriarch_cli::view::View;

use crate::args::{CommonArgs, WhenArgs};

/// Reasons against a drill at this moment; none when it may be.
pub fn refusals(args: &CommonArgs, kind: DrillKind, view: &View, log: &DrillLog, now: &Zoned) -> Vec<String> {
    let mut reasons = ailments(view, kind, args.spare_voters);
    reasons.extend(lag(view, args.max_lag));
    if view.cluster.pause {
        reasons.push("the cluster is paused: 'matriarch resume' first".to_owned());
    }
    if let Some(planned) = &view.cluster.scheduled_switchover {
        reasons.push(format!("a switchover is scheduled at {}: wait for it, or cancel it", planned.at));
    }
    reasons.extend(untimely(&args.when, kind, log, now));
    reasons
}

/// Reasons against a drill at this hour.
pub fn untimely(when: &WhenArgs, kind: DrillKind, log: &DrillLog, now: &Zoned) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(window) = &when.between {
        let zone = when.time_zone.clone().unwrap_or_else(TimeZone::system);
        let local = now.with_time_zone(zone);
        if !window.contains(local.time()) {
            reasons.push(format!("it is {}, outside of {window}", local.strftime("%H:%M %Z")));
        }
    }
    if let Some(apart) = when.at_least_apart {
        // A restore disturbs nobody who practises moves, nor the other way round.
        let alike = |drill: &&DrillRecord| (drill.kind == DrillKind::Restore) == (kind == DrillKind::Restore);
        let last = log.drills.iter().rev().find(alike).and_then(|drill| drill.at.parse::<jiff::Timestamp>().ok());
        let since = last.map(|last| (last, now.timestamp().as_second() - last.as_second()));
        if let Some((last, _)) = since.filter(|(_, since)| *since < seconds(apart)) {
            reasons.push(format!("the last drill was at {last}, less than {} s ago", apart.as_secs()));
        }
    }
    reasons
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// What is not well with the cluster; none when all of it is.
pub fn ailments(view: &View, kind: DrillKind, spare_voters: u32) -> Vec<String> {
    let Some(leader) = view.leader() else { return vec!["nobody leads".to_owned()] };
    let mut ills: Vec<String> = view.cluster.members.iter().filter_map(|row| of_member(view, row, leader)).collect();
    let Some(page) = view.page(leader) else {
        ills.push(format!("{leader} leads and its agent does not answer"));
        return ills;
    };
    if view.cluster.members.len() < 2 {
        ills.push(format!("there is no member beside {leader} to take over"));
    }
    if view.cluster.matriarch.handover {
        ills.push("a switchover is under way".to_owned());
    }
    if !page.member.matriarch.store_reachable {
        ills.push(format!("{leader} cannot reach the store"));
    }
    ills.extend(of_rule(page, kind, spare_voters));
    ills
}

fn of_member(view: &View, row: &MemberRow, leader: &str) -> Option<String> {
    let name = &row.name;
    let (well, wanted) =
        if name == leader { (row.state == "running", "running") } else { (row.follows(), "streaming") };
    let timeline = view.row(leader).and_then(|leader| leader.timeline);
    match () {
        () if row.expired => Some(format!("{name} is away")),
        () if view.answered(name) == Some(false) => Some(format!("the agent of {name} does not answer")),
        () if row.problem.is_some() => row.problem.as_ref().map(|problem| format!("{name}: {problem}")),
        () if !well => Some(format!("{name} is {}, not {wanted}", row.state)),
        () if row.timeline != timeline => Some(format!("{name} is on another timeline than {leader}")),
        () => None,
    }
}

/// A planned move loses nothing under any rule; a crash loses nothing only under one that is proved.
fn of_rule(page: &StatusPage, kind: DrillKind, spare: u32) -> Option<String> {
    let Some(rule) = page.cluster.matriarch.rule.as_ref().filter(|rule| rule.needed > 0) else {
        let text =
            "the cluster is asynchronous: a crash may lose what was acknowledged, so only 'drill switchover' is safe";
        return (kind == DrillKind::Failover).then(|| text.to_owned());
    };
    if !rule.established {
        return Some("the durability rule is not established (yet)".to_owned());
    }
    let streams = |name: &&String| {
        let prefix = format!("{name}:");
        let mut rows = page.member.replication.iter().filter(|row| row.state == "streaming");
        rows.any(|row| row.application_name.starts_with(&prefix))
    };
    let living = rule.voters.iter().filter(streams).count();
    let wanted = rule.needed + spare;
    let short = living < wanted as usize;
    short.then(|| {
        format!("{living} voters stream, and {wanted} are wanted ({} for a commit and {spare} to spare)", rule.needed)
    })
}

fn lag(view: &View, limit: u64) -> Vec<String> {
    let Some(leader) = view.leader() else { return Vec::new() };
    let replication = view.page(leader).map(|page| page.member.replication.as_slice()).unwrap_or_default();
    let followers = view.cluster.members.iter().filter(|row| row.name != leader && !row.expired);
    let behind = |row: &MemberRow| {
        let prefix = format!("{}:", row.name);
        // What the leader says now; of those who stream from another member, what they last said themselves.
        match replication.iter().find(|one| one.application_name.starts_with(&prefix)) {
            Some(one) => one.flush_lag.max(one.replay_lag),
            None => row.lag.and_then(|lag| lag.bytes()).max(row.replay_lag.and_then(|lag| lag.bytes())),
        }
    };
    let far = |row: &MemberRow| match behind(row) {
        Some(bytes) if bytes > limit => Some(format!("{} is {bytes} bytes behind, more than {limit}", row.name)),
        None => Some(format!("how far {} is behind is not known", row.name)),
        Some(_) => None,
    };
    followers.filter_map(far).collect()
}

#[cfg(test)]
mod tests;
