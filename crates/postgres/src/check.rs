//! Trying settings out before PostgreSQL must live with them.
//!
//! One wrong value makes a reload skip settings and the next start fail, so settings that people give are tried out by
//! the program itself, on a file of its own, and those that it does not take are left out.

use std::collections::BTreeMap;

use crate::conf;
use crate::files::{self, FileError};
use crate::instance::{Instance, RunDirError};
use crate::sql::ConfigurationError;
use crate::tool::{self, ToolError};

/// The file tried out, in the run directory.
const FILE: &str = "settings-to-check.conf";

/// Every round finds all settings with a wrong value, but only after all unknown names are gone.
const ROUNDS: usize = 4;

/// Settings that could not be tried out.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program did not run, or objected to something that is no setting.
    #[error("could not try the settings out: {0}")]
    Tool(#[from] ToolError),
}

/// Takes the settings that this PostgreSQL does not accept out of [`conf::effective`] ones and tells what it said of
/// each. Works whether PostgreSQL runs or not; takes some 20 ms.
pub async fn take_out_refused(
    instance: &Instance,
    effective: &mut BTreeMap<String, String>,
) -> Result<Vec<ConfigurationError>, CheckError> {
    let mut refused = Vec::new();
    for _ in 0..ROUNDS {
        let Err(error) = try_out(instance, effective).await? else { break };
        let found = read_refusals(error.stderr(), effective);
        if found.is_empty() {
            return Err(error.into());
        }
        for refusal in &found {
            effective.remove(refusal.name.as_deref().unwrap_or_default());
        }
        refused.extend(found);
    }
    Ok(refused)
}

async fn try_out(
    instance: &Instance,
    effective: &BTreeMap<String, String>,
) -> Result<Result<(), ToolError>, CheckError> {
    instance.prepare_run_dir()?;
    let path = instance.run_dir.join(FILE);
    files::write_atomic(&path, conf::render(effective).as_bytes(), 0o600, instance.owner.as_ref())?;
    let mut command = tool::command(instance, "postgres", &instance.run_dir);
    command.arg("-D").arg(&instance.data_dir);
    command.arg("-c").arg(format!("config_file={}", path.display())).args(["-C", "port"]);
    let done = tool::run(command, |_| ()).await;
    files::remove_durably(&path)?;
    match done {
        Ok(_) => Ok(Ok(())),
        Err(error @ ToolError::Failed { .. }) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

/// Every message about a setting names it as `parameter "name"`; hints follow on lines of their own.
fn read_refusals(said: &str, effective: &BTreeMap<String, String>) -> Vec<ConfigurationError> {
    let mut found: Vec<ConfigurationError> = Vec::new();
    for line in said.lines() {
        let text = line.split_once(":  ").map_or(line, |(_, text)| text).trim();
        if line.contains("HINT:") || line.contains("DETAIL:") {
            if let Some(last) = found.last_mut() {
                last.error = format!("{}; {text}", last.error);
            }
            continue;
        }
        let named = text.split_once("parameter \"").and_then(|(_, rest)| rest.split_once('"')).map(|(name, _)| name);
        // The one message without a name.
        let name = named.or(text.starts_with("SSL is not supported by this build").then_some("ssl"));
        let Some(name) = name.filter(|name| effective.contains_key(*name)) else { continue };
        if found.iter().any(|known| known.name.as_deref() == Some(name)) {
            continue;
        }
        // Where it stood in the file that was tried out tells nobody anything.
        let error = text.split(" in file \"").next().unwrap_or(text).to_owned();
        found.push(ConfigurationError { file: String::new(), line: 0, name: Some(name.to_owned()), error });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgresql_says_of_settings() {
        let said = "2026-11-21 16:00:00.000 GMT [1] LOG:  invalid value for parameter \"work_mem\": \"12 cows\"\n\
                    2026-11-21 16:00:00.000 GMT [1] HINT:  Valid units for this parameter are \"B\", \"kB\".\n\
                    LOG:  unrecognized configuration parameter \"wrk_mem\" in file \"/x/y.conf\" line 3\n\
                    FATAL:  configuration file \"/x/y.conf\" contains errors\n";
        let effective = ["work_mem", "wrk_mem", "port"].map(|name| (name.to_owned(), String::new())).into();
        let found: Vec<String> = read_refusals(said, &effective).iter().map(ToString::to_string).collect();
        let first =
            "invalid value for parameter \"work_mem\": \"12 cows\"; Valid units for this parameter are \"B\", \"kB\".";
        assert_eq!(found, [first, "unrecognized configuration parameter \"wrk_mem\""]);
    }
}
