//! Poolers as the command line of `proxy` asks for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use matriarch_config::{PoolerAddress, check_pooler_setting};
use matriarch_pooler::{Secrets, Serves};
use matriarch_postgres::Owner;

use super::{Poolers, Wanted};
use crate::cluster::{self, Which};

/// Title in the help.
const POOLER: &str = "PgBouncer";

/// PgBouncer, as `proxy` runs or pauses it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = POOLER)]
pub struct PoolerArgs {
    /// Run a PgBouncer whose clients reach the primary here; may be given several times, with one port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub pooler: Vec<SocketAddr>,
    /// Run a PgBouncer whose clients reach a replica here
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub pooler_read_only: Vec<SocketAddr>,
    /// Where its files are [default: the directory of a cluster made by `matriarch up`]
    #[arg(long, value_name = "DIR")]
    pub pooler_dir: Option<PathBuf>,
    /// A setting of PgBouncer; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub pooler_set: Vec<String>,
    /// PgBouncer's program [default: the one installed]
    #[arg(long, value_name = "FILE")]
    pub pooler_program: Option<PathBuf>,
    /// The system's user it runs as, when this is root [default: postgres, else matriarch]
    #[arg(long, value_name = "NAME")]
    pub pooler_user: Option<String>,
    /// Role that asks PostgreSQL for the roles' secrets [default: the superuser of a cluster made by `matriarch up`]
    #[arg(long, value_name = "ROLE", requires = "pooler_role_password_file")]
    pub pooler_role: Option<String>,
    /// File with that role's password
    #[arg(long, value_name = "FILE", requires = "pooler_role")]
    pub pooler_role_password_file: Option<PathBuf>,
    /// File of roles and secrets that you keep yourself, in PgBouncer's format, instead of asking PostgreSQL
    #[arg(long, value_name = "FILE", conflicts_with = "pooler_role")]
    pub pooler_auth_file: Option<PathBuf>,
    /// A PgBouncer that others run, to be paused during switchovers; may be given several times
    #[arg(long, value_name = "HOST:PORT[/DATABASE,…]", requires = "pooler_admin")]
    pub pooler_address: Vec<PoolerAddress>,
    /// Its admin user
    #[arg(long, value_name = "NAME", requires = "pooler_address")]
    pub pooler_admin: Option<String>,
    /// File with the admin user's password
    #[arg(long, value_name = "FILE", requires = "pooler_admin")]
    pub pooler_admin_password_file: Option<PathBuf>,
}

impl PoolerArgs {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.pooler.is_empty() && self.pooler_read_only.is_empty() && self.pooler_address.is_empty()
    }

    /// Finds the program, makes the directories and reads the passwords.
    pub fn prepare(&self, which: &Which) -> anyhow::Result<Poolers> {
        let mut poolers = Poolers::default();
        if let Some(user) = &self.pooler_admin {
            let password = self.pooler_admin_password_file.as_deref().map(password).transpose()?.unwrap_or_default();
            poolers.register(&self.pooler_address, user, &password);
        }
        let listens = [(&self.pooler, Serves::Primary), (&self.pooler_read_only, Serves::Replica)];
        for (listen, serves) in listens.into_iter().filter(|(listen, _)| !listen.is_empty()) {
            poolers.run_own(self.wanted(which)?, listen.clone(), serves)?;
        }
        Ok(poolers)
    }

    fn wanted(&self, which: &Which) -> anyhow::Result<Wanted> {
        let dir = match &self.pooler_dir {
            Some(dir) => dir.clone(),
            None if which.store.is_some() => {
                anyhow::bail!("a pooler needs a directory for its files: give --pooler-dir DIR")
            }
            None => cluster::local(which)?.dir.join("pooler"),
        };
        let pair = |text: &String| {
            let (name, value) =
                text.split_once('=').with_context(|| format!("--pooler-set {text} is not NAME=VALUE"))?;
            check_pooler_setting(name, value).map_err(|error| anyhow::anyhow!("--pooler-set {text}: {error}"))?;
            anyhow::Ok((name.to_owned(), value.to_owned()))
        };
        Ok(Wanted {
            program: matriarch_pooler::find_program(self.pooler_program.as_deref()).context("--pooler")?,
            dir: std::path::absolute(&dir)?,
            settings: self.pooler_set.iter().map(pair).collect::<anyhow::Result<_>>()?,
            secrets: self.secrets(which)?,
            owner: Owner::choose(self.pooler_user.as_deref())?,
        })
    }

    fn secrets(&self, which: &Which) -> anyhow::Result<Secrets> {
        if let Some(file) = &self.pooler_auth_file {
            return Ok(Secrets::File(std::path::absolute(file)?));
        }
        if let (Some(user), Some(file)) = (&self.pooler_role, &self.pooler_role_password_file) {
            return Ok(Secrets::Query { user: user.clone(), password: password(file)? });
        }
        anyhow::ensure!(
            which.store.is_none(),
            "a pooler must know the roles' passwords: give --pooler-role and --pooler-role-password-file, or \
             --pooler-auth-file"
        );
        let cluster = cluster::local(which)?;
        let password = crate::up::superuser_password(&cluster.dir)?;
        Ok(Secrets::Query { user: cluster.superuser, password })
    }
}

fn password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the password file {} cannot be read", file.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
