//! The credentials of the REST API, as an agent's configuration names them.

use anyhow::Context;
use matriarch_api::{Auth, Reads};
use matriarch_config::LocalConfig;

/// What opens the REST API, and what members and verbs present to it.
pub struct ApiCredentials {
    tokens: Vec<String>,
    basic: Option<(String, String)>,
}

impl ApiCredentials {
    /// All of them.
    pub fn read(config: &LocalConfig) -> anyhow::Result<ApiCredentials> {
        let mut credentials = ApiCredentials::written(config);
        if let Some(file) = &config.restapi.token_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("restapi.token_file {} cannot be read", file.display()))?;
            anyhow::ensure!(
                !text.trim().is_empty(),
                "restapi.token_file {} is empty; write a token into it",
                file.display()
            );
            credentials.tokens.push(text.trim().to_owned());
        }
        Ok(credentials)
    }

    /// Those that the caller may read: looking needs none, and whoever changes something is told that they are missing.
    pub fn readable(config: &LocalConfig) -> anyhow::Result<ApiCredentials> {
        match ApiCredentials::read(config) {
            Err(error) if is_denied(&error) => Ok(ApiCredentials::written(config)),
            read => read,
        }
    }

    /// Those that stand in the configuration itself.
    fn written(config: &LocalConfig) -> ApiCredentials {
        let restapi = &config.restapi;
        let basic = restapi.authentication.as_ref();
        ApiCredentials {
            tokens: restapi.token.iter().map(|token| token.reveal().to_owned()).collect(),
            basic: basic.map(|user| (user.username.clone(), user.password.reveal().to_owned())),
        }
    }

    pub fn auth(&self) -> Auth {
        Auth::accept(self.tokens.clone(), self.basic.clone(), Reads::Open)
    }

    pub fn header(&self) -> Option<String> {
        let basic = self.basic.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        matriarch_api::authorization(self.tokens.first().map(String::as_str), basic)
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}
