use clap::Parser;
use matriarch_api::{Lag, ReplicationRow, RuleView, ScheduledSwitchover, StatusPage};
use matriarch_cli::Endpoint;
use matriarch_cli::view::Answer;

use super::*;
use crate::args::DrillVerb;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    verb: DrillVerb,
}

fn args(line: &str) -> CommonArgs {
    let words = format!("x failover {line}");
    match Line::try_parse_from(words.split_whitespace()).unwrap_or_else(|error| panic!("{error}")).verb {
        DrillVerb::Failover(args) => args.common,
        _ => panic!("not a failover"),
    }
}

/// Three members that are well.
fn well() -> View {
    let mut view = View::default();
    view.cluster.matriarch.leader = Some("a".into());
    let voters = vec!["b".to_owned(), "c".to_owned()];
    view.cluster.matriarch.rule = Some(RuleView { voters, needed: 1, established: true, previous: None });
    for name in ["a", "b", "c"] {
        let state = if name == "a" { "running" } else { "streaming" };
        let row = MemberRow { name: name.into(), state: state.into(), timeline: Some(3), ..MemberRow::default() };
        view.cluster.members.push(row);
    }
    let mut page = StatusPage { cluster: view.cluster.clone(), ..StatusPage::default() };
    page.member.matriarch.store_reachable = true;
    for name in ["b:1a2b3c4d", "c:5e6f7a8b"] {
        page.member.replication.push(ReplicationRow {
            application_name: name.into(),
            state: "streaming".into(),
            flush_lag: Some(0),
            replay_lag: Some(1000),
            ..ReplicationRow::default()
        });
    }
    for name in ["a", "b", "c"] {
        let endpoint = Endpoint { name: name.into(), api_url: String::new() };
        view.answers.push(Answer { endpoint, page: Ok(page.clone()) });
    }
    view
}

fn now() -> Zoned {
    "2026-11-21T03:00:00+00:00[UTC]".parse().unwrap()
}

fn all(line: &str, view: &View) -> Vec<String> {
    refusals(&args(line), DrillKind::Failover, view, &DrillLog::default(), &now())
}

/// Exactly one reason, with these words.
#[track_caller]
fn refused(line: &str, words: &str, change: impl Fn(&mut View)) {
    let mut view = well();
    change(&mut view);
    let reasons = all(line, &view);
    assert!(matches!(&reasons[..], [only] if only.contains(words)), "{words}: {reasons:?}");
}

fn leader_page(view: &mut View) -> &mut StatusPage {
    view.answers[0].page.as_mut().unwrap()
}

#[test]
fn a_cluster_that_is_well_may_be_struck() {
    assert_eq!(all("--between 02:00-04:00 --time-zone UTC", &well()), [""; 0]);
}

#[test]
fn anything_amiss_refuses() {
    refused("", "nobody leads", |view| view.cluster.matriarch.leader = None);
    refused("", "c is away", |view| view.cluster.members[2].expired = true);
    refused("", "b is starting", |view| view.cluster.members[1].state = "starting".into());
    refused("", "b: disk", |view| view.cluster.members[1].problem = Some("disk".into()));
    refused("", "another timeline", |view| view.cluster.members[1].timeline = Some(2));
    refused("", "paused", |view| view.cluster.pause = true);
    refused("", "scheduled at", |view| view.cluster.scheduled_switchover = Some(ScheduledSwitchover::default()));
    refused("", "under way", |view| view.cluster.matriarch.handover = true);
    refused("", "store", |view| leader_page(view).member.matriarch.store_reachable = false);
    refused("", "asynchronous", |view| leader_page(view).cluster.matriarch.rule = None);
    refused("", "not established", |view| {
        leader_page(view).cluster.matriarch.rule.as_mut().unwrap().established = false;
    });
    refused("", "1 voters stream, and 2 are wanted", |view| {
        leader_page(view).member.replication[1].state = "catchup".into();
    });
    refused("--max-lag 1kB", "2000 bytes behind", |view| {
        leader_page(view).member.replication[1].replay_lag = Some(2000)
    });
    refused("--spare-voters 0", "not known", |view| drop(leader_page(view).member.replication.remove(1)));
}

#[test]
fn hours_are_those_of_the_zone() {
    let reasons = all("--between 02:00-04:00 --time-zone Asia/Tokyo", &well());
    assert!(
        matches!(&reasons[..], [only] if only.contains("12:00 JST") && only.contains("02:00-04:00")),
        "{reasons:?}"
    );
    assert_eq!(all("--between 11:30-12:30 --time-zone Asia/Tokyo", &well()), [""; 0]);
}

#[test]
fn drills_keep_their_distance() {
    let mut log = DrillLog::default();
    log.add(DrillRecord { at: "2026-11-21T02:30:00Z".into(), ..DrillRecord::default() });
    let ask = |line| refusals(&args(line), DrillKind::Switchover, &well(), &log, &now());
    assert_eq!(ask("--at-least-apart 30min"), [""; 0]);
    let reasons = ask("--at-least-apart 31min");
    assert!(matches!(&reasons[..], [only] if only.contains("2026-11-21T02:30:00Z")), "{reasons:?}");
}

#[test]
fn a_planned_move_needs_no_rule() {
    let mut view = well();
    leader_page(&mut view).cluster.matriarch.rule = None;
    assert_eq!(refusals(&args(""), DrillKind::Switchover, &view, &DrillLog::default(), &now()), [""; 0]);
}

#[test]
fn of_cascading_replicas_their_own_word_counts() {
    let mut view = well();
    leader_page(&mut view).cluster.matriarch.rule.as_mut().unwrap().voters.remove(1);
    leader_page(&mut view).member.replication.remove(1);
    view.cluster.members[2].lag = Some(Lag::Bytes(10));
    assert_eq!(all("--spare-voters 0", &view), [""; 0]);
    view.cluster.members[2].replay_lag = Some(Lag::Bytes(1 << 30));
    assert!(matches!(&all("--spare-voters 0", &view)[..], [only] if only.contains("c is 1073741824 bytes behind")));
}
