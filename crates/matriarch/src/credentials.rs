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
    pub fn read(config: &LocalConfig) -> anyhow::Result<ApiCredentials> {
        let mut tokens: Vec<String> = config.restapi.token.iter().map(|token| token.reveal().to_owned()).collect();
        if let Some(file) = &config.restapi.token_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("restapi.token_file {} cannot be read", file.display()))?;
            anyhow::ensure!(
                !text.trim().is_empty(),
                "restapi.token_file {} is empty; write a token into it",
                file.display()
            );
            tokens.push(text.trim().to_owned());
        }
        let user = config.restapi.authentication.as_ref();
        let basic = user.map(|user| (user.username.clone(), user.password.reveal().to_owned()));
        Ok(ApiCredentials { tokens, basic })
    }

    pub fn auth(&self) -> Auth {
        Auth::accept(self.tokens.clone(), self.basic.clone(), Reads::Open)
    }

    pub fn header(&self) -> Option<String> {
        let basic = self.basic.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        matriarch_api::authorization(self.tokens.first().map(String::as_str), basic)
    }
}
