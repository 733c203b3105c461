//! Ends PgBouncer's connections to one server at once.
//!
//! PgBouncer has no command for it that spares clients: RECONNECT waits for each transaction to end, which on a frozen
//! server is never, and KILL drops every client. Its sockets can be shut down from outside, as if the server had done it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::net::{Shutdown, SocketAddrAny, getpeername, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Whom connections lead to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    pub addresses: BTreeSet<SocketAddr>,
    pub sockets: BTreeSet<PathBuf>,
}

impl Peers {
    fn has(&self, peer: SocketAddrAny) -> bool {
        if let Ok(address) = SocketAddr::try_from(peer.clone()) {
            return self.addresses.contains(&address);
        }
        let unix = rustix::net::SocketAddrUnix::try_from(peer).ok();
        let path = unix.as_ref().and_then(|unix| unix.path_bytes()).map(bytes_to_path);
        path.is_some_and(|path| self.sockets.contains(&path))
    }
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// Shuts down every connection of the process that leads to one of the peers; how many.
pub(crate) fn connections(pid: u32, peers: &Peers) -> std::io::Result<usize> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    let mut cut = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        if !is_socket {
            continue;
        }
        let socket = match pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            // Closed since we looked.
            Err(rustix::io::Errno::BADF) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if getpeername(&socket).ok().flatten().is_some_and(|peer| peers.has(peer)) {
            // One that is closed already needs no cut.
            cut += usize::from(shutdown(&socket, Shutdown::Both).is_ok());
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_connections_to_the_peer_are_shut_down() {
        let (near, far) = (listener(), listener());
        let mut to_near = connect(&near);
        let mut to_far = connect(&far);
        let peers = Peers { addresses: BTreeSet::from([near.local_addr().expect("bound")]), ..Peers::default() };
        assert_eq!(connections(std::process::id(), &peers).expect("our own process"), 1);
        assert_eq!(to_near.0.read(&mut [0; 1]).expect("shut down"), 0);
        std::io::Write::write_all(&mut to_far.0, b"x").expect("still open");
        assert_eq!(to_far.1.read(&mut [0; 1]).expect("still open"), 1);
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a port is free")
    }

    fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (client, listener.accept().expect("it was connected").0)
    }
}
