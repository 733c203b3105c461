//! `psql`, `dsn` and `version`: how to reach PostgreSQL, and what runs there.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde::Serialize;

use crate::fail::{Failure, code};
use crate::grid::{Grid, Part, Tone};
use crate::list;
use crate::target::{Connection, Target};
use crate::ui::{Format, Ui};
use crate::verbs::{DsnArgs, DsnRole, PsqlArgs};
use crate::view::{self, View};

/// Replaces this process by psql on the primary; returns only on failure.
pub async fn psql(target: &Target, ui: &mut Ui, args: PsqlArgs) -> anyhow::Result<()> {
    let address = match &target.connection.read_write {
        Some(address) => address.clone(),
        None => leader_address(&view::read(target).await?)?,
    };
    let mut command = psql_command(&target.connection, &address, &args.arguments);
    ui.print("")?;
    let failure = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    let text = format!("cannot start {program}: {failure}; install PostgreSQL's client programs, or add them to PATH");
    Err(Failure::new(code::UNAVAILABLE, text).into())
}

fn leader_address(view: &View) -> anyhow::Result<String> {
    let row = view.leader().and_then(|leader| view.row(leader));
    let address = row.map(|row| list::address(row.host.as_deref(), row.port)).filter(|address| !address.is_empty());
    address.ok_or_else(|| {
        Failure::new(code::TEMPORARY, "nobody leads, so there is no primary to connect to; see 'matriarch list'").into()
    })
}

fn database(connection: &Connection) -> &str {
    if connection.database.is_empty() { "postgres" } else { &connection.database }
}

/// The command; its arguments come last, so that they win over what is set here.
pub fn psql_command(connection: &Connection, address: &str, arguments: &[String]) -> Command {
    let (host, port) = split(address);
    let program = connection.psql.clone().unwrap_or_else(|| "psql".into());
    let mut command = Command::new(program);
    command.env("PGHOST", host).env("PGPORT", port).env("PGDATABASE", database(connection));
    command.env("PGAPPNAME", "matriarch psql");
    if !connection.superuser.is_empty() {
        command.env("PGUSER", &connection.superuser);
    }
    if let Some(passfile) = &connection.passfile {
        command.env("PGPASSFILE", passfile);
    }
    for inherited in ["PGSERVICE", "PGHOSTADDR", "PGTARGETSESSIONATTRS"] {
        // They would lead elsewhere than to the primary of this cluster.
        command.env_remove(inherited);
    }
    command.args(arguments);
    command
}

fn split(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// A connection string, as `dsn -o json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Dsn {
    role: &'static str,
    dsn: String,
}

/// Prints a connection string.
pub async fn dsn(target: &Target, ui: &mut Ui, args: DsnArgs) -> anyhow::Result<()> {
    let connection = &target.connection;
    let proxy = match args.role {
        DsnRole::Primary => &connection.read_write,
        DsnRole::Replica => &connection.read_only,
        DsnRole::Any => &None,
    };
    let text = match proxy {
        Some(address) => uri(connection, std::slice::from_ref(address), ""),
        None => direct(connection, &view::read(target).await?, args.role)?,
    };
    let role = match args.role {
        DsnRole::Primary => "primary",
        DsnRole::Replica => "replica",
        DsnRole::Any => "any",
    };
    if ui.format == Format::Tsv {
        return ui.print(&format!("{text}\n"));
    }
    ui.show(&Dsn { role, dsn: text.clone() }, || vec![Part::Line(Tone::Plain, text)])
}

/// Without a proxy the client library looks for the right member itself.
fn direct(connection: &Connection, view: &View, role: DsnRole) -> anyhow::Result<String> {
    let rows = view.cluster.members.iter().filter(|row| !row.expired);
    let addresses: Vec<String> =
        rows.map(|row| list::address(row.host.as_deref(), row.port)).filter(|address| !address.is_empty()).collect();
    if addresses.is_empty() {
        let text = "no member says where its PostgreSQL listens; see 'matriarch list'";
        return Err(Failure::new(code::UNAVAILABLE, text).into());
    }
    let wish = match role {
        DsnRole::Primary => "read-write",
        DsnRole::Replica => "prefer-standby",
        DsnRole::Any => "any",
    };
    Ok(uri(connection, &addresses, wish))
}

fn uri(connection: &Connection, addresses: &[String], wish: &str) -> String {
    let user = if connection.superuser.is_empty() { String::new() } else { encoded(&connection.superuser) + "@" };
    let mut options = Vec::new();
    if !wish.is_empty() {
        options.push(format!("target_session_attrs={wish}"));
    }
    if let Some(passfile) = &connection.passfile {
        options.push(format!("passfile={}", encoded(&passfile.to_string_lossy())));
    }
    let question = if options.is_empty() { "" } else { "?" };
    format!(
        "postgresql://{user}{}/{}{question}{}",
        addresses.join(","),
        encoded(database(connection)),
        options.join("&")
    )
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Versions of one member, as `version -o json` shows them.
#[derive(Clone, Debug, Serialize)]
struct Version {
    member: String,
    agent: Option<String>,
    postgresql: Option<String>,
}

/// Prints the versions of this program, of the agents and of PostgreSQL.
pub async fn version(target: &Target, ui: &mut Ui) -> anyhow::Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let view = if target.members.is_empty() { View::default() } else { view::read(target).await? };
    let members: Vec<Version> = view
        .answers
        .iter()
        .map(|answer| {
            let member = answer.page.as_ref().ok().map(|page| &page.member);
            Version {
                member: answer.endpoint.name.clone(),
                agent: member.map(|member| member.matriarch.version.clone()),
                postgresql: member
                    .and_then(|member| member.server_version)
                    .map(|version| format!("{}.{}", version / 10_000, version % 10_000)),
            }
        })
        .collect();
    ui.show(&serde_json::json!({ "matriarch": own, "members": members }), || {
        let mut parts = vec![Part::Line(Tone::Strong, format!("matriarch {own}"))];
        let mut grid = Grid::new(&["Member", "Agent", "PostgreSQL"]);
        for line in &members {
            let agent = line.agent.clone().unwrap_or_else(|| "does not answer".to_owned());
            grid.row(Tone::Plain, vec![line.member.clone(), agent, line.postgresql.clone().unwrap_or_default()]);
        }
        if !grid.is_empty() {
            parts.push(Part::Grid(grid));
        }
        parts
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection { superuser: "post gres".into(), passfile: Some("/tmp/a b/pass".into()), ..Connection::default() }
    }

    #[test]
    fn strings_are_encoded() {
        let addresses = ["127.0.0.1:5432".to_owned(), "[::1]:5433".to_owned()];
        assert_eq!(
            uri(&connection(), &addresses, "read-write"),
            "postgresql://post%20gres@127.0.0.1:5432,[::1]:5433/postgres?target_session_attrs=read-write&passfile=/tmp/a%20b/pass"
        );
        assert_eq!(uri(&Connection::default(), &addresses[..1], ""), "postgresql://127.0.0.1:5432/postgres");
    }

    #[test]
    fn psql_goes_to_the_primary_whatever_the_environment_says() {
        let command = psql_command(&connection(), "[::1]:5433", &["-c".into(), "SELECT 1".into()]);
        let env = |name: &str| {
            let found = command.get_envs().find(|(key, _)| *key == name);
            found.and_then(|(_, value)| value).map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(env("PGHOST").as_deref(), Some("::1"));
        assert_eq!(env("PGPORT").as_deref(), Some("5433"));
        assert_eq!(env("PGUSER").as_deref(), Some("post gres"));
        assert!(command.get_envs().any(|(key, value)| key == "PGSERVICE" && value.is_none()));
        assert_eq!(command.get_args().count(), 2);
    }
}
