//! The clock that leases are counted on: it never jumps, and it goes on while the host sleeps.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since this host booted, time spent suspended included (`CLOCK_BOOTTIME`).
///
/// Comparable between all processes of one host and one boot, and between nothing else: keep the
/// [`boot_id`] beside any value that outlives the process.
pub fn boot_clock_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("the boot clock starts at zero and only grows");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds of a second are never negative");
    seconds * 1000 + nanos / 1_000_000
}

/// The random id that the kernel drew at this boot; fails where `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
