//! Plays every scenario file, each with several seeds, so that none holds by lucky timing.

use std::path::PathBuf;

use matriarch_sim::scenario::{parse, run};

const SEEDS: u64 = 60;

#[test]
fn every_scenario_comes_true() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../core/testdata/failover");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the scenarios are in the repository")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "only {} scenarios in {}", files.len(), folder.display());
    let mut failures = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file).expect("a scenario is text");
        let outcome = parse(&text)
            .map_err(|bad| bad.to_string())
            .and_then(|scenario| (0..SEEDS).try_for_each(|seed| run(&scenario, seed)));
        if let Err(why) = outcome {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{}\n{} of {} scenarios failed", failures.join("\n\n"), failures.len(), files.len());
}
