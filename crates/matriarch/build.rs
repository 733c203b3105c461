//! How the release binary is linked, so that an idle agent occupies little memory (bench/README.md, "idle").

use std::path::Path;
use std::process::Command;

/// For linkers that understand neither GNU's scripts nor its options: set it to link as any other program.
const PLAIN: &str = "MATRIARCH_PLAIN_LINK";

fn main() {
    println!("cargo::rerun-if-env-changed={PLAIN}");
    println!("cargo::rerun-if-changed=hot.ld");
    let is = |variable: &str, value: &str| std::env::var(variable).is_ok_and(|found| found == value);
    let plain = std::env::var_os(PLAIN).is_some();
    if plain || !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", Path::new(&directory).join("hot.ld").display());
    if is("CARGO_CFG_TARGET_ENV", "gnu") && glibc_packs_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// From 2.36 on; a program linked like this does not start with an older one.
fn glibc_packs_relocations() -> bool {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = said.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let mut numbers =
        said.trim().trim_start_matches("glibc ").split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(2), Some(36))
}
