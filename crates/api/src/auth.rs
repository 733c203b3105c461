//! Who may use the interface.

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::base64;

/// Credentials that are accepted, and what needs them.
///
/// Requests that change something always need them, unless [`Auth::none`] says otherwise; reads only when closed.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    writes_open: bool,
    certificates: bool,
    reads: Reads,
    tokens: Vec<String>,
    basic: Option<(String, String)>,
}

/// Whether reads need credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Anybody may read, as in Patroni: load balancers send no credentials.
    #[default]
    Open,
    /// Reads need the same credentials.
    Closed,
}

/// Whoever asks has shown a certificate that is trusted: part of the requests of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certified;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No certificate was shown.
    Uncertified,
    /// No credentials came with it.
    Missing,
    /// They are not the right ones.
    Wrong,
}

impl Auth {
    /// Accepts this bearer token. An empty one is accepted by nobody.
    pub fn token(token: impl Into<String>) -> Self {
        Auth::accept(vec![token.into()], None, Reads::Open)
    }

    /// Accepts any of these tokens, or this user name and password. With none of them every change is refused.
    pub fn accept(tokens: Vec<String>, basic: Option<(String, String)>, reads: Reads) -> Self {
        let tokens = tokens.into_iter().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let basic = basic.filter(|(_, password)| !password.is_empty());
        Auth(Arc::new(Inner { writes_open: false, certificates: false, reads, tokens: tokens.collect(), basic }))
    }

    /// The same, with changes and members for those alone who show a certificate. Where there are no other credentials it is
    /// enough.
    pub fn with_certificates(self) -> Self {
        Auth(Arc::new(Inner { certificates: true, ..Inner::clone(&self.0) }))
    }

    /// Anybody may do everything. Only for a listener that nobody else can reach.
    pub fn none() -> Self {
        let (reads, tokens) = (Reads::Open, Vec::new());
        Auth(Arc::new(Inner { writes_open: true, certificates: false, reads, tokens, basic: None }))
    }

    /// Judges a request by its headers and by the certificate that was shown, if one was; `write` when it changes something.
    pub fn check(&self, headers: &HeaderMap, certified: Option<Certified>, write: bool) -> Result<(), Refusal> {
        let wanted = write && self.0.certificates;
        if wanted && certified.is_none() {
            return Err(Refusal::Uncertified);
        }
        let open = match write {
            true => self.0.writes_open || (wanted && !self.has_secrets()),
            false => self.0.reads == Reads::Open,
        };
        if open {
            return Ok(());
        }
        let presented = headers.get(AUTHORIZATION).ok_or(Refusal::Missing)?;
        let presented = presented.to_str().map_err(|_| Refusal::Wrong)?;
        let (scheme, secret) = presented.trim().split_once(' ').ok_or(Refusal::Wrong)?;
        let secret = secret.trim();
        let right = match scheme.to_ascii_lowercase().as_str() {
            // Every token is compared, so that the time does not tell which one was nearly right.
            "bearer" => self.0.tokens.iter().fold(false, |right, token| same(token, secret) | right),
            "basic" => self.basic_ok(secret),
            _ => false,
        };
        if right { Ok(()) } else { Err(Refusal::Wrong) }
    }

    /// Judges another member, which shares the credentials of this one where there are any.
    pub fn check_member(&self, headers: &HeaderMap, certified: Option<Certified>) -> Result<(), Refusal> {
        self.check(headers, certified, self.has_secrets() || self.0.certificates)
    }

    fn has_secrets(&self) -> bool {
        !self.0.tokens.is_empty() || self.0.basic.is_some()
    }

    fn basic_ok(&self, secret: &str) -> bool {
        let Some(decoded) = base64::decode(secret).and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return false;
        };
        let Some((user, password)) = decoded.split_once(':') else {
            return false;
        };
        let by_password = self.0.basic.as_ref().is_some_and(|(name, secret)| same(name, user) & same(secret, password));
        // Tools that know only Basic may send the token as the password.
        let by_token = self.0.tokens.iter().fold(false, |right, token| same(token, password) | right);
        by_password | by_token
    }
}

/// The `Authorization` header of a member that speaks with another one: both have the same credentials.
pub fn authorization(token: Option<&str>, basic: Option<(&str, &str)>) -> Option<String> {
    let by_token = token.map(|token| format!("Bearer {}", token.trim()));
    by_token.or_else(|| basic.map(|(user, password)| basic_header(user, password)))
}

fn basic_header(user: &str, password: &str) -> String {
    format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes()))
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("writes_open", &self.0.writes_open)
            .field("certificates", &self.0.certificates)
            .field("reads", &self.0.reads)
            .field("tokens", &self.0.tokens.len())
            .field("basic", &self.0.basic.is_some())
            .finish()
    }
}

/// Compares in a time that depends on the length of what was presented only.
fn same(secret: &str, presented: &str) -> bool {
    let secret = secret.as_bytes();
    let mut different = secret.len() ^ presented.len();
    for (i, byte) in presented.bytes().enumerate() {
        let expected = if secret.is_empty() { !byte } else { secret[i % secret.len()] };
        different |= usize::from(std::hint::black_box(expected ^ byte));
    }
    std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_right_secret_opens() {
        let auth =
            Auth::accept(vec!["tok en".into(), "s3cret\n".into()], Some(("u".into(), "p:w".into())), Reads::Open);
        let basic = |text: &str| format!("Basic {}", base64::encode(text.as_bytes()));
        for good in ["Bearer s3cret", "bearer  s3cret", &basic("u:p:w"), &basic("anybody:s3cret")] {
            assert_eq!(auth.check(&headers(good), None, true), Ok(()), "{good}");
        }
        for bad in
            ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets3cret", "s3cret", &basic("u:p"), "Basic !!", "Basic"]
        {
            assert_eq!(auth.check(&headers(bad), None, true), Err(Refusal::Wrong), "{bad}");
        }
        assert_eq!(auth.check(&HeaderMap::new(), None, true), Err(Refusal::Missing));
        assert_eq!(auth.check(&HeaderMap::new(), None, false), Ok(()));
    }

    #[test]
    fn without_secrets_nothing_opens() {
        let auth = Auth::accept(vec![" ".into()], Some(("u".into(), String::new())), Reads::Closed);
        for header in ["Bearer ", "Bearer x", "Basic Og==", "Basic dTo="] {
            assert_eq!(auth.check(&headers(header), None, true), Err(Refusal::Wrong), "{header}");
        }
        assert_eq!(auth.check(&HeaderMap::new(), None, false), Err(Refusal::Missing));
        assert!(Auth::none().check(&HeaderMap::new(), None, true).is_ok());
    }

    #[test]
    fn members_need_the_secret_where_there_is_one() {
        let right = headers("Bearer s3cret");
        assert_eq!(Auth::token("s3cret").check_member(&right, None), Ok(()));
        assert_eq!(Auth::token("s3cret").check_member(&HeaderMap::new(), None), Err(Refusal::Missing));
        let open = Auth::accept(Vec::new(), None, Reads::Open);
        assert_eq!(open.check_member(&HeaderMap::new(), None), Ok(()));
        assert_eq!(open.check(&right, None, true), Err(Refusal::Wrong), "changes stay closed");
    }

    #[test]
    fn what_a_member_presents_opens_its_twin() {
        let auth = Auth::accept(vec!["tok".into()], Some(("u".into(), "p:w".into())), Reads::Open);
        for presented in [authorization(Some("tok\n"), None), authorization(None, Some(("u", "p:w")))] {
            assert_eq!(auth.check_member(&headers(&presented.unwrap()), None), Ok(()));
        }
        assert_eq!(authorization(None, None), None);
    }

    #[test]
    fn a_certificate_is_asked_for_beside_the_secret_and_is_enough_without_one() {
        let (none, shown) = (HeaderMap::new(), Some(Certified));
        let both = Auth::token("s3cret").with_certificates();
        let right = headers("Bearer s3cret");
        assert_eq!(both.check(&right, None, true), Err(Refusal::Uncertified));
        assert_eq!(both.check(&none, shown, true), Err(Refusal::Missing));
        assert_eq!(both.check(&right, shown, true), Ok(()));
        assert_eq!(both.check(&none, None, false), Ok(()));
        assert_eq!(both.check_member(&right, None), Err(Refusal::Uncertified));
        assert_eq!(both.check_member(&none, shown), Err(Refusal::Missing));

        let alone = Auth::accept(Vec::new(), None, Reads::Open).with_certificates();
        assert_eq!(alone.check(&none, None, true), Err(Refusal::Uncertified));
        assert_eq!((alone.check(&none, shown, true), alone.check_member(&none, shown)), (Ok(()), Ok(())));
        // One that is not asked for opens nothing.
        let asked_for_none = Auth::accept(Vec::new(), None, Reads::Open);
        assert_eq!(asked_for_none.check(&none, shown, true), Err(Refusal::Missing));
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        assert!(!format!("{:?}", Auth::token("s3cret")).contains("s3cret"));
    }
}
