//! Where a configured repository lies, with the credentials that its files hold.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use matriarch_config::{self as config, ArchiveLocation, ArchiveRepository};

use super::{ConfiguredError, azure, google};
use crate::repository::{Azure, Gcs, Location, S3, ServerSide, time};

/// The client's settings of a repository, the `index`-th; reads the file with the credentials.
pub(crate) fn location(repository: &ArchiveRepository, index: usize) -> Result<Location, ConfiguredError> {
    let file = |path: &PathBuf, why: String| ConfiguredError::File {
        key: format!("repositories[{index}].credentials"),
        path: path.clone(),
        why,
    };
    let text = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| file(path, error.to_string()));
    Ok(match &repository.location {
        ArchiveLocation::Directory(path) => Location::Directory(path.clone()),
        ArchiveLocation::S3 { bucket, prefix } => {
            let profile = match &repository.credentials {
                Some(path) => profile(&text(path)?).map_err(|why| file(path, why))?,
                None => Profile::default(),
            };
            Location::S3(Box::new(S3 {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint: repository.endpoint.clone(),
                region: repository.region.clone(),
                virtual_hosted: !repository.path_style,
                keys: profile.keys,
                token: profile.token,
                token_ends: profile.token_ends,
                ca: repository.ca.clone(),
                server_side: server_side(repository, index)?,
            }))
        }
        ArchiveLocation::Gcs { bucket, prefix } => {
            if let Some(path) = &repository.credentials {
                google::check(&text(path)?).map_err(|why| file(path, why))?;
            }
            Location::Gcs(Box::new(Gcs {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                credentials: repository.credentials.clone(),
                endpoint: repository.endpoint.clone(),
                ca: repository.ca.clone(),
            }))
        }
        ArchiveLocation::Azure { account, container, prefix } => {
            let secret = match &repository.credentials {
                Some(path) => Some(azure::secret(&text(path)?, account).map_err(|why| file(path, why))?),
                None => None,
            };
            Location::Azure(Box::new(Azure {
                account: account.clone(),
                container: container.clone(),
                prefix: prefix.clone(),
                secret,
                endpoint: repository.endpoint.clone(),
                ca: repository.ca.clone(),
            }))
        }
    })
}

fn server_side(repository: &ArchiveRepository, index: usize) -> Result<Option<ServerSide>, ConfiguredError> {
    let Some(wanted) = repository.server_side_encryption else { return Ok(None) };
    let kms = repository.kms_key.clone();
    Ok(Some(match wanted {
        config::ServerSideEncryption::SseS3 => ServerSide::Own,
        config::ServerSideEncryption::SseKms => ServerSide::KeyService(kms),
        config::ServerSideEncryption::DsseKms => ServerSide::KeyServiceTwice(kms),
        config::ServerSideEncryption::SseC => {
            let path = repository.customer_key.clone().unwrap_or_default();
            let failed = |why: String| ConfiguredError::File {
                key: format!("repositories[{index}].customer_key"),
                path: path.clone(),
                why,
            };
            let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            let key = text.trim().to_owned();
            if STANDARD.decode(&key).is_ok_and(|key| key.len() == 32) {
                ServerSide::Customer(key)
            } else {
                let why = "it is not 32 bytes in base64; `openssl rand -base64 32` writes such a key";
                return Err(failed(why.to_owned()));
            }
        }
    }))
}

#[derive(Default, PartialEq, Eq)]
struct Profile {
    keys: Option<(String, String)>,
    token: Option<String>,
    token_ends: Option<Timestamp>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("token_ends", &self.token_ends).finish_non_exhaustive()
    }
}

/// What programs that write session tokens into such a file call the time at which they end.
const TOKEN_ENDS: [&str; 4] = ["aws_expiration", "aws_credential_expiration", "x_security_token_expires", "expiration"];

/// The first profile of a file as `~/.aws/credentials`.
fn profile(text: &str) -> Result<Profile, String> {
    let (mut id, mut secret, mut token, mut token_ends) = (None, None, None, None);
    let mut headings = 0;
    for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            headings += 1;
            if headings > 1 || id.is_some() {
                break;
            }
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number} is no `key = value`"))?;
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            name if TOKEN_ENDS.contains(&name) => token_ends = value.as_deref().and_then(time),
            _ => {}
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => {
            let token_ends = token_ends.filter(|_| token.is_some());
            Ok(Profile { keys: Some((id, secret)), token, token_ends })
        }
        (None, _) => Err("its first profile has no aws_access_key_id; write `aws_access_key_id = …`".to_owned()),
        (_, None) => {
            Err("its first profile has no aws_secret_access_key; write `aws_secret_access_key = …`".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_first_profile() {
        let text = "# by hand\n[default]\naws_access_key_id = A\nregion=x\naws_secret_access_key=B=\n[b]\naws_access_key_id = C\n";
        let keys = Some(("A".to_owned(), "B=".to_owned()));
        assert_eq!(profile(text), Ok(Profile { keys, ..Profile::default() }));
        let bare = "aws_access_key_id=A\naws_secret_access_key=B\naws_session_token=T\n";
        assert_eq!(profile(bare).unwrap().token.as_deref(), Some("T"));
        let end = Some("2026-01-02T03:04:05Z".parse().unwrap());
        for line in [
            "aws_expiration=2026-01-02T03:04:05.000Z",
            "x_security_token_expires = 2026-01-02T04:04:05+01:00",
            "expiration = 2026-01-02 03:04:05",
        ] {
            let found = profile(&format!("{bare}{line}\n")).unwrap();
            assert_eq!(found.token_ends, end, "{line}");
            assert!(!format!("{found:?}").contains(['A', 'B']), "{found:?}");
        }
        let unclear = profile(&format!("{bare}aws_expiration=soon\n")).unwrap();
        assert_eq!(unclear.token_ends, None);
        for (text, told) in [
            ("", "no aws_access_key_id"),
            ("[a]\naws_access_key_id=A\n[b]\naws_secret_access_key=B", "no aws_secret_access_key"),
            ("nonsense", "line 1 is no"),
        ] {
            assert!(profile(text).unwrap_err().contains(told), "{text}");
        }
    }
}
