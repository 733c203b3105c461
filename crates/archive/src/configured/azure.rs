//! Files by which Azure knows us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::repository::AzureSecret;

/// Reads an access key, a shared access signature (also at the end of a URL), or a connection string with one of both.
pub(super) fn secret(text: &str, account: &str) -> Result<AzureSecret, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty; write the access key or a shared access signature into it".to_owned());
    }
    if text.contains(';') {
        return connection_string(text, account);
    }
    if text.contains("sig=") {
        return signature(text);
    }
    match STANDARD.decode(text) {
        Ok(key) if !key.is_empty() => Ok(AzureSecret::Key(text.to_owned())),
        _ => {
            Err("it is neither an access key (base64, in one line) nor a shared access signature (`sv=…&sig=…`)"
                .to_owned())
        }
    }
}

fn connection_string(text: &str, account: &str) -> Result<AzureSecret, String> {
    let parts: Vec<(&str, &str)> = text.split(';').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name: &str| parts.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    if let Some(other) = part("AccountName").filter(|other| *other != account) {
        return Err(format!("it is of the account {other}, and the location names {account}"));
    }
    match (part("AccountKey"), part("SharedAccessSignature")) {
        (Some(key), _) => secret(key, account),
        (None, Some(text)) => signature(text),
        (None, None) => Err("it is a connection string without AccountKey= and SharedAccessSignature=".to_owned()),
    }
}

fn signature(text: &str) -> Result<AzureSecret, String> {
    let query = text.rsplit('?').next().unwrap_or(text);
    let part = |name: &str| query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    if part("sig").is_none_or(|(_, value)| value.is_empty()) || query.contains(char::is_whitespace) {
        return Err("its shared access signature is no `sv=…&sig=…` in one line".to_owned());
    }
    Ok(AzureSecret::Signature(query.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_signatures_and_connection_strings_are_told_apart() {
        let key = Ok(AzureSecret::Key("a2V5".to_owned()));
        assert_eq!(secret("a2V5\n", "shop"), key);
        assert_eq!(
            secret("DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=a2V5;EndpointSuffix=x", "shop"),
            key
        );
        let sas = "sv=2022-11-02&se=2999-01-01T00%3A00%3A00Z&sig=abc%3D";
        for text in [sas.to_owned(), format!("?{sas}\n"), format!("https://shop.blob.example/archive?{sas}")] {
            assert_eq!(secret(&text, "shop"), Ok(AzureSecret::Signature(sas.to_owned())), "{text}");
        }
        for (text, told) in [
            ("", "it is empty"),
            ("not a key", "neither an access key"),
            ("AccountName=other;AccountKey=a2V5", "account other, and the location names shop"),
            ("AccountName=shop;EndpointSuffix=x", "without AccountKey="),
            ("sv=1&sig=", "no `sv=…&sig=…`"),
        ] {
            let why = secret(text, "shop").unwrap_err();
            assert!(why.contains(told), "{text}: {why}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", secret("a2V5", "shop").unwrap()), "an access key");
    }
}
