//! Files by which Google knows us.

use serde_json::Value;

use crate::repository::Account;

const MAKE: &str = "write the JSON file of a service account there (`gcloud iam service-accounts keys create`)";

const CONFIGURE: &str = "`gcloud iam workload-identity-pools create-cred-config` writes such a file";

/// Fails for what the client could not use, before it is asked to.
pub(super) fn check(text: &str) -> Result<(), String> {
    let file: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON ({error}); {MAKE}"))?;
    if Account::parse(text).map_err(|why| format!("{why}; {CONFIGURE}"))?.is_some() {
        return Ok(());
    }
    let fields: &[&str] = match file.get("type").and_then(Value::as_str) {
        Some("service_account") => &["client_email", "private_key", "private_key_id"],
        Some("authorized_user") => &["client_id", "client_secret", "refresh_token"],
        Some(other) => {
            return Err(format!(
                "it is of the type {other}, and only service_account, authorized_user and external_account can be used; {MAKE}, \
                 or leave `credentials` out on a host to which Google gives an account"
            ));
        }
        None => return Err(format!("it names no `type`; {MAKE}")),
    };
    match fields.iter().find(|name| file.get(**name).and_then(Value::as_str).is_none_or(str::is_empty)) {
        Some(missing) => Err(format!("it has no `{missing}`; {MAKE}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_can_be_used_is_accepted() {
        let account =
            json!({ "type": "service_account", "client_email": "a@b", "private_key": "k", "private_key_id": "1" });
        assert_eq!(check(&account.to_string()), Ok(()));
        let user = json!({ "type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c" });
        assert_eq!(check(&user.to_string()), Ok(()));
        for (text, told) in [
            ("", "it is no JSON"),
            ("[]", "no `type`"),
            ("{\"type\": \"external_account\"}", "workload-identity-pools"),
            ("{\"type\": \"gdch_service_account\"}", "of the type gdch_service_account"),
            ("{\"type\": \"service_account\", \"client_email\": \"a\", \"private_key\": \"\"}", "no `private_key`"),
        ] {
            let why = check(text).unwrap_err();
            assert!(why.contains(told) && why.contains("gcloud iam"), "{text}: {why}");
        }
    }
}
