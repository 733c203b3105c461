//! The doors in Google Cloud Storage and in Azure, as their emulators have them.
//!
//! Debian's pgBackRest writes to Azure by itself, and Debian's Barman restores from there. What Barman keeps in Google's is our own
//! export, and what WAL-G keeps is put there by us: these tools' own clients are not to be had where tests run, or do not speak to the
//! emulator.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use matriarch_archive::configured::Configured;
use matriarch_archive::door::{Chosen, Door, Foreign, Tool};
use matriarch_archive::export::{Compression, Export};
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_archive::restore::{self, Target, Wanted};
use matriarch_archive::wal::WalName;
use matriarch_config::{ArchiveRepository, DynamicConfig};
use matriarch_testkit::Tls;
use matriarch_testkit::azure::{ACCOUNT, AzureServer, CONTAINER, KEY};
use matriarch_testkit::certificates::Authority;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::gcs::{self, GcsServer};
use matriarch_testkit::middleman::Middleman;
use matriarch_testkit::pgbackrest::PgBackRest;
use matriarch_testkit::server::Server;
use matriarch_testkit::{user, wheels};
use serde_json::json;

use super::export::Barman;
use super::{archive_all, connect, count, installation, restored, stock};
use crate::common::database::Database;
use crate::common::{Described, PATIENT};

fn in_google(tool: Tool, server: &GcsServer, prefix: &str) -> Foreign {
    let repository = ArchiveRepository {
        endpoint: Some(server.endpoint()),
        allow_http: true,
        credentials: Some(server.account()),
        ..ArchiveRepository::at(format!("gs://{}/{prefix}", gcs::BUCKET).parse().unwrap())
    };
    Foreign { tool, repository, name: None, chosen: Chosen::default(), key_file: None }
}

fn in_azure(tool: Tool, dir: &TestDir, endpoint: String, prefix: &str) -> Foreign {
    let key = dir.join("azure.key");
    std::fs::write(&key, KEY).unwrap();
    user::give(&key).unwrap();
    let repository = ArchiveRepository {
        allow_http: endpoint.starts_with("http://"),
        endpoint: Some(endpoint),
        credentials: Some(key),
        ..ArchiveRepository::at(format!("azure://{ACCOUNT}/{CONTAINER}/{prefix}").parse().unwrap())
    };
    Foreign { tool, repository, name: None, chosen: Chosen::default(), key_file: None }
}

#[tokio::test]
async fn what_is_exported_to_google_and_to_azure_comes_back() {
    let Some(installation) = installation() else {
        matriarch_testkit::skipped("PostgreSQL 15 is needed; scripts/install-deps --test installs it");
        return;
    };
    let dir = TestDir::new("doors");
    let (google, azure) = (GcsServer::start(&dir).unwrap(), AzureServer::start(&dir).unwrap());
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let database = Database::start(installation, &dir, described, "").await;
    let client = database.client().await;
    let tables = "create table marks as select g from generate_series(1, 5) g;
        create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 20000) g";
    client.batch_execute(tables).await.unwrap();
    let backup = database.backup("one").await.unwrap().backup;
    client.batch_execute("insert into marks values (6)").await.unwrap();
    database.archive_all().await;
    let to_google = in_google(Tool::Barman, &google, "some/where");
    let to_azure = in_azure(Tool::Barman, &dir, azure.endpoint(), "some/where");
    let mut id = String::new();
    for to in [&to_google, &to_azure] {
        let wanted = Wanted { backup: Some(backup.clone()), ..Wanted::new(Target::Latest) };
        let plan = restore::plan(&database.archive, &wanted).await.unwrap();
        let export = Export::prepare(&database.archive, plan, (to, "main"), Compression::Gzip, PATIENT).await.unwrap();
        let written = export.write(2, &Progress::default()).await.unwrap();
        assert!(written.tars > 0 && written.segments > 0, "{written:?}");
        id = export.id().to_owned();
    }
    let latest = Wanted::new(Target::Latest);
    let server = restored(&dir, installation, &to_google, &latest, ("of-google", false), "").await;
    is_whole(&server).await;
    drop(server);
    let Some(barman) = barman_of_azure(&dir, &azure) else {
        matriarch_testkit::skipped(
            "Barman with its client for Azure is needed; scripts/install-deps --test installs both, as root",
        );
        return;
    };
    is_whole(&barman.restored(&dir, &id, &[]).await).await;
}

async fn is_whole(server: &Server) {
    assert_eq!(count(server, "marks").await, 6);
    assert_eq!(count(server, "large where filler = repeat(md5(g::text), 30)").await, 20_000);
}

/// Debian's Barman with the modules that it imports for Azure, which are among the test's wheels.
fn barman_of_azure(dir: &TestDir, server: &AzureServer) -> Option<Barman> {
    let modules = ["azure-storage-blob", "azure-core", "isodate", "typing-extensions"];
    let folders: Option<Vec<String>> =
        modules.iter().map(|name| wheels::folder(name).map(|folder| folder.display().to_string())).collect();
    let (endpoint, folders) = (server.endpoint(), folders?);
    let connection = format!(
        "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint}/{ACCOUNT};"
    );
    let variables = vec![
        ("AZURE_STORAGE_CONNECTION_STRING", connection),
        ("PYTHONPATH", folders.join(":")),
        ("HOME", dir.path().display().to_string()),
    ];
    let place = format!("--cloud-provider azure-blob-storage {endpoint}/{ACCOUNT}/{CONTAINER}/some/where main");
    Barman::at(variables, place)
}

/// All objects of a directory, below the prefix of a repository.
async fn upload(to: &Foreign, from: &Path) {
    let section = json!({ "archive": { "repositories": [{
        "location": to.repository.location.to_string(), "endpoint": to.repository.endpoint, "allow_http": true,
        "credentials": to.repository.credentials,
    }] } });
    let section = DynamicConfig::from_json(&section).unwrap().archive.unwrap();
    let repository: Repository = Configured::new(&section, "main", PATIENT).unwrap().init().await.remove(0).unwrap();
    let mut folders = vec![from.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(from).unwrap().display().to_string();
            repository.put(&name, Bytes::from(std::fs::read(&path).unwrap())).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_walg_keeps_in_google_and_in_azure_comes_back() {
    let Some(installation) = installation() else {
        matriarch_testkit::skipped("PostgreSQL 15 is needed; scripts/install-deps --test installs it");
        return;
    };
    let dir = TestDir::new("doors");
    let (google, azure) = (GcsServer::start(&dir).unwrap(), AzureServer::start(&dir).unwrap());
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/walg");
    let in_azure = in_azure(Tool::WalG, &dir, azure.endpoint(), "wal/g");
    upload(&in_azure, &kept).await;
    assert_eq!(stock(&in_azure).await.unwrap().backups().len(), 2);
    let (name, to): (WalName, _) = ("000000010000000000000014".parse().unwrap(), dir.join("fetched"));
    Door::open(&in_azure, PATIENT).await.unwrap().fetch(&name, &to).await.unwrap();
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 16 << 20);

    let in_google = in_google(Tool::WalG, &google, "wal/g");
    upload(&in_google, &kept).await;
    let full = Wanted { backup: Some("base_000000010000000000000005".into()), ..Wanted::new(Target::Immediate) };
    let own = "unix_socket_directories = ''";
    let server = restored(&dir, installation, &in_google, &full, ("of-google", false), own).await;
    assert_eq!((count(&server, "marks").await, count(&server, "in_ts").await), (1000, 20_000));
}

#[tokio::test]
async fn what_pgbackrest_has_archived_in_azure_comes_back() {
    let (Some(program), Some(installation)) = (PgBackRest::program(), installation()) else {
        matriarch_testkit::skipped(
            "pgBackRest and PostgreSQL 15 are needed; scripts/install-deps --test installs them",
        );
        return;
    };
    let dir = TestDir::new("doors");
    let azure = AzureServer::start(&dir).unwrap();
    // It speaks nothing but TLS.
    let authority = Authority::new(&dir.create("tls"));
    authority.issue("store", Duration::from_secs(3600));
    let front = Middleman::before_with(&azure.endpoint(), Tls::of(&authority, "store").unwrap()).unwrap();
    let port = front.endpoint().rsplit(':').next().unwrap().to_owned();
    let settings = format!("autovacuum = off\n{}", PgBackRest::settings(&dir));
    let server = Server::create(installation, &dir, "data", &settings).await.unwrap();
    let global = format!(
        "repo1-type=azure\nrepo1-path=/pg/backrest\nrepo1-azure-account={ACCOUNT}\nrepo1-azure-key={KEY}\n\
         repo1-azure-container={CONTAINER}\nrepo1-azure-uri-style=path\nrepo1-storage-host=localhost\nrepo1-storage-port={port}\n\
         repo1-storage-ca-file={}\nrepo1-bundle=y\ncompress-type=zst",
        authority.ca().display()
    );
    let pgbackrest = PgBackRest::begin(program, &dir, &server, &global).await.unwrap();
    let client = connect(&server).await;
    client.batch_execute("create table marks as select g from generate_series(1, 5) g").await.unwrap();
    pgbackrest.run(&["--type=full", "backup"]).unwrap();
    client.batch_execute("insert into marks values (6)").await.unwrap();
    archive_all(&client).await;
    let from = in_azure(Tool::PgBackRest, &dir, front.endpoint(), "pg/backrest");
    let from = Foreign { repository: ArchiveRepository { ca: Some(authority.ca()), ..from.repository }, ..from };
    let restored = restored(&dir, installation, &from, &Wanted::new(Target::Latest), ("of-azure", false), "").await;
    assert_eq!(count(&restored, "marks").await, 6);
}
