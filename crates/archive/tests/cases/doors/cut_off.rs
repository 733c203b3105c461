//! A restore from another tool's repository is killed half-way, and the next one fetches the rest only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use matriarch_archive::door::Foreign;
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Options, RestoreError, Target, Took, Wanted};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::middleman::{Fault, Middleman, Request};
use matriarch_testkit::user;

use super::stock;
use crate::common::{PATIENT, database, tree};

/// Where it is cut off.
pub struct Cut {
    /// Names of the objects with files hold this.
    pub objects: &'static str,
    /// So many reads of them are answered, one after the other.
    pub reads: usize,
    /// Less than this part of all bytes is fetched after it; 1: what is there may be of no use.
    pub rest: f64,
}

/// A part of an object with files.
fn part(request: &Request, objects: &str) -> Option<u64> {
    let range = request.header("range").filter(|_| request.method == "GET" && request.target.contains(objects))?;
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some(to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap())
}

fn fetched(middleman: &Middleman, objects: &str) -> u64 {
    middleman.seen().iter().filter_map(|request| part(request, objects)).sum()
}

/// Restores files and WAL of a backup; as the process does that is killed.
pub async fn unpack(foreign: &Foreign, data: &Path, backup: &str) -> Result<Took, RestoreError> {
    let (stock, space) = (stock(foreign).await?, PathBuf::from(format!("{}-space", data.display())));
    let wanted = Wanted { backup: Some(backup.to_owned()), ..Wanted::new(Target::Immediate) };
    let plan = stock.plan(&wanted).await?;
    let options = Options {
        data: data.to_owned(),
        tablespaces: plan.summary.tablespaces.iter().map(|one| (one.oid, space.clone())).collect(),
        restore_command: String::new(),
        place_wal: true,
        files: Vec::new(),
        at_target: AtTarget::Promote,
        owner: user::unprivileged().map(|user| (user.uid, user.gid)),
        workers: 1,
        progress: Progress::default(),
    };
    restore::restore_from(&stock, &plan, &options).await
}

/// The newest backup of a bucket, or the one that is named.
pub async fn goes_on(dir: &TestDir, foreign: &Foreign, backup: Option<&str>, cut: &Cut) {
    let name = |what: &str| dir.join(format!("{what}-{}-{}", foreign.tool, cut.reads));
    let middleman = Middleman::before(foreign.repository.endpoint.as_deref().unwrap()).unwrap();
    let mut by_way = foreign.clone();
    by_way.repository.endpoint = Some(middleman.endpoint());
    let newest = stock(foreign).await.unwrap().backups().last().unwrap().backup.clone();
    let backup = backup.unwrap_or(&newest);
    unpack(&by_way, &name("whole"), backup).await.unwrap();
    let whole = fetched(&middleman, cut.objects);

    let (description, data) = (name("description"), name("cut"));
    std::fs::write(&description, serde_json::to_vec(&by_way).unwrap()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, objects, reads) = (Arc::clone(&asked), cut.objects, cut.reads);
    middleman.plan(move |request| {
        let stalls = part(request, objects).is_some() && counter.fetch_add(1, Ordering::Relaxed) >= reads;
        stalls.then_some(Fault::Hang(PATIENT))
    });
    let mut child = database::begin("unpack", &description, &format!("{} {backup}", data.display()));
    let (begun, mut before) = (Instant::now(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // What was handed out is written then.
        let now = size(&data);
        if asked.load(Ordering::Relaxed) > reads && now == before {
            break;
        }
        before = now;
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENT, "it was not cut off");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(restore::is_unfinished(&data), "it was over before it could be cut off");

    middleman.well();
    let took = unpack(&by_way, &data, backup).await.unwrap();
    let rest = fetched(&middleman, cut.objects);
    eprintln!("{}: {rest} of {whole} bytes were fetched after it was cut off: {took:?}", foreign.tool);
    assert!(rest > 0 && (rest as f64) < whole as f64 * cut.rest, "{took:?}: {rest} of {whole}");
    assert!(took.there > 0 || cut.rest >= 1.0, "{took:?}");
    assert_eq!(tree(&data), tree(&name("whole")));
    assert!(!data.join("matriarch_restoring.tars").exists() && !data.join("matriarch_restoring.json").exists());
}

/// What was not written by a restore is not taken along, and what it holds is not lost.
pub async fn refuses_what_is_not_of_it(dir: &TestDir, foreign: &Foreign, (backup, other): (&str, &str)) {
    let data = dir.join("strange");
    let middleman = Middleman::before(foreign.repository.endpoint.as_deref().unwrap()).unwrap();
    let mut by_way = foreign.clone();
    by_way.repository.endpoint = Some(middleman.endpoint());
    middleman.plan(|request| request.target.contains("part_002").then_some(Fault::Status(403)));
    unpack(&by_way, &data, backup).await.unwrap_err();
    assert!(restore::is_unfinished(&data));
    let error = unpack(foreign, &data, other).await.unwrap_err().to_string();
    assert!(error.contains("unfinished restore") && error.contains(&format!("--backup {backup}")), "{error}");
    let stranger = data.join("base/stranger");
    std::fs::write(&stranger, "precious").unwrap();
    let error = unpack(foreign, &data, backup).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Stranger { path, .. } if *path == stranger), "{error}");
    assert_eq!(std::fs::read_to_string(&stranger).unwrap(), "precious");
    std::fs::remove_file(&stranger).unwrap();
    // Nothing is written to where somebody else's link leads.
    let (linked, target) = (data.join("PG_VERSION"), dir.join("linked-to"));
    let _ = std::fs::remove_file(&linked);
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &linked).unwrap();
    let error = unpack(foreign, &data, backup).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Stranger { path, .. } if *path == linked), "{error}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    std::fs::remove_file(&linked).unwrap();
    unpack(foreign, &data, backup).await.unwrap();
}

/// Bytes of the files below.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        found => found.map_or(0, |meta| meta.len()),
    };
    entries.map(of).sum()
}
