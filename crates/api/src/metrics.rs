//! Metrics as OpenMetrics text: Patroni's names with Patroni's labels, so that dashboards go on working, then ours.
//!
//! Written from the snapshot at each scrape, so nothing is kept between scrapes. Patroni calls its log positions
//! counters; here they are gauges, since OpenMetrics would force the suffix `_total` onto their names.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use crate::backend::Live;
use crate::types::{
    ArchiveStatus, ClusterStatus, DrillKind, DrillLog, DrillResult, MemberStatus, ScheduledBackups, ScheduledDumps,
};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Patroni's numbers for its states, by position.
const STATES: &[&str] = &[
    "initdb",
    "initdb_failed",
    "custom_bootstrap",
    "custom_bootstrap_failed",
    "creating_replica",
    "running",
    "starting",
    "bootstrap_starting",
    "start_failed",
    "restarting",
    "restart_failed",
    "stopping",
    "stopped",
    "stop_failed",
    "crashed",
];

/// Everything about a member, as text.
pub fn render(
    member: &MemberStatus,
    cluster: &ClusterStatus,
    drills: &DrillLog,
    archive: &ArchiveStatus,
    live: Live,
    failsafe: Option<&BTreeMap<String, String>>,
) -> String {
    let mut page = Page::new(&member.patroni.scope, &member.patroni.name);
    of_postgres(&mut page, member);
    of_patroni(&mut page, member, failsafe);
    of_member(&mut page, member, live);
    of_cluster(&mut page, cluster);
    of_drills(&mut page, drills);
    of_archive(&mut page, archive);
    page.finish()
}

fn of_postgres(page: &mut Page, member: &MemberStatus) {
    let xlog = member.xlog.clone().unwrap_or_default();
    let replication = |state: &str| u8::from(member.replication_state.as_deref() == Some(state));
    let epoch = |time: &Option<String>| time.as_deref().map_or(0.0, seconds);
    page.gauge("patroni_postgres_running", "1 if PostgreSQL runs.", u8::from(member.state == "running"));
    page.gauge(
        "patroni_postmaster_start_time",
        "Start of the postmaster, seconds since 1970.",
        epoch(&member.postmaster_start_time),
    );
    page.gauge("patroni_primary", "1 if PostgreSQL is primary.", u8::from(member.role == "primary"));
    page.gauge("patroni_xlog_location", "Flushed position in bytes, 0 on a replica.", xlog.location.unwrap_or(0));
    page.gauge("patroni_standby_leader", "1 if it leads a standby cluster.", u8::from(member.role == "standby_leader"));
    page.gauge("patroni_replica", "1 if PostgreSQL is a replica.", u8::from(member.role == "replica"));
    page.gauge("patroni_sync_standby", "1 if it is a synchronous standby.", u8::from(member.sync_standby));
    page.gauge("patroni_quorum_standby", "1 if it is a voter of the rule.", u8::from(member.quorum_standby));
    page.gauge(
        "patroni_xlog_received_location",
        "Received position in bytes, 0 on a primary.",
        xlog.received_location.unwrap_or(0),
    );
    page.gauge(
        "patroni_xlog_replayed_location",
        "Replayed position in bytes, 0 on a primary.",
        xlog.replayed_location.unwrap_or(0),
    );
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Commit time of the newest replayed transaction, seconds since 1970.",
        epoch(&xlog.replayed_timestamp),
    );
    page.gauge("patroni_xlog_paused", "1 if replay is paused.", u8::from(xlog.paused == Some(true)));
    page.gauge("patroni_postgres_streaming", "1 if it streams from another member.", replication("streaming"));
    page.gauge(
        "patroni_postgres_in_archive_recovery",
        "1 if it replays from the archive.",
        replication("in archive recovery"),
    );
    page.gauge(
        "patroni_postgres_server_version",
        "Version of PostgreSQL as a number.",
        member.server_version.unwrap_or(0),
    );
    page.gauge("patroni_postgres_timeline", "Timeline, 0 when unknown.", member.timeline.unwrap_or(0));
    let state = member.state.replace(' ', "_");
    let state = STATES.iter().position(|known| *known == state).map_or(-1, |at| at as i64);
    let numbers: Vec<String> = STATES.iter().enumerate().map(|(at, name)| format!("{at}={name}")).collect();
    page.gauge("patroni_postgres_state", &format!("State of PostgreSQL: {}.", numbers.join(", ")), state);
}

fn of_patroni(page: &mut Page, member: &MemberStatus, failsafe: Option<&BTreeMap<String, String>>) {
    page.gauge("patroni_version", "Version that Patroni's tools parse, without dots.", padded(&member.patroni.version));
    page.gauge("patroni_cluster_unlocked", "1 if nobody leads.", u8::from(member.cluster_unlocked));
    page.gauge(
        "patroni_failsafe_mode_is_active",
        "1 if the primary goes on without the store.",
        u8::from(member.failsafe_mode_is_active),
    );
    page.gauge(
        "patroni_failsafe_mode_enabled",
        "1 if failsafe mode is configured.",
        u8::from(member.matriarch.failsafe_mode),
    );
    if let Some(members) = failsafe {
        page.family("patroni_failsafe_member", "gauge", "Members that failsafe mode asks.");
        for name in members.keys() {
            page.sample("patroni_failsafe_member", &[("member", name)], 1);
        }
    }
    page.gauge("patroni_dcs_last_seen", "When the store was last read, seconds since 1970.", member.dcs_last_seen);
    page.gauge("patroni_pending_restart", "1 if a parameter waits for a restart.", u8::from(member.pending_restart));
    page.gauge("patroni_is_paused", "1 if the cluster is paused.", u8::from(member.pause));
    let tag = member.tags.get("failover_priority").and_then(serde_json::Value::as_i64);
    let barred = member.tags.get("nofailover").is_some_and(|tag| tag == true);
    page.gauge(
        "patroni_failover_priority",
        "Preference when a primary is chosen, 0 is never.",
        if barred { 0 } else { tag.unwrap_or(1) },
    );
}

fn of_member(page: &mut Page, member: &MemberStatus, live: Live) {
    let detail = &member.matriarch;
    page.family("matriarch_build", "info", "Version of the agent.");
    page.sample("matriarch_build_info", &[("version", &detail.version)], 1);
    page.gauge("matriarch_leader", "1 if it holds the leader record.", u8::from(detail.leader));
    page.gauge("matriarch_epoch", "Newest epoch it acts in.", detail.epoch);
    page.gauge(
        "matriarch_lease_remaining_seconds",
        "Time until the guard would stop PostgreSQL, 0 on members that do not lead.",
        live.lease_remaining.unwrap_or_default().as_secs_f64(),
    );
    page.gauge(
        "matriarch_loop_age_seconds",
        "Time since the agent's loop finished a round.",
        live.loop_age.as_secs_f64(),
    );
    page.gauge(
        "matriarch_store_reachable",
        "1 if the last read of the store succeeded.",
        u8::from(detail.store_reachable),
    );
    page.gauge("matriarch_problem", "1 if something stands in the member's way.", u8::from(detail.problem.is_some()));
    page.family("matriarch_decisions", "counter", "Decisions by reason.");
    for (why, count) in &detail.decisions {
        page.sample("matriarch_decisions_total", &[("why", why)], count);
    }
    page.family("matriarch_role_changes", "counter", "Changes of role.");
    page.sample("matriarch_role_changes_total", &[], detail.role_changes);
    if let Some(took) = detail.last_failover_ms {
        page.gauge(
            "matriarch_last_failover_seconds",
            "How long the last takeover by this member took.",
            took as f64 / 1000.0,
        );
    }
    if let (Some(leader), Some(xlog)) = (detail.leader_lsn, member.xlog.as_ref())
        && let Some(replayed) = xlog.replayed_location
    {
        page.gauge("matriarch_replay_lag_bytes", "Bytes not replayed yet.", leader.saturating_sub(replayed));
    }
    page.family("matriarch_slot_retained_bytes", "gauge", "WAL that a replication slot keeps.");
    for slot in &member.matriarch.slots {
        if let Some(retained) = slot.retained {
            page.sample("matriarch_slot_retained_bytes", &[("slot", &slot.name), ("kind", &slot.kind)], retained);
        }
    }
    page.family("matriarch_follower_lag_bytes", "gauge", "Bytes that a follower has not flushed.");
    for (row, lag) in member.replication.iter().filter_map(|row| row.flush_lag.map(|lag| (row, lag))) {
        let labels = [("follower", row.application_name.as_str()), ("sync_state", row.sync_state.as_str())];
        page.sample("matriarch_follower_lag_bytes", &labels, lag);
    }
    page.family("matriarch_certificate_days_left", "gauge", "Days until a certificate ends.");
    for certificate in &detail.certificates {
        let labels = [("purpose", certificate.purpose.as_str()), ("path", certificate.path.as_str())];
        page.sample("matriarch_certificate_days_left", &labels, certificate.days_left);
    }
}

fn of_cluster(page: &mut Page, cluster: &ClusterStatus) {
    let members = cluster.members.iter().filter(|row| !row.expired).count();
    page.gauge("matriarch_members", "Members whose agent is alive.", members);
    page.gauge("matriarch_handover", "1 during a planned switchover.", u8::from(cluster.matriarch.handover));
    if let Some(rule) = &cluster.matriarch.rule {
        page.gauge("matriarch_rule_voters", "Voters of the durability rule.", rule.voters.len());
        page.gauge("matriarch_rule_needed", "Voters that must have flushed a commit, 0 is asynchronous.", rule.needed);
        page.gauge("matriarch_rule_established", "1 if the rule is established.", u8::from(rule.established));
    }
}

fn of_drills(page: &mut Page, log: &DrillLog) {
    let moves = [DrillKind::Failover, DrillKind::Switchover];
    let last: Vec<_> = moves.iter().filter_map(|kind| log.last(*kind)).collect();
    let restore = log.last(DrillKind::Restore);
    page.family("matriarch_drills", "counter", "Drills by kind and result.");
    for (kind, results) in &log.totals {
        for (result, count) in results {
            let labels = [("kind", kind.as_str()), ("result", result.as_str())];
            page.sample("matriarch_drills_total", &labels, count);
        }
    }
    page.family("matriarch_drill_last_gap_seconds", "gauge", "Longest time without a write in the last drill.");
    for drill in &last {
        page.sample("matriarch_drill_last_gap_seconds", &[("kind", drill.kind.as_str())], drill.gap_seconds);
    }
    page.family("matriarch_drill_last_timestamp_seconds", "gauge", "When the last drill was, seconds since 1970.");
    for drill in last.iter().copied().chain(restore) {
        page.sample("matriarch_drill_last_timestamp_seconds", &[("kind", drill.kind.as_str())], seconds(&drill.at));
    }
    page.family("matriarch_drill_last_lost_writes", "gauge", "Acknowledged writes missing after the last drill.");
    for (drill, lost) in last.iter().filter_map(|drill| Some((drill, drill.lost_writes?))) {
        page.sample("matriarch_drill_last_lost_writes", &[("kind", drill.kind.as_str())], lost);
    }
    let Some(restore) = restore else { return };
    let help = "1 if the last restore drill passed.";
    page.gauge("matriarch_drill_last_restore_passed", help, u8::from(restore.result == DrillResult::Passed));
    let Some(figures) = &restore.restore else { return };
    page.family("matriarch_drill_last_restore_seconds", "gauge", "How long each step of the last restore drill took.");
    for (step, seconds) in figures.seconds.steps() {
        page.sample("matriarch_drill_last_restore_seconds", &[("step", step)], seconds);
    }
}

fn of_archive(page: &mut Page, archive: &ArchiveStatus) {
    if !archive.configured {
        return;
    }
    page.family("matriarch_archive_repository_open", "gauge", "1 if a repository was opened.");
    for repository in &archive.repositories {
        let labels = [("repository", repository.name.as_str())];
        page.sample("matriarch_archive_repository_open", &labels, u8::from(repository.open));
    }
    page.family("matriarch_archive_tail_behind_bytes", "gauge", "Bytes of WAL that a repository does not hold yet.");
    for (repository, tail) in archive.repositories.iter().filter_map(|row| Some((&row.name, row.tail.as_ref()?))) {
        page.sample("matriarch_archive_tail_behind_bytes", &[("repository", repository)], tail.behind);
    }
    let help =
        "When the first of the credentials and authorities ends by which a repository is used, seconds since 1970.";
    page.family("matriarch_archive_credentials_end_timestamp_seconds", "gauge", help);
    for repository in &archive.repositories {
        let labels = [("repository", repository.name.as_str())];
        if let Some(first) = repository.ends.iter().map(|end| seconds(&end.at)).reduce(f64::min) {
            page.sample("matriarch_archive_credentials_end_timestamp_seconds", &labels, first);
        }
    }
    if let Some(durability) = &archive.durability {
        let help = "1 if nothing is acknowledged before every repository holds it.";
        page.gauge("matriarch_archive_durable", help, u8::from(durability.holds));
    }
    page.family("matriarch_archived_files", "counter", "Files of WAL that every repository has confirmed.");
    page.sample("matriarch_archived_files_total", &[], archive.archived);
    page.family("matriarch_archive_failures", "counter", "Attempts to archive WAL that failed.");
    page.sample("matriarch_archive_failures_total", &[], archive.failures);
    page.gauge(
        "matriarch_archive_last_timestamp_seconds",
        "When a file of WAL was last archived, seconds since 1970, 0 when none was.",
        archive.last_archived.as_ref().map_or(0.0, |file| seconds(&file.at)),
    );
    page.gauge("matriarch_archive_waiting_files", "Files of WAL that are not archived yet.", archive.waiting);
    page.gauge(
        "matriarch_archive_oldest_waiting_timestamp_seconds",
        "Since when the oldest of them waits, seconds since 1970, 0 when none does.",
        archive.oldest_waiting.as_ref().map_or(0.0, |file| seconds(&file.at)),
    );
    if let Some(backups) = &archive.backups {
        of_backups(page, backups);
    }
    if let Some(dumps) = &archive.dumps {
        of_dumps(page, dumps);
    }
}

/// In seconds since 1970.
fn at(time: Option<&String>) -> f64 {
    time.map_or(0.0, |time| seconds(time))
}

fn of_dumps(page: &mut Page, dumps: &ScheduledDumps) {
    page.gauge(
        "matriarch_dump_last_timestamp_seconds",
        "When the last scheduled dump was complete, seconds since 1970, 0 when none was.",
        at(dumps.last.as_ref().map(|last| &last.ended)),
    );
    page.gauge(
        "matriarch_dump_next_timestamp_seconds",
        "When the next one is due, or is tried again, seconds since 1970, 0 when that is not known.",
        at(dumps.next.as_ref()),
    );
    page.gauge("matriarch_dump_running", "1 while a scheduled dump is taken.", u8::from(dumps.running.is_some()));
    page.gauge(
        "matriarch_dump_failures",
        "Attempts at a scheduled dump that failed since the last one.",
        dumps.failures,
    );
}

fn of_backups(page: &mut Page, backups: &ScheduledBackups) {
    page.gauge(
        "matriarch_backup_last_timestamp_seconds",
        "When the last scheduled backup was complete, seconds since 1970, 0 when none was.",
        at(backups.last.as_ref().map(|last| &last.ended)),
    );
    page.gauge(
        "matriarch_backup_next_timestamp_seconds",
        "When the next one is due, or is tried again, seconds since 1970, 0 when that is not known.",
        at(backups.next.as_ref()),
    );
    page.gauge("matriarch_backup_running", "1 while a scheduled backup is taken.", u8::from(backups.running.is_some()));
    page.gauge(
        "matriarch_backup_failures",
        "Attempts at a scheduled backup that failed since the last one.",
        backups.failures,
    );
}

/// `4.1.5` as Patroni pads it: 40105.
fn padded(version: &str) -> u64 {
    let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok();
    version.split('.').take(3).fold(0, |sum, part| sum * 100 + number(part).unwrap_or(0).min(99))
}

/// A time as PostgreSQL or RFC 3339 writes it, in seconds since 1970; 0 when it is neither.
fn seconds(time: &str) -> f64 {
    time.parse::<jiff::Timestamp>().map_or(0.0, |time| time.as_microsecond() as f64 / 1e6)
}

struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn new(scope: &str, name: &str) -> Self {
        let labels = format!("scope=\"{}\",name=\"{}\"", escaped(scope), escaped(name));
        Page { text: String::with_capacity(8 << 10), labels }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}\n", escaped(help));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{name}{{{}", self.labels);
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
