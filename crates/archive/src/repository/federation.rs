//! Workload identity federation of Google: the token of a workload for which another party vouches (a pod elsewhere, a job of a CI) is
//! exchanged for one of Google's, and that, where it is asked for, for one of a service account.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{Method, StatusCode};
use jiff::Timestamp;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, ReqwestConnector};
use object_store::gcp::GcpCredential;
use object_store::{ClientOptions, CredentialProvider, Error as StoreError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::error::chain;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// It is renewed so long before it ends, or in the last fifth of its life.
const BEFORE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(200);

/// A file of the type `external_account`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Account {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: Source,
}

/// Where the workload's own token is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Source {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    format: Option<Format>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
    subject_token_field_name: Option<String>,
}

impl Account {
    /// Reads such a file; none when it is of another type.
    pub fn parse(text: &str) -> Result<Option<Account>, String> {
        let file: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON ({error})"))?;
        if file.get("type").and_then(Value::as_str) != Some("external_account") {
            return Ok(None);
        }
        let account: Account = serde_json::from_value(file).map_err(|error| format!("it cannot be used: {error}"))?;
        let Source { file, url, format, .. } = &account.credential_source;
        if file.is_none() && url.is_none() {
            let why = "its credential_source names neither a `file` nor a `url`, and nothing else (programs, Amazon's own form) can be used";
            return Err(why.to_owned());
        }
        if let Some(Format { kind, subject_token_field_name: field }) = format
            && !(kind == "text" || kind == "json" && field.is_some())
        {
            return Err(
                "the format of its credential_source is neither text nor json with a subject_token_field_name".into()
            );
        }
        Ok(Some(account))
    }

    /// The same of a file; none also when it is not there, which others say better.
    pub fn read(path: &Path) -> Option<Account> {
        Account::parse(&std::fs::read_to_string(path).ok()?).ok()?
    }
}

/// Gives out Google's tokens to a workload.
#[derive(Debug)]
pub(super) struct Federated {
    account: Account,
    client: HttpClient,
    /// For where the workload's token is: a server of the machine, in the clear.
    local: HttpClient,
    patience: Duration,
    token: Mutex<Option<Token>>,
}

struct Token {
    credential: Arc<GcpCredential>,
    renew: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a token")
    }
}

impl Federated {
    pub fn new(account: Account, options: &ClientOptions, patience: Duration) -> Result<Federated, StoreError> {
        let connect = |options: &ClientOptions| ReqwestConnector::default().connect(options);
        let local = connect(&options.clone().with_allow_http(true))?;
        Ok(Federated { account, client: connect(options)?, local, patience, token: Mutex::new(None) })
    }

    async fn fetch(&self) -> Result<Token, String> {
        let subject = self.subject().await?;
        let Account { audience, subject_token_type, token_url, service_account_impersonation_url, .. } = &self.account;
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", audience),
            ("scope", SCOPE),
            ("subject_token_type", subject_token_type),
            ("subject_token", &subject),
        ];
        let form = form.map(|(name, value)| format!("{name}={}", encoded(value))).join("&");
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.ask(&self.client, Method::POST, token_url, &kind, form).await?;
        let token = field(&answer, "access_token", token_url)?;
        let life = answer.get("expires_in").and_then(Value::as_u64).map_or(BEFORE, Duration::from_secs);
        let Some(url) = service_account_impersonation_url else { return Ok(Token::of(token, life)) };
        let bearer = format!("Bearer {token}");
        let headers = [("content-type", "application/json"), ("authorization", &bearer)];
        let answer =
            self.ask(&self.client, Method::POST, url, &headers, json!({ "scope": [SCOPE] }).to_string()).await?;
        let end = field(&answer, "expireTime", url)?.parse::<Timestamp>().map_err(|error| format!("{url}: {error}"))?;
        let life = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
        Ok(Token::of(field(&answer, "accessToken", url)?, life))
    }

    /// The workload's own token.
    async fn subject(&self) -> Result<String, String> {
        let Source { file, url, headers, format } = &self.account.credential_source;
        let (text, place) = match (file, url) {
            (Some(file), _) => {
                let place = file.display().to_string();
                let text = tokio::fs::read_to_string(file).await;
                (text.map_err(|error| format!("the token of this workload, {place}: {error}"))?, place)
            }
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                (self.text(&self.local, Method::GET, url, &headers, String::new()).await?, url.to_owned())
            }
        };
        match format.as_ref().and_then(|format| format.subject_token_field_name.as_deref()) {
            Some(name) => field(&parsed(&text, &place)?, name, &place),
            None => Ok(text.trim().to_owned()),
        }
    }

    async fn ask(
        &self,
        client: &HttpClient,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Value, String> {
        parsed(&self.text(client, method, url, headers, body).await?, url)
    }

    /// Asks until there is an answer that is one, for as long as calls are repeated.
    async fn text(
        &self,
        client: &HttpClient,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<String, String> {
        let deadline = Instant::now() + self.patience;
        loop {
            let mut request = http::Request::builder().method(method.clone()).uri(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(HttpRequestBody::from(body.clone()));
            let request = request.map_err(|error| format!("{url} cannot be asked: {error}"))?;
            let why = match client.execute(request).await {
                Ok(answer) => {
                    let status = answer.status();
                    match answer.into_body().bytes().await {
                        Ok(bytes) if status.is_success() => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                        Ok(bytes) => {
                            let said = String::from_utf8_lossy(&bytes).chars().take(300).collect::<String>();
                            let why = format!("token request to {url}: status code: {status}: {said}");
                            if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                                return Err(why);
                            }
                            why
                        }
                        Err(error) => format!("{url}: {}", chain(&error)),
                    }
                }
                Err(error) => format!("{url}: {}", chain(&error)),
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(why);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Token {
    fn of(bearer: String, life: Duration) -> Token {
        let renew = Instant::now() + life - BEFORE.min(life / 5);
        Token { credential: Arc::new(GcpCredential { bearer }), renew }
    }
}

#[async_trait]
impl CredentialProvider for Federated {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let mut token = self.token.lock().await;
        if let Some(known) = token.as_ref().filter(|known| Instant::now() < known.renew) {
            return Ok(Arc::clone(&known.credential));
        }
        let new = self.fetch().await.map_err(|why| StoreError::Generic { store: "GCS", source: why.into() })?;
        Ok(Arc::clone(&token.insert(new).credential))
    }
}

fn parsed(text: &str, place: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{place} holds no JSON: {error}"))
}

fn field(value: &Value, name: &str, place: &str) -> Result<String, String> {
    let text = value.get(name).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("{place} tells no {name}"))
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_and_what_cannot_be_used_is_named() {
        let file = |source: Value| {
            json!({ "type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "u",
                    "credential_source": source })
            .to_string()
        };
        assert_eq!(Account::parse("{\"type\": \"service_account\"}"), Ok(None));
        for good in [
            json!({ "file": "/t" }),
            json!({ "url": "http://x", "headers": { "Metadata": "true" },
                    "format": { "type": "json", "subject_token_field_name": "access_token" } }),
        ] {
            assert!(Account::parse(&file(good)).unwrap().is_some());
        }
        for (bad, told) in [
            (json!({ "executable": { "command": "x" } }), "neither a `file` nor a `url`"),
            (json!({ "file": "/t", "format": { "type": "json" } }), "neither text nor json"),
            (json!("x"), "cannot be used"),
        ] {
            let why = Account::parse(&file(bad)).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
