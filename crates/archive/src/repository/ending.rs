//! Credentials that end at a time that is known beforehand.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::location::{Azure, AzureSecret, Location, S3};

/// Until when credentials are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub what: &'static str,
    pub at: Timestamp,
    /// Since when they are good, where they say so.
    pub since: Option<Timestamp>,
    pub remedy: &'static str,
}

impl Location {
    /// When its credentials end; none where they do not, renew themselves, or do not tell.
    pub(crate) fn ends(&self) -> Option<Ends> {
        match self {
            Location::Directory(_) | Location::Gcs(_) => None,
            Location::S3(s3) => s3.ends(std::env::var("AWS_CREDENTIAL_EXPIRATION").ok().as_deref()),
            Location::Azure(azure) => azure.ends(),
        }
    }
}

impl S3 {
    /// `of_environment`: when the keys of the environment end.
    fn ends(&self, of_environment: Option<&str>) -> Option<Ends> {
        let (what, at, remedy) = match &self.keys {
            Some(_) => {
                let what = "the session token in its credentials file";
                (what, self.token_ends?, "write new keys and their token there")
            }
            None => {
                // Only where the keys are there as well: whoever has none asks the cloud, which renews its own.
                std::env::var_os("AWS_SESSION_TOKEN").or_else(|| std::env::var_os("AWS_TOKEN"))?;
                let what = "the session token of the environment (AWS_CREDENTIAL_EXPIRATION)";
                (what, time(of_environment?)?, "set new keys and start anew")
            }
        };
        Some(Ends { what, at, since: None, remedy })
    }
}

impl Azure {
    fn ends(&self) -> Option<Ends> {
        let (signature, what, remedy) = match &self.secret {
            Some(AzureSecret::Key(_)) => return None,
            Some(AzureSecret::Signature(signature)) => {
                let what = "the shared access signature in its credentials file";
                (signature.clone(), what, "write a new one there")
            }
            None => {
                let what = "the shared access signature of the environment";
                (signature_of_environment()?, what, "set a new one and start anew")
            }
        };
        let at = part(&signature, "se")?;
        Some(Ends { what, at, since: part(&signature, "st"), remedy })
    }
}

/// The signature that the client takes from the environment, unless something there comes before it.
fn signature_of_environment() -> Option<String> {
    let builder = MicrosoftAzureBuilder::from_env();
    let is_set = |key: &AzureConfigKey| builder.get_config_value(key).is_some();
    let by_client = is_set(&AzureConfigKey::ClientId)
        && is_set(&AzureConfigKey::AuthorityId)
        && (is_set(&AzureConfigKey::FederatedTokenFile) || is_set(&AzureConfigKey::ClientSecret));
    if by_client || is_set(&AzureConfigKey::Token) || is_set(&AzureConfigKey::AccessKey) {
        return None;
    }
    builder.get_config_value(&AzureConfigKey::SasKey)
}

/// A time in a shared access signature.
pub(super) fn part(signature: &str, name: &str) -> Option<Timestamp> {
    let pairs = signature.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()?;
    time(&value.replace("%3A", ":").replace("%3a", ":"))
}

/// A time as credentials tell it; one without a zone is of UTC.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let civil = || text.trim_end_matches('Z').parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    text.parse().ok().or_else(|| civil().map(|zoned| zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_and_a_token_tell_when_they_end() {
        let azure = |signature: &str| {
            Location::Azure(Box::new(Azure {
                secret: Some(AzureSecret::Signature(signature.to_owned())),
                ..Azure::default()
            }))
        };
        let time = |text: &str| -> Timestamp { text.parse().unwrap() };
        let ends = azure("sv=1&st=2026-01-01&se=2026-01-02T03%3A04%3A05Z&sig=a").ends().unwrap();
        assert_eq!((ends.at, ends.since), (time("2026-01-02T03:04:05Z"), Some(time("2026-01-01T00:00:00Z"))));
        // Without seconds, as the portal of Azure may write it.
        let ends = azure("se=2026-01-02T03:04Z&sig=a").ends().unwrap();
        assert_eq!((ends.at, ends.since), (time("2026-01-02T03:04:00Z"), None));
        assert_eq!(azure("sv=1&si=policy&sig=a").ends(), None, "its policy has the end");
        let s3 = S3 {
            keys: Some(("a".into(), "b".into())),
            token_ends: Some(time("2026-01-02T03:04:05Z")),
            ..S3::default()
        };
        assert_eq!(Location::S3(Box::new(s3)).ends().unwrap().at, time("2026-01-02T03:04:05Z"));
        assert_eq!(Location::Directory("/a".into()).ends(), None);
    }
}
