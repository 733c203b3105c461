//! A directory and a bucket: what one of them lacks, has damaged or does not answer, the other one has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use matriarch_archive::configured::Configured;
use matriarch_cli::code;
use matriarch_config::{Document, DynamicConfig};
use matriarch_testkit::postgres;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use serde_json::{Value, json};

use super::backup::pack;
use crate::harness::PATIENCE;
use crate::harness::site::{Site, connect, write};

/// How many seconds the bucket is waited for: few while it is away.
fn wait_for(site: &Site, seconds: u32) {
    let file = site.dir.join("archive.yml");
    let mut value = Document::parse(&std::fs::read_to_string(&file).unwrap()).unwrap().value;
    value["archive"]["repositories"][1]["retry_for"] = json!(seconds);
    write(&file, &matriarch_config::to_yaml(&value));
}

/// Adds the bucket to the site's archive.
async fn with_bucket(site: &Site, server: &S3Server) -> String {
    let credentials = site.dir.join("credentials");
    write(&credentials, &format!("[x]\naws_access_key_id = {}\naws_secret_access_key = {}\n", KEYS.0, KEYS.1));
    let file = site.dir.join("archive.yml");
    let mut value = Document::parse(&std::fs::read_to_string(&file).unwrap()).unwrap().value;
    let location = format!("s3://{BUCKET}/two");
    value["archive"]["repositories"].as_array_mut().unwrap().push(json!({
        "location": location, "endpoint": server.endpoint(), "allow_http": true, "region": "us-east-1",
        "credentials": credentials
    }));
    write(&file, &matriarch_config::to_yaml(&value));
    let section = DynamicConfig::from_json(&value).unwrap().archive.unwrap();
    for made in Configured::new(&section, "main", PATIENCE).unwrap().init().await {
        made.unwrap();
    }
    location
}

/// In which repositories a backup is, as they are listed.
async fn places(site: &Site, backup: &str) -> Vec<String> {
    let list = site.run(&["backup", "list", "-o", "json"]).await.json();
    let rows = list.as_array().unwrap().iter().filter(|row| row["backup"] == backup);
    rows.map(|row| row["repository"].as_str().unwrap().to_owned()).collect()
}

fn name(taken: &Value) -> String {
    taken["backup"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_two_repositories_is_enough() {
    let site = Site::new(postgres::any()).await;
    let mut server = S3Server::start(&site.dir).unwrap();
    let bucket = with_bucket(&site, &server).await;
    let folder = format!("directory {}", site.dir.join("repository").display());
    let client = connect(&site.server, "postgres").await;
    site.insert(&client, 10).await;
    let first = name(&site.take(&["--full"]).await);
    assert_eq!(places(&site, &first).await, [folder.clone(), bucket.clone()]);
    let shown = site.run(&["backup", "list"]).await;
    assert!(shown.ok().contains(&folder) && shown.out.contains(&bucket), "{shown}");
    let checked = site.run(&["backup", "verify", "-o", "json"]).await.json();
    assert_eq!((&checked[0]["repository"], &checked[1]["repository"]), (&json!(folder), &json!(bucket)), "{checked}");
    site.run(&["backup", "hold", &first]).await.ok();
    let held = site.run(&["backup", "list", "-o", "json"]).await.json();
    assert!(held[0]["hold"].is_object() && held[1]["hold"].is_object(), "{held}");
    site.run(&["backup", "hold", &first, "--release"]).await.ok();

    without_the_bucket(&site, &mut server, &client, (&folder, &bucket)).await;
    damaged(&site, &first, (&folder, &bucket)).await;

    // Where it is: in both, in one, nowhere.
    let listed = site.run(&["backup", "list", "-o", "json"]).await.json();
    let second = name(listed.as_array().unwrap().iter().rfind(|row| row["repository"] == folder.as_str()).unwrap());
    assert_eq!(places(&site, &second).await, [folder.as_str()]);
    site.run(&["backup", "show", &second]).await.ok();
    site.run(&["backup", "annotate", &second, "why=outage"]).await.ok();
    for backup in [&second, &first] {
        site.run(&["backup", "delete", backup, "--force"]).await.ok();
        assert!(places(&site, backup).await.is_empty());
    }
    site.run(&["backup", "delete", &first, "--force"])
        .await
        .refused_naming(code::DATA, &["there is no backup", &bucket]);
}

/// An outage: a backup goes where it can, what is there can be used, and what was not reached is said.
async fn without_the_bucket(
    site: &Site,
    server: &mut S3Server,
    client: &tokio_postgres::Client,
    (folder, bucket): (&str, &str),
) {
    server.stop();
    wait_for(site, 1);
    site.insert(client, 20).await;
    let (data, dsn) = (site.server.data().display().to_string(), site.server.dsn());
    let words = ["backup", "--data-dir", &data, "--dsn", &dsn, "-o", "json"];
    let taken = site.run(&words).await;
    taken.refused_naming(code::UNAVAILABLE, &[bucket, "is not in every repository", "--repository"]);
    let second = name(&serde_json::from_str::<Value>(&taken.out).unwrap()[0]);
    assert_eq!(places(site, &second).await, [folder.to_owned()]);
    let verified = site.run(&["backup", "verify", "-o", "json"]).await;
    verified.refused_naming(code::UNAVAILABLE, &[bucket]);
    assert!(verified.out.contains(&second), "{verified}");
    let refused = site.run(&["backup", "delete", &second, "--force"]).await;
    refused.refused_naming(code::UNAVAILABLE, &["nothing was done", "--repository"]);
    let dry = site.dir.join("dry").display().to_string();
    let planned = site.run(&["restore", &dry, "--dry-run", "-o", "json"]).await;
    assert!(planned.err.contains(bucket), "{planned}");
    let page = planned.json();
    assert_eq!((page["backup"].as_str(), page["repository"].as_str()), (Some(&*second), Some(folder)), "{page}");
    server.run().unwrap();
    wait_for(site, 60);
    // It lacks the newest backup, and has the first.
    site.archive_wal(client).await;
    let page = site.run(&["restore", &dry, "--dry-run", "-o", "json"]).await.json();
    assert_eq!((page["backup"].as_str(), page["repository"].as_str()), (Some(&*second), Some(folder)), "{page}");
    assert_eq!(site.rows_of("from-the-bucket", &["--repository", bucket]).await, 20);
}

/// What is damaged in one repository is told with its name, and restored from the other one.
async fn damaged(site: &Site, first: &str, (folder, bucket): (&str, &str)) {
    let (path, away) = (pack(site, first), site.dir.join("pack-away"));
    std::fs::rename(&path, &away).unwrap();
    let told = site.run(&["backup", "verify", first]).await;
    told.refused_naming(code::DATA, &[first, folder, "is damaged"]);
    site.run(&["backup", "verify", first, "--repository", bucket]).await.ok();
    assert_eq!(site.rows_of("from-the-other", &["--backup", first]).await, 20);
    std::fs::rename(&away, &path).unwrap();
}
