//! Credentials that a cloud gives out for a short time: asked for by what the environment says, used while they are good, and
//! renewed before they end. What gives them out is a server of the test that speaks as the cloud's documentation has it; before the
//! store stands a gate that lets in nobody else.

use std::time::{Duration, Instant};

use matriarch_archive::configured::Configured;
use matriarch_archive::repository::RepositoryError;
use matriarch_config::DynamicConfig;
use matriarch_testkit::Tls;
use matriarch_testkit::azure::{ACCOUNT, AzureServer, CONTAINER};
use matriarch_testkit::certificates::Authority;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::gcs::{self, GcsServer};
use matriarch_testkit::identity::{AUDIENCE, CLIENT, IMPERSONATE, Identity, PROOF, ROLE, TENANT};
use matriarch_testkit::middleman::Middleman;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use serde_json::{Value, json};

use super::clouds::{assert_named, file, said};
use super::put_new;

/// How long credentials are good here, and how long each repository is written to.
const LIFE: Duration = Duration::from_secs(2);
const WRITES: Duration = Duration::from_millis(3_500);

const SECTION: &str = "MATRIARCH_TEST_REPOSITORY";
const LONG: &str = "MATRIARCH_TEST_MILLISECONDS";
const TOLD: &str = "told: ";

/// What a process does whose environment is another one; the harness does not start it.
#[tokio::test]
#[ignore = "other tests start it, in an environment of its own"]
async fn hand() {
    let said = |name| std::env::var(name).expect("other tests start this");
    let (section, long) = (serde_json::from_str(&said(SECTION)).unwrap(), said(LONG).parse().unwrap());
    let told = write(section, Duration::from_millis(long)).await.unwrap_or_else(|error| error.to_string());
    println!("\n{TOLD}{told}");
}

async fn write(section: Value, long: Duration) -> Result<String, RepositoryError> {
    let config = DynamicConfig::from_json(&json!({ "archive": { "repositories": [section] } })).unwrap();
    let configured = Configured::new(&config.archive.unwrap(), "main", Duration::from_secs(20)).unwrap();
    let repository = configured.init().await.remove(0)?;
    repository.check().await?;
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < long {
        put_new(&repository, &format!("wal/{count}"), b"content").await?;
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(format!("written {count}"))
}

/// What such a process says of a repository that it writes to for so long.
pub fn told(
    dir: &TestDir,
    section: &Value,
    writes: Duration,
    environment: &[(&str, &str)],
) -> impl Future<Output = String> + use<> {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "chain::hand", "--ignored", "--nocapture"]).env_clear().env("HOME", dir.path());
    command.env(SECTION, section.to_string()).env(LONG, writes.as_millis().to_string());
    command.envs(environment.iter().copied());
    async move {
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().find_map(|line| line.strip_prefix(TOLD)) {
            Some(told) => told.to_owned(),
            None => panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// All was written, and more than one credential was needed for it.
fn assert_renewed(told: &str, by: &Identity) {
    assert!(told.starts_with("written "), "{told}; refused: {:?}", by.refused());
    assert!(by.refused().is_empty(), "{:?}", by.refused());
    assert!(by.given() >= 2, "{} for {WRITES:?}, and each is good for {LIFE:?}", by.given());
}

fn identity() -> Identity {
    let identity = Identity::start(LIFE, None).unwrap();
    // A service that is away for a moment is asked again.
    identity.fail(1);
    identity
}

fn proof(dir: &TestDir) -> String {
    file(dir, "proof", PROOF).as_str().unwrap().to_owned()
}

fn host(identity: &Identity) -> String {
    identity.endpoint().trim_start_matches("http://").to_owned()
}

fn workload<'a>(sts: &'a str, proof: &'a str) -> [(&'a str, &'a str); 3] {
    [("AWS_ENDPOINT_URL_STS", sts), ("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", proof)]
}

#[tokio::test]
async fn keys_that_amazon_gives_out_are_renewed_before_they_end() {
    let dir = TestDir::new("archive");
    let server = S3Server::start(&dir).unwrap();
    let authority = Authority::new(&dir.create("tls"));
    authority.issue("sts", Duration::from_secs(3600));
    let tls = Tls::of(&authority, "sts").unwrap();
    let (machine, task, pod) = (identity(), identity(), identity());
    let tokens = Identity::start(LIFE, Some(tls)).unwrap();
    let before = |identity: &Identity| {
        let front = Middleman::before(&server.endpoint()).unwrap();
        front.plan(identity.gate_of_s3(KEYS));
        front
    };
    let section = |front: &Middleman, prefix: &str| {
        json!({ "location": format!("s3://{BUCKET}/{prefix}"), "endpoint": front.endpoint(), "allow_http": true,
                "region": "us-east-1", "ca": authority.ca() })
    };
    let fronts = [&machine, &task, &pod, &tokens].map(before);
    let [of_machine, of_task, of_pod, of_tokens] = &fronts;
    let (proof, metadata) = (proof(&dir), machine.endpoint());
    let (proxy, agent, sts) = (task.endpoint(), format!("{}/v1/credentials", pod.endpoint()), tokens.endpoint());
    let of_a_host = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*metadata)];
    // The address of this one is fixed, so it is reached by way of a proxy.
    let of_a_task = [
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1"),
        ("http_proxy", &proxy),
        ("no_proxy", "127.0.0.1"),
    ];
    let of_a_pod =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*agent), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &proof)];
    let (by_machine, by_task, by_pod, by_workload) = tokio::join!(
        told(&dir, &section(of_machine, "machine"), WRITES, &of_a_host),
        told(&dir, &section(of_task, "task"), WRITES, &of_a_task),
        told(&dir, &section(of_pod, "pod"), WRITES, &of_a_pod),
        told(&dir, &section(of_tokens, "workload"), WRITES, &workload(&sts, &proof)),
    );
    for (told, by) in [(by_machine, &machine), (by_task, &task), (by_pod, &pod), (by_workload, &tokens)] {
        assert_renewed(&told, by);
    }

    let mut direct = section(of_machine, "keys");
    direct["endpoint"] = json!(server.endpoint());
    let of_keys = [("AWS_ACCESS_KEY_ID", KEYS.0), ("AWS_SECRET_ACCESS_KEY", KEYS.1)];
    let by_keys = told(&dir, &direct, Duration::ZERO, &of_keys).await;
    assert!(by_keys.starts_with("written "), "{by_keys}");

    let stranger = file(&dir, "stranger", "another workload");
    let told_of = async |mut section: Value, proof: &str| {
        section["retry_for"] = json!(0);
        told(&dir, &section, Duration::ZERO, &workload(&sts, proof)).await
    };
    let section = section(of_tokens, "workload");
    let refused = told_of(section.clone(), stranger.as_str().unwrap()).await;
    assert_named(&refused, &["s3://archive/workload refuses", "403", "check the credentials"]);
    let missing = told_of(section.clone(), "/nonexistent").await;
    assert_named(&missing, &["s3://archive/workload", "/nonexistent", "AWS_WEB_IDENTITY_TOKEN_FILE"]);
    let mut untrusting = section;
    untrusting.as_object_mut().unwrap().remove("ca");
    assert_named(&told_of(untrusting, &proof).await, &["s3://archive/workload", "name a PEM file with it as `ca`"]);
}

#[tokio::test]
async fn tokens_that_google_gives_out_are_renewed_before_they_end() {
    let dir = TestDir::new("archive");
    let server = GcsServer::start(&dir).unwrap();
    let machine = identity();
    let front = Middleman::before(&server.endpoint()).unwrap();
    front.plan(machine.gate_of_google(&server.account()).unwrap());
    let section = |front: &Middleman, prefix: &str| {
        let location = format!("gs://{}/{prefix}", gcs::BUCKET);
        json!({ "location": location, "endpoint": front.endpoint(), "allow_http": true })
    };
    let workload = identity();
    let of_workload = Middleman::before(&server.endpoint()).unwrap();
    of_workload.plan(workload.gate_of_google(&server.account()).unwrap());
    let of_a_file = |token: &str| {
        json!({
            "type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/v1/token", workload.endpoint()), "credential_source": { "file": token },
            "service_account_impersonation_url": format!("{}{IMPERSONATE}", workload.endpoint()),
        })
        .to_string()
    };
    let named = file(&dir, "external.json", &of_a_file(&proof(&dir)));
    let metadata = host(&machine);
    let (by_machine, by_workload) = tokio::join!(
        told(&dir, &section(&front, "machine"), WRITES, &[("GCE_METADATA_HOST", &metadata)]),
        told(
            &dir,
            &section(&of_workload, "workload"),
            WRITES,
            &[("GOOGLE_APPLICATION_CREDENTIALS", named.as_str().unwrap())]
        ),
    );
    assert_renewed(&by_machine, &machine);
    assert_renewed(&by_workload, &workload);
    assert!(workload.given() >= 4, "each time two are given out: {}", workload.given());

    let mut section = section(&of_workload, "workload");
    section["retry_for"] = json!(0);
    section["credentials"] = named;
    assert_eq!(said(section.clone()).await, "");
    let stranger = file(&dir, "stranger", "another workload");
    section["credentials"] = file(&dir, "strangers.json", &of_a_file(stranger.as_str().unwrap()));
    assert_named(&said(section.clone()).await, &["gs://archive/workload refuses", "403", "check the credentials"]);
    section["credentials"] = file(&dir, "nobodys.json", &of_a_file("/nonexistent"));
    assert_named(&said(section).await, &["gs://archive/workload", "/nonexistent", "credential_source"]);
}

#[tokio::test]
async fn tokens_that_azure_gives_out_are_renewed_before_they_end() {
    let dir = TestDir::new("archive");
    let server = AzureServer::start(&dir).unwrap();
    let signature = server.signature("racwdl", jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10));
    let (machine, workload) = (identity(), identity());
    let before = |identity: &Identity| {
        let front = Middleman::before(&server.endpoint()).unwrap();
        front.plan(identity.gate_of_azure(&signature));
        front.rewrite(identity.batches_of_azure(&signature));
        front
    };
    let section = |front: &Middleman, prefix: &str| {
        json!({
            "location": format!("azure://{ACCOUNT}/{CONTAINER}/{prefix}"), "endpoint": front.endpoint(), "allow_http": true,
        })
    };
    let (of_machine, of_workload) = (before(&machine), before(&workload));
    let metadata = format!("{}/metadata/identity/oauth2/token", machine.endpoint());
    let (proof, entra) = (proof(&dir), workload.endpoint());
    let of_a_pod = [
        ("AZURE_AUTHORITY_HOST", &*entra),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_FEDERATED_TOKEN_FILE", &proof),
    ];
    let (by_machine, by_workload) = tokio::join!(
        told(&dir, &section(&of_machine, "machine"), WRITES, &[("IDENTITY_ENDPOINT", &metadata)]),
        told(&dir, &section(&of_workload, "workload"), WRITES, &of_a_pod),
    );
    assert_renewed(&by_machine, &machine);
    assert_renewed(&by_workload, &workload);
    let mut direct = section(&of_machine, "signature");
    direct["endpoint"] = json!(server.endpoint());
    let by_signature = told(&dir, &direct, Duration::ZERO, &[("AZURE_STORAGE_SAS_TOKEN", &signature)]).await;
    assert!(by_signature.starts_with("written "), "{by_signature}");
}
