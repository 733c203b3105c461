//! The gate: whoever shows credentials that were given out, and that are still good, is let in as somebody whom the store knows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Given, Identity, Shared, sigv4};
use crate::middleman::{Fault, Request};

impl Identity {
    /// Before S3: the signature must be one of a secret that was given out, with its token. It is signed anew by `keys`.
    pub fn gate_of_s3(&self, keys: (&str, &str)) -> impl FnMut(&mut Request) -> Option<Fault> + Send + 'static + use<> {
        let (shared, keys) = (Arc::clone(&self.shared), (keys.0.to_owned(), keys.1.to_owned()));
        move |request| {
            let token = request.header("x-amz-security-token").unwrap_or_default().to_owned();
            let given = match shared.known(request, &token) {
                Ok(given) => given,
                Err(fault) => return Some(fault),
            };
            if !sigv4::is_signed(request, &given.id, &given.secret) {
                return Some(shared.refuse(request, "it is signed with another secret"));
            }
            request.take("x-amz-security-token");
            sigv4::sign(request, &keys.0, &keys.1);
            None
        }
    }

    /// Before Google's store: the token must have been given out. It becomes one that the account's key has signed.
    ///
    /// # Errors
    /// When the account's file cannot be used.
    pub fn gate_of_google(
        &self,
        account: &Path,
    ) -> Result<impl FnMut(&mut Request) -> Option<Fault> + Send + 'static + use<>> {
        let shared = Arc::clone(&self.shared);
        let account: Value = serde_json::from_slice(&std::fs::read(account)?)?;
        let bearer = jwt(&account).context("the account's key")?;
        Ok(move |request: &mut Request| {
            let fault = shared.shows_bearer(request).err();
            if fault.is_none() {
                request.headers.push(("authorization".to_owned(), format!("Bearer {bearer}")));
            }
            fault
        })
    }

    /// Before Azure's store: likewise. It becomes a shared access signature.
    pub fn gate_of_azure(&self, signature: &str) -> impl FnMut(&mut Request) -> Option<Fault> + Send + 'static + use<> {
        let (shared, signature) = (Arc::clone(&self.shared), signature.to_owned());
        move |request| {
            let fault = shared.shows_bearer(request).err();
            if fault.is_none() {
                let glue = if request.target.contains('?') { '&' } else { '?' };
                request.target = format!("{}{glue}{signature}", request.target);
            }
            fault
        }
    }
}

impl Identity {
    /// What else is to be done there: each part of a batch shows its own token.
    pub fn batches_of_azure(&self, signature: &str) -> impl FnMut(&mut Request) + Send + 'static + use<> {
        let (shared, signature) = (Arc::clone(&self.shared), signature.to_owned());
        move |request| {
            if !request.target.contains("comp=batch") {
                return;
            }
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let part = |line: &str| match line.split_once(' ') {
                Some((name, token)) if name.eq_ignore_ascii_case("authorization:") => {
                    // A refusal is kept for the test; the part is let in all the same.
                    drop(shared.known(request, token.trim_start_matches("Bearer ")));
                    None
                }
                Some(("DELETE", rest)) => {
                    let (path, version) = rest.rsplit_once(' ')?;
                    Some(format!("DELETE {path}?{signature} {version}"))
                }
                _ => Some(line.to_owned()),
            };
            request.body = body.split("\r\n").filter_map(part).collect::<Vec<_>>().join("\r\n").into_bytes();
        }
    }
}

impl Shared {
    fn known(&self, request: &Request, token: &str) -> Result<Given, Fault> {
        let given = self.given().iter().find(|given| given.token == token).cloned();
        match given {
            None => Err(self.refuse(request, "its token was not given out")),
            Some(given) if given.ends <= Instant::now() => Err(self.refuse(request, "its token has ended")),
            Some(given) => Ok(given),
        }
    }

    fn shows_bearer(&self, request: &mut Request) -> Result<Given, Fault> {
        let shown = request.take("authorization").unwrap_or_default();
        self.known(request, shown.trim_start_matches("Bearer "))
    }

    fn refuse(&self, request: &Request, why: &str) -> Fault {
        self.refused().push(format!("{} {}: {why}", request.method, request.target));
        Fault::Status(403)
    }
}

/// What an account signs for itself, for an hour.
fn jwt(account: &Value) -> Result<String> {
    let text = |name: &str| account[name].as_str().with_context(|| format!("it has no {name}"));
    let pem: String = text("private_key")?.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = RsaKeyPair::from_pkcs8(&STANDARD.decode(pem)?)?;
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": text("client_email")?, "sub": text("client_email")?, "iat": now, "exp": now + 3600,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
    });
    let header = json!({ "alg": "RS256", "typ": "JWT" });
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
