//! Signatures of Amazon's requests, version 4: made, and compared.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use crate::middleman::Request;

/// What an `Authorization` says.
struct Said<'a> {
    id: &'a str,
    /// Day, region, service and `aws4_request`.
    scope: &'a str,
    headers: &'a str,
    signature: &'a str,
}

fn said(authorization: &str) -> Option<Said<'_>> {
    let part = |name: &str| {
        let rest = authorization.split_once(name)?.1;
        Some(rest.split(',').next().unwrap_or(rest).trim())
    };
    let (id, scope) = part("Credential=")?.split_once('/')?;
    Some(Said { id, scope, headers: part("SignedHeaders=")?, signature: part("Signature=")? })
}

/// Whether a request was signed by whoever has this secret.
pub(super) fn is_signed(request: &Request, id: &str, secret: &str) -> bool {
    let said = request.header("authorization").and_then(said);
    said.is_some_and(|said| said.id == id && said.signature == signature(request, said.headers, said.scope, secret))
}

/// Signs a request anew, as it is now.
pub(super) fn sign(request: &mut Request, id: &str, secret: &str) {
    let authorization = request.take("authorization").unwrap_or_default();
    let Some(said) = said(&authorization) else { return };
    let there: Vec<&str> = said.headers.split(';').filter(|name| request.header(name).is_some()).collect();
    let headers = there.join(";");
    let signature = signature(request, &headers, said.scope, secret);
    let scope = said.scope;
    let text = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={headers}, Signature={signature}");
    request.headers.push(("authorization".to_owned(), text));
}

fn signature(request: &Request, headers: &str, scope: &str, secret: &str) -> String {
    let (path, query) = request.place();
    let header = |name: &str| request.header(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = headers.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
    let (time, content) = (header("x-amz-date"), header("x-amz-content-sha256"));
    let canonical = [request.method.as_str(), path, &sorted(query), &shown, headers, &content].join("\n");
    let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let text = ["AWS4-HMAC-SHA256", &time, scope, &hashed].join("\n");
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    hex(&mac(&key, &text))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A query as it is signed.
fn sorted(query: &str) -> String {
    let mut pairs: Vec<(String, String)> =
        pairs(query).map(|(name, value)| (encoded(&decoded(name)), encoded(&decoded(value)))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A field of a query or a form.
pub(super) fn field(query: &str, name: &str) -> Option<String> {
    let value = pairs(query).find(|(known, _)| *known == name)?.1;
    Some(String::from_utf8_lossy(&decoded(value)).into_owned())
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok()).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    bytes
}

fn encoded(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    bytes.iter().map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Amazon's documentation: GET Object.
    #[test]
    fn an_example_of_amazon_is_signed_as_they_do() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let scope = "20130524/us-east-1/s3/aws4_request";
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let headers = "host;range;x-amz-content-sha256;x-amz-date";
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{scope}, SignedHeaders={headers}, Signature={signature}"
        );
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut request = Request {
            number: 0,
            method: "GET".to_owned(),
            target: "/test.txt".to_owned(),
            headers: vec![
                header("host", "examplebucket.s3.amazonaws.com"),
                header("range", "bytes=0-9"),
                header("x-amz-content-sha256", empty),
                header("x-amz-date", "20130524T000000Z"),
                header("authorization", &authorization),
            ],
            body: Vec::new(),
        };
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        assert!(is_signed(&request, "AKIAIOSFODNN7EXAMPLE", secret));
        assert!(!is_signed(&request, "AKIAIOSFODNN7EXAMPLE", "another"));
        sign(&mut request, "other", "another");
        assert!(is_signed(&request, "other", "another"));
        assert_eq!(sorted("prefix=a%2Fb&list-type=2&uploads&a=x+y"), "a=x%20y&list-type=2&prefix=a%2Fb&uploads=");
    }
}
