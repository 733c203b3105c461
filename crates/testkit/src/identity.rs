//! The servers of the clouds that give out credentials for a short time, each in the form that its documentation describes: the
//! metadata of a machine (Amazon's IMDSv2, Google's, Azure's), of a container (ECS, and the agent of EKS), and the services that take
//! the token of a workload (Amazon's STS, Google's, Microsoft Entra). And the gate before a store that lets in whoever shows what was given out,
//! as long as it is good.

mod gate;
mod sigv4;

use std::io::BufReader;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::listening::{Listening, Stream, Tls};
use crate::middleman::wire::{Answer, Request, read_request};

/// What a workload shows to get credentials; in a file beside it.
pub const PROOF: &str = "header.this-is-a-workload-of-the-test.signature";
/// The role that it may take on at Amazon.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/archive";
/// Its application and its directory at Microsoft.
pub const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
/// The directory.
pub const TENANT: &str = "66666666-7777-8888-9999-000000000000";
/// The workload's pool at Google.
pub const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/here";
/// Where a service account of Google's is taken on.
pub const IMPERSONATE: &str = "/v1/projects/-/serviceAccounts/archive@test.iam.gserviceaccount.com:generateAccessToken";
/// A session with Amazon's metadata.
const SESSION: &str = "a-session-with-the-metadata";

/// Something that was given out.
#[derive(Clone, Debug)]
struct Given {
    id: String,
    secret: String,
    token: String,
    ends: Instant,
}

struct Shared {
    life: Duration,
    given: Mutex<Vec<Given>>,
    refused: Mutex<Vec<String>>,
    failing: AtomicUsize,
}

/// One such server. It ends with its handle.
pub struct Identity {
    listening: Listening,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Starts one whose credentials are good for so long.
    pub fn start(life: Duration, tls: Option<Tls>) -> Result<Identity> {
        let shared =
            Arc::new(Shared { life, given: Mutex::default(), refused: Mutex::default(), failing: AtomicUsize::new(0) });
        let serving = Arc::clone(&shared);
        let serve = move |client: Box<dyn Stream>, _: &dyn Fn() -> bool| {
            let mut reader = BufReader::new(client);
            while let Some(mut request) = read_request(&mut reader)? {
                request.read(&mut reader)?;
                serving.answer(&request).write(reader.get_mut(), false)?;
            }
            Ok(())
        };
        Ok(Identity { listening: Listening::start(tls, serve)?, shared })
    }

    /// `http://127.0.0.1:port`, or with `https`.
    pub fn endpoint(&self) -> String {
        self.listening.endpoint()
    }

    /// How often it has given out something.
    pub fn given(&self) -> usize {
        self.shared.given().len()
    }

    /// What it or its gate has refused, and why.
    pub fn refused(&self) -> Vec<String> {
        self.shared.refused().clone()
    }

    /// So many of the next questions get no answer but 503.
    pub fn fail(&self, times: usize) {
        self.shared.failing.store(times, Ordering::Release);
    }
}

impl Shared {
    fn given(&self) -> MutexGuard<'_, Vec<Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Vec<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something new.
    fn give(&self) -> Given {
        let mut given = self.given();
        let number = given.len();
        let one = Given {
            id: format!("ASIATEST{number}"),
            secret: format!("secret-{number}-{:x}", rand::random::<u64>()),
            token: format!("token-{number}-{:x}", rand::random::<u64>()),
            ends: Instant::now() + self.life,
        };
        given.push(one.clone());
        one
    }

    fn answer(&self, request: &Request) -> Answer {
        let fails = |left: usize| left.checked_sub(1);
        if self.failing.fetch_update(Ordering::AcqRel, Ordering::Acquire, fails).is_ok() {
            return Answer::of(503);
        }
        let (path, query) = request.place();
        let answer = match path.strip_prefix("/latest/") {
            Some(rest) => self.amazon(request, rest),
            None => match path {
                // Containers: of ECS, and of EKS, whose agent wants to see the workload's token.
                "/v2/credentials/1" => Some(self.keys()),
                "/v1/credentials" if request.header("authorization") == Some(PROOF) => Some(self.keys()),
                "/" => self.assume_role(query, &request.body),
                "/v1/token" => self.exchange(&request.body),
                IMPERSONATE => self.impersonate(request),
                _ => self.google(request, path).or_else(|| self.azure(request, path, query)),
            },
        };
        answer.unwrap_or_else(|| {
            self.refused().push(format!("{} {path} {query}", request.method));
            Answer::of(403)
        })
    }

    /// IMDSv2: a session first, which every other question must show.
    fn amazon(&self, request: &Request, path: &str) -> Option<Answer> {
        let text = |text: &str| Some(Answer::good("text/plain", text));
        if path == "api/token" {
            let is_session =
                request.method == "PUT" && request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some();
            return if is_session { text(SESSION) } else { None };
        }
        if request.header("x-aws-ec2-metadata-token") != Some(SESSION) {
            return None;
        }
        match path {
            "meta-data/iam/security-credentials/" => text("archive"),
            "meta-data/iam/security-credentials/archive" => Some(self.keys()),
            _ => None,
        }
    }

    fn keys(&self) -> Answer {
        let Given { id, secret, token, .. } = self.give();
        let keys = json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id, "SecretAccessKey": secret, "Token": token,
            "Expiration": self.end().to_string(),
        });
        Answer::good("application/json", &keys.to_string())
    }

    /// `AssumeRoleWithWebIdentity`.
    fn assume_role(&self, query: &str, body: &[u8]) -> Option<Answer> {
        let body = String::from_utf8_lossy(body);
        let said = |name: &str| sigv4::field(query, name).or_else(|| sigv4::field(&body, name));
        let is = |name: &str, value: &str| said(name).as_deref() == Some(value);
        if !is("Action", "AssumeRoleWithWebIdentity") || !is("RoleArn", ROLE) || !is("WebIdentityToken", PROOF) {
            return None;
        }
        let Given { id, secret, token, .. } = self.give();
        let text = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
             <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}\
             </SessionToken><Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>",
            self.end()
        );
        Some(Answer::good("text/xml", &text))
    }

    fn google(&self, request: &Request, path: &str) -> Option<Answer> {
        let asked = path == "/computeMetadata/v1/instance/service-accounts/default/token";
        if !asked || request.header("metadata-flavor") != Some("Google") {
            return None;
        }
        Some(self.bearer(json!({ "token_type": "Bearer", "expires_in": self.life.as_secs() })))
    }

    /// Google's token service, for workloads that others vouch for.
    fn exchange(&self, body: &[u8]) -> Option<Answer> {
        let body = String::from_utf8_lossy(body);
        let is = |name: &str, value: &str| sigv4::field(&body, name).as_deref() == Some(value);
        let is_asked = is("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            && is("audience", AUDIENCE)
            && is("subject_token", PROOF)
            && is("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
            && is("scope", "https://www.googleapis.com/auth/cloud-platform");
        is_asked.then(|| self.bearer(json!({ "token_type": "Bearer", "expires_in": self.life.as_secs() })))
    }

    /// Another token, of a service account, for whoever has one of the token service.
    fn impersonate(&self, request: &Request) -> Option<Answer> {
        let shown = request.header("authorization")?.strip_prefix("Bearer ")?;
        let is_known = self.given().iter().any(|given| given.token == shown && given.ends > Instant::now());
        let answer = json!({ "accessToken": self.give().token, "expireTime": self.end().to_string() });
        is_known.then(|| Answer::good("application/json", &answer.to_string()))
    }

    /// The metadata of a machine, and Microsoft Entra's answer to the token of a workload.
    fn azure(&self, request: &Request, path: &str, query: &str) -> Option<Answer> {
        if path == "/metadata/identity/oauth2/token" {
            let of_the_store = sigv4::field(query, "resource").as_deref() == Some("https://storage.azure.com");
            let is_asked = of_the_store && request.header("metadata") == Some("true") && query.contains("api-version=");
            // A text, as the documentation has it.
            let ends = self.end().as_second().to_string();
            return is_asked.then(|| self.bearer(json!({ "token_type": "Bearer", "expires_on": ends })));
        }
        let body = String::from_utf8_lossy(&request.body);
        let is = |name: &str, value: &str| sigv4::field(&body, name).as_deref() == Some(value);
        let is_asked = path == format!("/{TENANT}/oauth2/v2.0/token")
            && is("client_id", CLIENT)
            && is("client_assertion", PROOF)
            && is("scope", "https://storage.azure.com/.default")
            && is("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        is_asked.then(|| self.bearer(json!({ "token_type": "Bearer", "expires_in": self.life.as_secs() })))
    }

    fn bearer(&self, mut answer: serde_json::Value) -> Answer {
        answer["access_token"] = json!(self.give().token);
        Answer::good("application/json", &answer.to_string())
    }

    fn end(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::try_from(self.life).unwrap_or(SignedDuration::ZERO)
    }
}
