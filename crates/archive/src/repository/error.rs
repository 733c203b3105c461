//! What can go wrong between us and a store, told apart by what a caller may conclude from it.

use std::error::Error as StdError;
use std::io;
use std::path::Path;

/// An operation on a repository that did not succeed.
///
/// Only [`RepositoryError::Absent`] says that an object is not there. Everything else leaves that open.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The object is not there, and the repository was there to say so.
    #[error("{repository} holds no {object}")]
    Absent {
        /// Name below the repository.
        object: String,
        /// The repository.
        repository: String,
    },
    /// No answer, or none that tells anything: an outage, a timeout, an error of the server, a full disk.
    #[error("could not {action} {object} in {repository}: {why}{remedy}", remedy = remedy(.source.as_ref()))]
    Unreachable {
        /// `read`, `write` …
        action: &'static str,
        /// Name below the repository.
        object: String,
        /// The repository.
        repository: String,
        /// The errors below, from the outermost on.
        why: String,
        /// What the store's client said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The store knows us and says no, or does not know us.
    #[error(
        "{repository} refuses to {action} {object}: {why}; check the credentials and what they allow (reading, writing, \
         listing, and listing of the bucket, without which a store hides what is absent)"
    )]
    Refused {
        /// `read`, `write` …
        action: &'static str,
        /// Name below the repository.
        object: String,
        /// The repository.
        repository: String,
        /// The errors below.
        why: String,
    },
    /// The object is there and is not what it claims to be.
    #[error("{object} in {repository} is damaged: {why}")]
    Corrupt {
        /// Name below the repository.
        object: String,
        /// The repository.
        repository: String,
        /// What is wrong.
        why: String,
    },
    /// It is encrypted, and we cannot open it.
    #[error("{object} in {repository} cannot be opened: {why}")]
    NoKey {
        /// Name below the repository.
        object: String,
        /// The repository.
        repository: String,
        /// What was tried.
        why: String,
    },
    /// Another content already has that name. Ours was kept beside it.
    #[error(
        "{object} is already in {repository} with another content; ours was kept as {kept}: two servers have written \
         what only one may write (a split brain, or two clusters that share a repository). Compare both before either is removed"
    )]
    Conflict {
        /// The name that both claim.
        object: String,
        /// Where ours is now.
        kept: String,
        /// The repository.
        repository: String,
    },
    /// The store overwrites where it was told to create.
    #[error(
        "{repository} cannot create an object only if it is absent ({why}), so two servers could overwrite each other's \
         WAL in silence. Use a store that can, or open the repository anew with claims instead of conditional creates"
    )]
    NoConditionalCreate {
        /// The repository.
        repository: String,
        /// What the probe saw.
        why: String,
    },
    /// Nothing there says that this is a repository.
    #[error(
        "{repository} is not a repository of Matriarch: {why}. If it is to become one, initialise it; if it was one, \
         look at its path, its prefix, and whether its file system is mounted"
    )]
    NotARepository {
        /// The repository.
        repository: String,
        /// What was found.
        why: String,
    },
    /// The settings cannot be used.
    #[error("{repository} cannot be opened: {why}")]
    Settings {
        /// The repository.
        repository: String,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl RepositoryError {
    /// Whether this proves that the object is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, RepositoryError::Absent { .. })
    }

    /// Whether the same may succeed later without anybody's doing.
    pub fn is_outage(&self) -> bool {
        matches!(self, RepositoryError::Unreachable { .. })
    }
}

/// All the errors of a chain in one line, without those that repeat what the one before has said.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let own = error.to_string();
        if !text.contains(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        next = error.source();
    }
    without_markup(&text)
}

/// A store's answer in XML as its code and its words, and everything in one line.
fn without_markup(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    let begin = text.find("<?xml").or_else(|| text.find("<Error>"));
    let plain = match (begin, element("Code"), element("Message")) {
        (Some(begin), Some(code), message) => {
            // What follows the first line is for the store's own support.
            let said =
                message.and_then(|message| message.lines().next()).map(|said| format!(" ({said})")).unwrap_or_default();
            let more = element("AuthenticationErrorDetail").map(|more| format!(" {more}")).unwrap_or_default();
            format!("{}{code}{said}{more}", &text[..begin])
        }
        _ => text.to_owned(),
    };
    plain.replace('\u{feff}', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a store says that there is no such bucket or container at all.
pub(super) fn lacks_holder(why: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"].iter().any(|code| why.contains(code))
}

/// Whether a store knows us and says no, or does not know us.
pub(super) fn is_refusal(why: &str) -> bool {
    // A service that gives out tokens says 400 to what has ended or is garbled.
    let no_token = why.contains("token request") && why.contains("status code: 400");
    // And S3 says it to a session that has ended, as Amazon's token service does to an identity.
    let ended = ["ExpiredToken", "InvalidIdentityToken"].iter().any(|code| why.contains(code));
    no_token || ended || why.contains("status code: 401") || why.contains("status code: 403")
}

/// What to do where the endpoint's certificate is not believed. `ca`: the file that names its authority.
pub(super) fn remedy_of_a_certificate(why: &str, ca: Option<&Path>) -> Option<String> {
    let of = why.split_once("invalid peer certificate: ")?.1;
    Some(if of.contains("certificate expired") || of.starts_with("Expired") {
        "renew the certificate of its endpoint there, or set the clock here".to_owned()
    } else if of.contains("not valid for name") || of.starts_with("NotValidForName") {
        "`endpoint` must have a host name that the certificate is for".to_owned()
    } else if let Some(ca) = ca {
        let file = ca.display();
        format!(
            "the CA file {file} (`ca`) does not hold the authority that signed the endpoint's certificate: put that into it"
        )
    } else {
        "the authority that signed its endpoint's certificate is not known to this system: name a PEM file with it as `ca`"
            .to_owned()
    })
}

fn remedy(error: &(dyn StdError + Send + Sync + 'static)) -> &'static str {
    if let Some(remedy) = remedy_of_a_chain(&chain(error)) {
        return remedy;
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                return "; free space on the repository's file system";
            }
            Some(io::ErrorKind::PermissionDenied) => {
                return "; check the owner and mode of the repository's directories";
            }
            _ => next = error.source(),
        }
    }
    ""
}

/// Where credentials come from the environment or the cloud.
fn remedy_of_a_chain(why: &str) -> Option<&'static str> {
    // Whoever has nothing else asks the machine's own server for metadata: Google's, Amazon's and Azure's.
    let of_the_host = [
        "/computeMetadata/",
        "169.254.169.254",
        "169.254.170.2",
        "/latest/api/token",
        "&resource=https%3A%2F%2Fstorage.azure.com",
    ];
    if of_the_host.iter().any(|asked| why.contains(asked)) {
        return Some(
            "; no credentials are configured here, and this host gets none from its cloud: name a file with them as `credentials`",
        );
    }
    if why.contains("the token of this workload") {
        return Some("; look at the file that credential_source names, and who may read it");
    }
    if why.contains("Failed to read token file") {
        return Some("; look at the file that AWS_WEB_IDENTITY_TOKEN_FILE names, and who may read it");
    }
    let is_missing = why.contains("federated token file");
    is_missing.then_some("; look at the file that AZURE_FEDERATED_TOKEN_FILE names, and who may read it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_fits_into_a_line() {
        let azure = "status code: 403 Forbidden: \u{feff}<?xml version=\"1.0\"?>\n<Error>\n <Code>AuthenticationFailed</Code>\n \
                     <Message>Server failed to\nRequestId:1</Message><AuthenticationErrorDetail>It expired</AuthenticationErrorDetail></Error>";
        let said = without_markup(azure);
        assert!(said.ends_with("403 Forbidden: AuthenticationFailed (Server failed to) It expired"), "{said}");
        assert!(is_refusal(&said) && !lacks_holder(&said));
        let s3 = "status code: 404 Not Found: <Error><Code>NoSuchBucket</Code></Error>";
        assert_eq!(without_markup(s3), "status code: 404 Not Found: NoSuchBucket");
        assert!(lacks_holder(&without_markup(s3)));
        let token = "Error performing token request: Server returned non-2xx status code: 400 Bad Request: {}";
        assert!(is_refusal(token) && !is_refusal("status code: 400 Bad Request"));
        assert_eq!(without_markup("<html>\n no <Code>"), "<html> no <Code>");
    }
}
