//! Barman's cloud scripts, as Debian has them, into a bucket.

use matriarch_archive::door::{Door, Foreign, Tool};
use matriarch_archive::restore::{Target, Wanted};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use matriarch_testkit::server::Server;
use matriarch_testkit::user;

use super::{archive_all, connect, count, in_bucket, installation, one, program, refused, restored, stock};
use crate::common::PATIENT;

#[tokio::test]
async fn what_barman_has_archived_comes_back() {
    let (Some(backup), Some(archive), Some(installation)) =
        (program("barman-cloud-backup"), program("barman-cloud-wal-archive"), installation())
    else {
        matriarch_testkit::skipped(
            "barman-cli-cloud and PostgreSQL 15 are needed; scripts/install-deps --test installs them",
        );
        return;
    };
    let dir = TestDir::new("doors");
    let store = S3Server::start(&dir).unwrap();
    let socket = dir.create("socket").display().to_string();
    // As in Debian's files: a copy that is started with this would open the directory of the server that was backed up.
    let data = dir.join("data").display().to_string();
    let settings = format!(
        "autovacuum = off\narchive_mode = on\nunix_socket_directories = '{socket}'\ndata_directory = '{data}'\n\
         hba_file = '{data}/pg_hba.conf'"
    );
    let server = Server::create(installation, &dir, "data", &settings).await.unwrap();
    let client = connect(&server).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", KEYS.0.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", KEYS.1.to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("HOME", dir.path().display().to_string()),
    ];
    let given: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let to = format!("--endpoint-url {} --gzip s3://{BUCKET}/some/where main", store.endpoint());
    let push = format!("{given}{} {to} %p", archive.display());
    client.batch_execute(&format!("alter system set archive_command = '{push}'")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let space = format!("create tablespace space location '{}'", dir.create("space").display());
    client.batch_execute(&space).await.unwrap();
    let tables = "create table marks as select 1 id;
        create table in_space tablespace space as select g from generate_series(1, 10000) g;
        create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 10000) g";
    client.batch_execute(tables).await.unwrap();
    let kept = in_bucket(Tool::Barman, &dir, &store, "some/where");
    let latest = Wanted::new(Target::Latest);
    let told = refused(&dir, &kept, &latest, "empty").await;
    assert!(told.contains("holds nothing") || told.contains("no folder base"), "{told}");

    let mut command = user::command(backup);
    command.current_dir(dir.path()).envs(variables).args(["-h", &socket, "-p", &server.port().to_string()]);
    command.args(["-U", "postgres", "-d", "postgres", "--immediate-checkpoint"]).args(to.split(' '));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    client.batch_execute("insert into marks values (2)").await.unwrap();
    client.batch_execute("select pg_create_restore_point('before')").await.unwrap();
    client.batch_execute("drop table in_space").await.unwrap();
    let last = archive_all(&client).await;

    let found = stock(&kept).await.unwrap();
    assert_eq!(
        (found.backups().len(), found.segment_size(), found.door().name().as_str()),
        (1, 16 << 20, "server main")
    );
    let before = Wanted::new(Target::Name("before".into()));
    let restored = restored(&dir, installation, &kept, &before, ("named", false), "").await;
    assert_eq!((count(&restored, "marks").await, count(&restored, "in_space").await), (2, 10_000));
    let place: String = one(&connect(&restored).await, "show data_directory").await;
    assert_eq!(place, dir.join("named").display().to_string());
    let whole = "large where filler = repeat(md5(g::text), 30)";
    assert_eq!(count(&restored, whole).await, 10_000);
    drop(restored);
    let door = Door::open(&kept, PATIENT).await.unwrap();
    let to = dir.join("fetched");
    door.fetch(&last.parse().unwrap(), &to).await.unwrap();
    assert_eq!(to.metadata().unwrap().len(), 16 << 20);
    let error = door.fetch(&"0000000100000000000000FF".parse().unwrap(), &to).await.unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    let told = refused(&dir, &Foreign { name: Some("other".into()), ..kept }, &latest, "other").await;
    assert!(told.contains("no server 'other'") && told.contains("main"), "{told}");
}
