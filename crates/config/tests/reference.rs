//! The reference in the manual is what the key tables say, and the example in the manual is valid.

use std::path::PathBuf;

use matriarch_config::{FileKind, LocalConfig, check_file, reference};

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn the_reference_is_current() {
    let path = docs().join("configuration.md");
    let wanted = reference();
    if std::env::var_os("MATRIARCH_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/configuration.md is out of date; run: MATRIARCH_BLESS=1 cargo test -p matriarch-config"
    );
}

#[test]
fn the_example_is_valid() {
    let path = docs().join("examples/host.yaml");
    let report = check_file(&path).unwrap();
    assert_eq!(report.kind, FileKind::Local);
    assert!(report.is_ok(), "{report}");
    let config = LocalConfig::load(&path).unwrap();
    assert_eq!(config.prefix(), "/service/main/");
    assert_eq!(config.postgresql.connect_address.to_string(), "127.0.0.1:5432");
    assert_eq!(config.bootstrap.dcs["postgresql"]["parameters"]["max_connections"], 200);
}
