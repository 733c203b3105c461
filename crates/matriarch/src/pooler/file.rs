//! Poolers as an agent's configuration file asks for them: `proxy.pooler`.

use std::path::PathBuf;

use anyhow::Context;
use matriarch_config::{LocalConfig, Pooler};
use matriarch_pooler::{Secrets, Serves};
use matriarch_postgres::Owner;

use super::{Poolers, Wanted};

/// Finds the program and makes the directories.
pub fn prepare(config: &LocalConfig, pooler: &Pooler) -> anyhow::Result<Poolers> {
    let mut poolers = Poolers::default();
    if let Some(admin) = &pooler.admin {
        poolers.register(&pooler.addresses, &admin.username, admin.password.reveal());
    }
    let listens = [(&pooler.read_write, Serves::Primary), (&pooler.read_only, Serves::Replica)];
    for (listen, serves) in listens {
        if let Some(listen) = listen {
            let addresses = listen.socket_addrs();
            poolers.run_own(wanted(config, pooler)?, addresses, serves).context("proxy.pooler")?;
        }
    }
    Ok(poolers)
}

fn wanted(config: &LocalConfig, pooler: &Pooler) -> anyhow::Result<Wanted> {
    // Whom PostgreSQL runs as can use its socket.
    let user = pooler.user.as_deref().or(config.postgresql.user.as_deref());
    Ok(Wanted {
        program: matriarch_pooler::find_program(pooler.program.as_deref()).context("proxy.pooler")?,
        dir: config.postgresql.pooler_dir(pooler),
        settings: pooler.settings.clone(),
        secrets: secrets(config, pooler.auth_file.clone())?,
        owner: Owner::choose(user).context("proxy.pooler.user")?,
    })
}

fn secrets(config: &LocalConfig, auth_file: Option<PathBuf>) -> anyhow::Result<Secrets> {
    if let Some(file) = auth_file {
        return Ok(Secrets::File(file));
    }
    // The configuration's rules see to it that there is one.
    let role = config.postgresql.authentication.pooler.as_ref();
    let role = role.context("proxy.pooler needs postgresql.authentication.pooler, or an auth_file")?;
    Ok(Secrets::Query { user: role.username.clone(), password: role.password.reveal().to_owned() })
}
