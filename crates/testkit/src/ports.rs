//! Ports that parallel tests do not fight over.
//!
//! Binding port 0 is not enough: the port comes from the kernel's range for outgoing connections, so while a server
//! under test is down (which is the point of these tests) somebody's connection may take its place. Ports are
//! therefore drawn from below that range, and a lock file for each keeps other test processes off until it is dropped.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use rand::Rng;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;

/// A TCP port of 127.0.0.1, reserved until dropped. The kernel frees it when the test process dies.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// # Panics
    /// When thousands of tries found none.
    pub fn reserve() -> Port {
        let mut random = rand::rng();
        (0..5_000)
            .find_map(|_| Port::try_reserve(random.random_range(FIRST..=LAST)))
            .expect("no free port between 12000 and 31999")
    }

    /// Reserves several at once.
    pub fn reserve_many<const N: usize>() -> [Port; N] {
        std::array::from_fn(|_| Port::reserve())
    }

    /// Reserves neighbours, lowest first, for a program that takes one port and counts on from there.
    ///
    /// # Panics
    /// When thousands of tries found none.
    pub fn reserve_run(count: u16) -> Vec<Port> {
        let mut random = rand::rng();
        (0..5_000)
            .find_map(|_| {
                let first = random.random_range(FIRST..=LAST - count);
                (first..first + count).map(Port::try_reserve).collect()
            })
            .expect("no run of free ports between 12000 and 31999")
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    fn try_reserve(number: u16) -> Option<Port> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o666)
            .open(registry().join(number.to_string()))
            .ok()?;
        file.try_lock().ok()?;
        is_free(number).then_some(Port { number, _lock: file })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

/// Whether nothing listens there. The socket does not listen itself: a child that another thread forks at this moment has
/// it until it executes its program, and must not be in the way of who listens next.
fn is_free(number: u16) -> bool {
    let Ok(socket) = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None) else {
        return false;
    };
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, number);
    sockopt::set_socket_reuseaddr(&socket, true).is_ok() && bind(&socket, &address).is_ok()
}

/// Shared by every user of the machine, since root and others may test at the same time.
fn registry() -> PathBuf {
    let dir = PathBuf::from("/tmp/matriarch-ports");
    if std::fs::create_dir(&dir).is_ok() {
        // Only its maker may widen it; when that fails, other users fall back to ports they cannot lock.
        let _ = std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777));
    }
    dir
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::process::eventually;

    #[test]
    fn a_reserved_port_is_free_to_listen_on_and_not_given_twice() {
        let port = Port::reserve();
        assert!(Port::try_reserve(port.number()).is_none());
        let number = port.number();
        let listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        assert!(!is_free(number), "somebody listens");
        drop((port, listener));
        // A child that another test forks holds lock and listener until it executes its program.
        eventually("it can be had again", Duration::from_secs(30), || Port::try_reserve(number).is_some());
    }

    #[test]
    fn several_are_distinct() {
        let ports = Port::reserve_many::<8>().map(|port| (port.number(), port));
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.len(), 8);
    }
}
