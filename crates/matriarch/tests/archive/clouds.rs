//! A cluster whose repositories lie in Google Cloud Storage and in Azure, as emulators have them: keys that are wrong and that
//! are renewed, and a restore from each that has everything that was acknowledged.

use std::path::Path;
use std::time::Duration;

use matriarch_testkit::azure::{ACCOUNT, AzureServer, CONTAINER, KEY};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::faults;
use matriarch_testkit::gcs::{self, GcsServer};
use matriarch_testkit::ledger::{Book, Ledger, Options};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::destroyed::{move_data, restored_from};
use crate::harness::{Cluster, PATIENCE, Plan, health, verb};
use crate::{configure, set, table, until, write};

const GOOGLE: &str = "gs://archive/pre/fix";

fn in_azure() -> String {
    format!("azure://{ACCOUNT}/{CONTAINER}/pre/fix")
}

/// Whether the repository in Azure (the second) is open, and the reason why not.
fn azure_is(page: &Value) -> (bool, &str) {
    let row = &page["repositories"][1];
    (row["open"] == true, row["problem"].as_str().unwrap_or_default())
}

/// In one go, as a person is told to.
fn renew(cluster: &Cluster, text: &str) {
    let (file, new) = (cluster.root().join("azure.key"), cluster.root().join("azure.key.new"));
    std::fs::write(&new, text).expect("there is room");
    std::fs::rename(&new, &file).expect("it is ours");
}

/// A key that is wrong is told with its place, and each that is put in its stead counts without a restart.
async fn keys(cluster: &Cluster, azure: &AzureServer) {
    // A file that is garbled is nothing to the other repository.
    let garbled = cluster.verb(&["archive", "init"]).await;
    garbled.refused_naming(75, &[&in_azure()]);
    assert!(garbled.out.contains("azure.key") && garbled.out.contains("neither an access key"), "{garbled}");
    let page = until(cluster, "the other one is open", |page| page["repositories"][0]["open"] == true).await;
    assert!(!azure_is(&page).0 && azure_is(&page).1.contains("azure.key"), "{page:#}");
    renew(cluster, "d3Jvbmc=");
    let refused = cluster.verb(&["archive", "init"]).await;
    refused.refused_naming(75, &[&in_azure()]);
    assert!(refused.out.contains(&in_azure()) && refused.out.contains("check the credentials"), "{refused}");
    let now = jiff::Timestamp::now();
    let minutes = jiff::SignedDuration::from_mins;
    renew(cluster, &azure.signature("racwdl", now - minutes(5)));
    let ended = cluster.verb(&["archive", "check"]).await;
    assert!(ended.out.contains("ended at") && ended.out.contains("write a new one"), "{ended}");
    renew(cluster, &azure.signature("racwdl", now + minutes(60)));
    cluster.verb(&["archive", "init"]).await.ok();
    let checked = cluster.verb(&["archive", "check"]).await;
    let checked = checked.ok();
    assert!(checked.contains("the shared access signature in its credentials file") && checked.contains(" ends at "));
    let page =
        until(cluster, "both are open", |page| page["repositories"][0]["open"] == true && azure_is(page).0).await;
    let ends = &page["repositories"][1]["ends"][0];
    assert!(ends["soon"] == false && ends["text"].as_str().is_some_and(|text| text.contains("azure.key")), "{page:#}");
    // One that was good is taken back while the repository is in use.
    renew(cluster, &azure.signature("l", now + minutes(60)));
    write(cluster, 1).await;
    let page = until(cluster, "it is refused", |page| azure_is(page).1.contains("refuses")).await;
    assert!(azure_is(&page).1.contains(&in_azure()), "{page:#}");
    renew(cluster, KEY);
    until(cluster, "open again", |page| azure_is(page).0 && page["waiting"] == 0).await;
}

/// Everything of the cluster dies at one moment, while clients write. What they remember.
async fn destroy(cluster: &mut Cluster) -> Book {
    let leader = health::leader(cluster).await;
    let options = Options {
        writers: 4,
        every: Duration::from_millis(2),
        ..Options::new(cluster.dsn(cluster.postgres_port(&leader)))
    };
    let ledger = Ledger::start(options).await.expect("the cluster takes writes");
    let begun = std::time::Instant::now();
    while ledger.progress().0 < 200 {
        assert!(begun.elapsed() < PATIENCE, "hardly anything is acknowledged: {:?}", ledger.progress());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.process().signal(Signal::KILL);
    let members = cluster.names().into_iter().flat_map(|name| faults::node_processes(&cluster.member(&name)));
    faults::kill(&members.collect::<Vec<i32>>());
    faults::kill(&faults::node_processes(&cluster.path()));
    ledger.stop().await
}

/// What counts where no file is named, and that a file counts before it.
async fn by_the_environment(cluster: &Cluster, section: &Value, account: &str) {
    let named = cluster.root().join("named.yml");
    let bare = cluster.root().join("bare.yml");
    let mut without = section.clone();
    for repository in without["repositories"].as_array_mut().expect("a list") {
        repository.as_object_mut().expect("a section").remove("credentials");
        repository["retry_for"] = json!(0);
    }
    for (file, section) in [(&named, section), (&bare, &without)] {
        let text = matriarch_config::to_yaml(&json!({ "archive": section }));
        std::fs::write(file, text).expect("there is room");
    }
    let home = cluster.root().display().to_string();
    let list = async |file: &Path, location: &str, environment: &[(&str, &str)]| {
        let file = file.display().to_string();
        let words = ["backup", "list", "--archive", &file, "--scope", "demo", "--repository", location, "-o", "json"];
        let environment = [&[("HOME", &*home)], environment].concat();
        verb::run(cluster.root(), cluster.root(), &words, &environment).await
    };
    let azure = &in_azure();
    let wrong = "d3Jvbmc=";
    for (file, location, environment) in [
        (&bare, GOOGLE, vec![("GOOGLE_APPLICATION_CREDENTIALS", account)]),
        (&bare, GOOGLE, vec![("GOOGLE_SERVICE_ACCOUNT", account)]),
        (&bare, azure, vec![("AZURE_STORAGE_ACCOUNT_KEY", KEY)]),
        (&named, GOOGLE, vec![("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")]),
        (&named, azure, vec![("AZURE_STORAGE_ACCOUNT_KEY", wrong), ("AZURE_STORAGE_TOKEN", wrong)]),
    ] {
        let listed = list(file, location, &environment).await.json();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{environment:?}: {listed}");
    }
    // Nobody gives anything: a metadata server that is not there.
    let nobody = "127.0.0.1:1";
    let none =
        [("GCE_METADATA_HOST", nobody), ("GCE_METADATA_IP", nobody), ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token")];
    for location in [GOOGLE, azure] {
        list(&bare, location, &none)
            .await
            .refused_naming(69, &[location, "no credentials are configured", "`credentials`"]);
    }
    let file = [("AZURE_CLIENT_ID", "a"), ("AZURE_TENANT_ID", "b"), ("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent")];
    list(&bare, azure, &file).await.refused_naming(69, &[azure, "the file that AZURE_FEDERATED_TOKEN_FILE names"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_comes_back_from_google_and_from_azure() {
    let dir = TestDir::new("clouds-store");
    let (google, azure) = (GcsServer::start(&dir).expect("it starts"), AzureServer::start(&dir).expect("it starts"));
    let mut cluster = Plan::new("clouds").members(1).start().await;
    let account = cluster.root().join("account.json");
    std::fs::copy(google.account(), &account).expect("there is room");
    renew(&cluster, "{ garbled");
    assert_eq!(GOOGLE, format!("gs://{}/pre/fix", gcs::BUCKET));
    let section = json!({ "repositories": [
        { "location": GOOGLE, "endpoint": google.endpoint(), "allow_http": true, "credentials": account },
        { "location": in_azure(), "endpoint": azure.endpoint(), "allow_http": true,
          "credentials": cluster.root().join("azure.key") },
    ] });
    configure(&cluster, &section).await;
    table(&cluster).await;
    keys(&cluster, &azure).await;
    set(&cluster, "durability", &json!("required")).await;
    until(&cluster, "commits wait", |page| page["durability"]["holds"] == true).await;
    cluster.verb(&["backup"]).await.ok();
    write(&cluster, 2).await;
    let archive = cluster.root().join("archive.yml");
    std::fs::write(&archive, cluster.verb(&["config", "show"]).await.ok()).expect("there is room");

    let book = destroy(&mut cluster).await;
    move_data(&cluster, "data", "data.destroyed");
    for (index, location) in [GOOGLE.to_owned(), in_azure()].iter().enumerate() {
        let target = cluster.root().join(format!("restored-{index}"));
        let verdict = restored_from(&cluster, &archive, &["--repository", location], &target, &book).await;
        let rows = book.summary().acknowledged;
        assert!(verdict.lost.is_empty(), "{} of {rows} acknowledged rows are not in {location}", verdict.lost.len());
    }
    by_the_environment(&cluster, &section, &account.display().to_string()).await;
}
