//! What PostgreSQL is told about the recovery.

use matriarch_postgres::conf::RESTORE_FETCH;

use super::Options;
use super::Target;
use super::plan::Plan;

/// What PostgreSQL does when it has reached the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtTarget {
    /// Opens a new timeline and takes writes.
    Promote,
    /// Waits, read-only, for somebody to look and to resume.
    Pause,
    /// Stops.
    Shutdown,
}

/// Every setting about targets: lines of earlier restores must not stay.
pub const OURS: [&str; 9] = [
    "restore_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
];

/// The lines for `postgresql.auto.conf`.
pub fn lines(plan: &Plan, options: &Options) -> String {
    let mut lines = String::new();
    let mut set = |name: &str, value: &str| lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    // Recovery must have one; what is not found by it is looked for in pg_wal.
    let placed = format!("false # instead of {RESTORE_FETCH}");
    set("restore_command", if options.place_wal { &placed } else { &options.restore_command });
    set("recovery_target_timeline", &plan.history.timeline.to_string());
    match &plan.target {
        Target::Latest => {}
        Target::Immediate => set("recovery_target", "immediate"),
        Target::Time(time) => set("recovery_target_time", &time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()),
        Target::Lsn(lsn) => set("recovery_target_lsn", &lsn.to_string()),
        Target::Xid(xid) => set("recovery_target_xid", &xid.to_string()),
        Target::Name(name) => set("recovery_target_name", name),
    }
    let action = match options.at_target {
        AtTarget::Promote => "promote",
        AtTarget::Pause => "pause",
        AtTarget::Shutdown => "shutdown",
    };
    // Without a target, recovery ends where the log does, and that promotes.
    if plan.target != Target::Latest {
        set("recovery_target_action", action);
    }
    lines
}

/// The old file without what earlier restores left in it.
pub fn without_ours(old: &str) -> String {
    old.lines().filter(|line| !OURS.contains(&name(line).as_str())).map(|line| format!("{line}\n")).collect()
}

/// The file with comments where it binds to the server that was backed up: where it archived, where its files were (a server
/// that is started with this directory would open that one's), for whom its commits waited; and `more`.
pub fn unbound(old: &str, more: &[&str]) -> String {
    const BOUND: [&str; 7] = [
        "archive_command",
        "archive_library",
        "archive_mode",
        "config_file",
        "data_directory",
        "external_pid_file",
        "synchronous_standby_names",
    ];
    let is_bound = |name: &str| BOUND.contains(&name) || more.contains(&name);
    let quiet = |line: &str| match is_bound(&name(line)) {
        true => format!("# of the server that was backed up: {line}\n"),
        false => format!("{line}\n"),
    };
    old.lines().map(quiet).collect()
}

/// Of the setting that a line makes.
fn name(line: &str) -> String {
    let mut words = line.split(|c: char| c == '=' || c.is_whitespace());
    words.find(|word| !word.is_empty()).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_archived_to_where_the_backup_came_from() {
        let old =
            "archive_mode = on\n  Archive_Command='pgbackrest push %p' # x\n#archive_mode = off\nwork_mem = 4MB\n";
        let new = "# of the server that was backed up: archive_mode = on\n\
                   # of the server that was backed up:   Archive_Command='pgbackrest push %p' # x\n\
                   #archive_mode = off\nwork_mem = 4MB\n";
        assert_eq!(unbound(old, &[]), new);
        let debian = "data_directory = '/var/lib/postgresql/15/main'\nhba_file = '/etc/pg_hba.conf'\n";
        let kept = "# of the server that was backed up: data_directory = '/var/lib/postgresql/15/main'\nhba_file = '/etc/pg_hba.conf'\n";
        assert_eq!(unbound(debian, &[]), kept);
        assert!(unbound(debian, &["hba_file"]).ends_with("backed up: hba_file = '/etc/pg_hba.conf'\n"));
    }

    #[test]
    fn settings_of_an_earlier_restore_do_not_stay() {
        let old = "# comment\nwork_mem = '4MB'\nrecovery_target_time='x'\n  Restore_Command = 'false'\nprimary_conninfo = ''\n";
        assert_eq!(without_ours(old), "# comment\nwork_mem = '4MB'\nprimary_conninfo = ''\n");
    }
}
