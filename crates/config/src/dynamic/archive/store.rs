//! What a store of objects does by itself with what it is given: its class of storage, its own encryption.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::join;
use crate::problem::Problems;

/// What S3 encrypts objects with where they rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerSideEncryption {
    /// Its own keys.
    SseS3,
    /// A key of its key service.
    SseKms,
    /// Twice, with a key of its key service.
    DsseKms,
    /// A key that comes with each request.
    SseC,
}

/// Across the keys of a repository.
pub(super) fn rule(repository: &Value, path: &str, problems: &mut Problems) {
    let given = |key: &str| repository.get(key).is_some_and(|value| !value.is_null());
    let sealed_by = repository.get("server_side_encryption").and_then(Value::as_str);
    let by_key_service = matches!(sealed_by, Some("sse-kms" | "dsse-kms"));
    if given("kms_key") && !by_key_service {
        problems.add(
            join(path, "kms_key"),
            "no key service is asked for",
            "set `server_side_encryption: sse-kms`, or remove it",
        );
    }
    match (sealed_by == Some("sse-c"), given("customer_key")) {
        (true, false) => problems.add(
            join(path, "customer_key"),
            "`sse-c` needs a key that comes with each request",
            "write one into a file on every host (`openssl rand -base64 32`) and name it here",
        ),
        (false, true) => {
            problems.add(
                join(path, "customer_key"),
                "nothing is encrypted with it",
                "set `server_side_encryption: sse-c`, or remove it",
            );
        }
        _ => {}
    }
}

/// Accepts a class whose objects can be read at once.
pub(super) fn storage_class(text: &str) -> Result<(), String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        return Err("it must be a word such as STANDARD_IA".to_owned());
    }
    match text.to_ascii_uppercase().as_str() {
        "GLACIER" | "DEEP_ARCHIVE" => {
            Err("what lies there takes hours before it can be read, and a restore cannot wait; GLACIER_IR can be read at once".to_owned())
        }
        _ => Ok(()),
    }
}
