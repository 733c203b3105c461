//! `failover --accept-data-loss`: what is known about the loss, told before anything is asked.

use matriarch_api::{ClusterStatus, KnownRow};
use serde::Serialize;

use crate::fail::{Failure, code};
use crate::grid::{Grid, Part, Tone};
use crate::ui::Ui;
use crate::units;
use crate::view::View;

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    member: String,
    /// Its agent answers now.
    answers: bool,
    timeline: Option<u32>,
    /// End of its write-ahead log: now if it answers, else as last known.
    lsn: Option<u64>,
    /// Commit time of the newest transaction it has replayed.
    last_replayed: Option<String>,
    /// Of one that does not answer: when a leader last heard of it.
    known_at: Option<String>,
}

/// What is known of all members.
pub fn standings(view: &View) -> Vec<Standing> {
    let members = view.cluster.members.iter().map(|row| row.name.as_str());
    members.map(|name| living(view, name).unwrap_or_else(|| gone(&view.cluster, name))).collect()
}

fn living(view: &View, name: &str) -> Option<Standing> {
    let member = &view.page(name)?.member;
    let xlog = member.xlog.clone().unwrap_or_default();
    let known = last_known(&view.cluster, name);
    let now = xlog.location.max(xlog.received_location).max(xlog.replayed_location);
    Some(Standing {
        member: name.to_owned(),
        answers: true,
        timeline: member.timeline.or_else(|| known.map(|known| known.timeline)),
        lsn: now.or_else(|| known.map(|known| known.lsn)),
        last_replayed: xlog.replayed_timestamp,
        known_at: known.filter(|_| now.is_none()).map(|known| known.at.clone()),
    })
}

fn gone(cluster: &ClusterStatus, name: &str) -> Standing {
    let known = last_known(cluster, name);
    Standing {
        member: name.to_owned(),
        answers: false,
        timeline: known.map(|known| known.timeline),
        lsn: known.map(|known| known.lsn),
        last_replayed: None,
        known_at: known.map(|known| known.at.clone()),
    }
}

fn last_known<'a>(cluster: &'a ClusterStatus, name: &str) -> Option<&'a KnownRow> {
    cluster.matriarch.known.iter().find(|known| known.member == name)
}

/// Tells what is known and what is not.
pub fn tell(ui: &mut Ui, view: &View, candidate: &str) -> anyhow::Result<()> {
    let standings = standings(view);
    let text = ui.rendered(&standings, || parts(&standings, candidate))?;
    ui.note(text.trim_end());
    Ok(())
}

fn parts(standings: &[Standing], candidate: &str) -> Vec<Part> {
    let head = ["Member", "Agent", "TL", "Position", "Last replayed commit", "Known at"];
    let mut grid = Grid::new(&head).numeric(&["TL", "Position"]);
    for standing in standings {
        let tone = if standing.member == candidate { Tone::Strong } else { Tone::Plain };
        let known_at = match (&standing.known_at, standing.answers) {
            (Some(at), _) => at.clone(),
            (None, true) => "now".to_owned(),
            (None, false) => "never".to_owned(),
        };
        grid.row(
            tone,
            vec![
                standing.member.clone(),
                if standing.answers { "answers" } else { "does not answer" }.to_owned(),
                standing.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
                standing.lsn.map_or_else(|| "unknown".to_owned(), units::lsn),
                standing.last_replayed.clone().unwrap_or_default(),
                known_at,
            ],
        );
    }
    let lines = words(standings, candidate).into_iter().map(|line| Part::Line(Tone::Warn, line));
    std::iter::once(Part::Grid(grid)).chain(lines).collect()
}

/// What follows from it, in words.
fn words(standings: &[Standing], candidate: &str) -> Vec<String> {
    let place = |standing: &Standing| Some((standing.timeline?, standing.lsn?));
    let chosen = standings.iter().find(|standing| standing.member == candidate);
    let ours = chosen.and_then(place);
    let mut lines = Vec::new();
    match ours {
        Some((timeline, lsn)) => {
            lines.push(format!("{candidate} would go on from {} on timeline {timeline}.", units::lsn(lsn)));
        }
        None => lines.push(format!("How far {candidate} reaches is not known now.")),
    }
    for other in standings.iter().filter(|standing| standing.member != candidate) {
        let name = &other.member;
        match (place(other), ours) {
            (None, _) => lines.push(format!("How far {name} was is not known.")),
            (Some((there, theirs)), Some((here, lsn))) if (there, theirs) > (here, lsn) => {
                let much = if there == here { units::bytes(theirs - lsn) } else { "an unknown amount".to_owned() };
                let remedy = if other.answers { ": name it instead" } else { "" };
                lines.push(format!("{name} was further: at least {much} of what was written is lost{remedy}."));
            }
            _ => {}
        }
    }
    let silent: Vec<&str> =
        standings.iter().filter(|standing| !standing.answers).map(|standing| standing.member.as_str()).collect();
    if !silent.is_empty() {
        lines.push(format!(
            "What {} wrote and confirmed after the times above is not known, and is lost with them. Make sure that they are \
             stopped and cut off: one that still runs somewhere may go on accepting writes, which are lost too.",
            silent.join(" and ")
        ));
    }
    lines
}

/// Has the person type the name of the cluster, unless forced.
pub fn consent(ui: &mut Ui, view: &View, candidate: &str, force: bool) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    let scope = &view.cluster.scope;
    if !ui.prompt.interactive() {
        let text =
            format!("this may lose acknowledged commits of {scope}, and there is no terminal to ask at; add --force");
        return Err(Failure::new(code::USAGE, text).into());
    }
    let question =
        format!("To make {candidate} the primary and accept that loss, type the name of the cluster ({scope})");
    if ui.prompt.answer(&question)?.trim() == scope {
        return Ok(());
    }
    Err(Failure::new(code::USAGE, "nothing was done: that is not the cluster's name").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(member: &str, answers: bool, lsn: Option<u64>) -> Standing {
        Standing {
            member: member.into(),
            answers,
            timeline: lsn.map(|_| 2),
            lsn,
            last_replayed: None,
            known_at: (!answers).then(|| "2026-11-21T10:00:00Z".into()),
        }
    }

    #[test]
    fn the_loss_is_told_as_far_as_it_is_known() {
        let all = [standing("a", false, Some(5000)), standing("b", false, None), standing("c", true, Some(4000))];
        let told = words(&all, "c").join("\n");
        for part in [
            "c would go on from 0/FA0 on timeline 2",
            "a was further: at least 1000 B",
            "How far b was is not known",
            "a and b",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let better = [standing("c", true, Some(4000)), standing("d", true, Some(4001))];
        let told = words(&better, "c").join("\n");
        assert!(told.contains("d was further: at least 1 B of what was written is lost: name it instead"), "{told}");
        assert_eq!(words(&better, "d").len(), 1);
    }
}
