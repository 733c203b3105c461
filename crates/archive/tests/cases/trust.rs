//! Stores behind TLS: certificates of an authority of one's own, and a proxy on the way.

use std::time::{Duration, SystemTime};

use matriarch_testkit::Tls;
use matriarch_testkit::azure::{ACCOUNT, AzureServer, CONTAINER, KEY};
use matriarch_testkit::certificates::Authority;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::gcs::{self, GcsServer};
use matriarch_testkit::middleman::Middleman;
use matriarch_testkit::tunnel::Tunnel;
use serde_json::{Value, json};

use super::chain::told;
use super::clouds::{assert_named, file, said};

#[tokio::test]
async fn an_authority_of_ones_own_is_believed_where_it_is_named() {
    let dir = TestDir::new("archive");
    let (google, azure) = (GcsServer::start(&dir).unwrap(), AzureServer::start(&dir).unwrap());
    let (authority, other) = (Authority::new(&dir.create("tls")), Authority::new(&dir.create("other")));
    let hour = Duration::from_secs(3600);
    authority.issue("store", hour);
    authority.issue_until("ended", SystemTime::now() - hour);
    let empty = file(&dir, "empty.pem", "no certificate");
    for (server, section) in [
        (
            google.endpoint(),
            json!({ "location": format!("gs://{}/tls", gcs::BUCKET), "credentials": google.account() }),
        ),
        (
            azure.endpoint(),
            json!({ "location": format!("azure://{ACCOUNT}/{CONTAINER}/tls"), "credentials": file(&dir, "key", KEY) }),
        ),
    ] {
        let front = Middleman::before_with(&server, Tls::of(&authority, "store").unwrap()).unwrap();
        let ended = Middleman::before_with(&server, Tls::of(&authority, "ended").unwrap()).unwrap();
        let location = section["location"].as_str().unwrap().to_owned();
        let with = |front: &Middleman, ca: Value| {
            let mut section = section.clone();
            section["endpoint"] = json!(front.endpoint());
            if !ca.is_null() {
                section["ca"] = ca;
            }
            section
        };
        let right = with(&front, json!(authority.ca()));
        assert_eq!(said(right.clone()).await, "");
        let unknown = said(with(&front, Value::Null)).await;
        assert_named(&unknown, &[&location, "name a PEM file with it as `ca`"]);
        let wrong = said(with(&front, json!(other.ca()))).await;
        assert_named(&wrong, &[&location, "the CA file", &other.ca().display().to_string(), "put that into it"]);
        let past = said(with(&ended, json!(authority.ca()))).await;
        assert_named(&past, &[&location, "renew the certificate of its endpoint"]);
        for (ca, why) in [(empty.clone(), "no certificate in PEM form"), (json!("/nonexistent"), "No such file")] {
            let path = ca.as_str().unwrap().to_owned();
            assert_named(&said(with(&front, ca)).await, &[&location, &path, why]);
        }

        let tunnel = Tunnel::start().unwrap();
        let by_proxy = told(&dir, &right, Duration::ZERO, &[("https_proxy", &tunnel.endpoint())]).await;
        assert!(by_proxy.starts_with("written ") && tunnel.passed() > 0, "{by_proxy}, {} connections", tunnel.passed());
    }
}
