//! Which network a process is in.

/// An identity of this process's network: addresses of the loopback interface mean the same to all that share it.
pub fn id() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), space.display()))
}
