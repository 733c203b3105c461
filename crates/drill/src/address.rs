//! Where the ledger writes.

use std::time::Duration;

use matriarch_cli::view::View;
use matriarch_cli::{Failure, Target, code};
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::args::CommonArgs;

/// For one host; a dead one must not keep the client from the next.
const CONNECT: Duration = Duration::from_secs(1);

/// How to connect to the primary: as asked for, else the cluster's port, else whichever member takes writes.
pub fn choose(target: &Target, view: &View, args: &CommonArgs) -> anyhow::Result<Config> {
    let connection = &target.connection;
    let mut config = match &args.dsn {
        Some(dsn) => dsn.parse::<Config>().map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::new(code::USAGE, format!("--dsn is no connection string: {why}; write it as libpq reads it"))
        })?,
        None => {
            let mut config = Config::new();
            match &connection.read_write {
                Some(address) => add(&mut config, address)?,
                None => {
                    for row in view.cluster.members.iter().filter(|row| !row.expired) {
                        if let (Some(host), Some(port)) = (&row.host, row.port) {
                            config.host(host.trim_matches(['[', ']'])).port(port);
                        }
                    }
                }
            }
            config
        }
    };
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let text = "no member says where its PostgreSQL listens; give --dsn";
        return Err(Failure::new(code::UNAVAILABLE, text).into());
    }
    if config.get_user().is_none() {
        config.user(if connection.superuser.is_empty() { "postgres" } else { &connection.superuser });
    }
    match &args.database {
        Some(database) => drop(config.dbname(database)),
        None if config.get_dbname().is_none() => drop(config.dbname("postgres")),
        None => {}
    }
    if config.get_password().is_none()
        && let Some(password) = crate::passfile::password(&config, connection.passfile.clone())
    {
        config.password(password);
    }
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).connect_timeout(CONNECT);
    config.application_name("matriarch drill");
    Ok(config)
}

fn add(config: &mut Config, address: &str) -> anyhow::Result<()> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
    let port =
        port.parse().map_err(|_| Failure::new(code::DATA, format!("'{address}' has no port that is a number")))?;
    config.host(host.trim_matches(['[', ']'])).port(port);
    Ok(())
}

/// The longest that connecting may take, all hosts tried.
pub fn connect_limit(config: &Config) -> Duration {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
    CONNECT * u32::try_from(hosts).unwrap_or(1) + CONNECT
}

/// In words, without the password.
pub fn describe(config: &Config) -> String {
    use tokio_postgres::config::Host;
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
        let port = config.get_ports().get(at).or(config.get_ports().first()).unwrap_or(&5432);
        match host {
            Host::Tcp(host) => format!("{host}:{port}"),
            Host::Unix(dir) => format!("{}:{port}", dir.display()),
        }
    });
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or_default();
    format!("{}, database {database}, user {user}", hosts.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::DrillVerb;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        verb: DrillVerb,
    }

    fn args(line: &str) -> CommonArgs {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        match line.verb {
            DrillVerb::Failover(args) => args.common,
            _ => panic!("not a failover"),
        }
    }

    #[test]
    fn the_port_of_the_cluster_or_all_its_members() {
        let mut target = Target::default();
        let mut view = View::default();
        assert!(choose(&target, &view, &args("failover")).unwrap_err().to_string().contains("--dsn"));
        for (name, host) in [("a", "10.0.0.1"), ("b", "[::1]")] {
            let row = matriarch_api::MemberRow {
                name: name.into(),
                host: Some(host.into()),
                port: Some(5433),
                ..Default::default()
            };
            view.cluster.members.push(row);
        }
        let several = choose(&target, &view, &args("failover --database shop")).unwrap();
        assert_eq!(describe(&several), "10.0.0.1:5433,::1:5433, database shop, user postgres");
        assert_eq!(connect_limit(&several), Duration::from_secs(3));
        target.connection.read_write = Some("127.0.0.1:6432".into());
        let port = choose(&target, &view, &args("failover")).unwrap();
        assert_eq!(describe(&port), "127.0.0.1:6432, database postgres, user postgres");
        let own = choose(&target, &view, &args("failover --dsn postgresql://me:secret@db:1/x")).unwrap();
        assert_eq!(describe(&own), "db:1, database x, user me");
        assert!(choose(&target, &view, &args("failover --dsn nonsense=1")).is_err());
    }
}
