//! What one program leaves to the next in the same process: sockets in the queue of a socket, the rest in a file in memory.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use matriarch_proxy::{Luggage, Parts, Register};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::routes::Handover;

/// Linux takes 253 descriptors in one message.
const PER_MESSAGE: usize = 250;

/// What is left.
#[derive(Debug, Default)]
pub struct Estate {
    /// The listening socket of the REST API.
    pub api: Option<OwnedFd>,
    /// What was known of a switchover.
    pub handover: Handover,
    /// The proxy's connections and sockets.
    pub proxy: Option<Luggage>,
}

/// What is in the file: this as one line of JSON, then the proxy's bytes.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Contents {
    api: bool,
    handover: Handover,
    proxy: Option<Register>,
}

impl Estate {
    /// Puts everything into the queue of a socket, from which [`Estate::receive`] takes it; its descriptors are held by the
    /// queue then, and by no number of this process.
    ///
    /// # Errors
    /// When the system refuses; everything is closed then.
    pub fn send(self) -> anyhow::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (from, to) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let proxy = self.proxy.map(Luggage::into_parts);
        let (register, bytes, sockets) = match proxy {
            Some(Parts { register, bytes, sockets }) => (Some(register), bytes, sockets),
            None => (None, Vec::new(), Vec::new()),
        };
        let contents = Contents { api: self.api.is_some(), handover: self.handover, proxy: register };
        let mut file = File::from(memfd_create("matriarch-upgrade", MemfdFlags::CLOEXEC)?);
        serde_json::to_writer(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.write_all(&bytes)?;
        let all: Vec<OwnedFd> = std::iter::once(file.into()).chain(self.api).chain(sockets).collect();
        for (number, some) in all.chunks(PER_MESSAGE).enumerate() {
            if let Err(error) = send(&from, some) {
                anyhow::ensure!(number > 0, "the sockets cannot be handed over: {error}");
                // Sessions that are not missing can go on all the same.
                let left = all.len() - number * PER_MESSAGE;
                tracing::error!("{left} sockets cannot be handed over, their sessions end: {error}");
                break;
            }
        }
        Ok(to)
    }

    /// Takes what is in the queue.
    ///
    /// # Errors
    /// When it holds something else.
    pub fn receive(queue: &OwnedFd) -> anyhow::Result<Estate> {
        let mut sockets = receive(queue).context("the sockets cannot be received")?.into_iter();
        let mut file = File::from(sockets.next().context("nothing was left")?);
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().position(|byte| *byte == b'\n').context("what was left is cut off")?;
        let contents: Contents = serde_json::from_slice(&bytes[..end]).context("it is of another kind")?;
        bytes.drain(..=end);
        let api = contents.api.then(|| sockets.next()).flatten();
        let luggage = |register| Luggage::from_parts(Parts { register, bytes, sockets: sockets.collect() });
        Ok(Estate { api, handover: contents.handover, proxy: contents.proxy.map(luggage) })
    }
}

fn send(to: &OwnedFd, sockets: &[OwnedFd]) -> rustix::io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)), "there is space for as many");
    sendmsg(to, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn receive(queue: &OwnedFd) -> rustix::io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
        let (mut control, mut byte) = (RecvAncillaryBuffer::new(&mut space), [0]);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(queue, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
            Ok(message) if message.bytes == 0 => return Ok(all),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(all),
            Err(error) => return Err(error),
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                all.extend(sockets);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn hundreds_of_sockets_arrive_in_their_order() {
        let sockets: Vec<UdpSocket> =
            (0..3 * PER_MESSAGE).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port is free")).collect();
        let names: Vec<_> = sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect();
        let sockets: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).collect();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (from, to) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets are there");
        for some in sockets.chunks(PER_MESSAGE) {
            send(&from, some).expect("the queue takes them");
        }
        drop((from, sockets));
        let received = receive(&to).expect("they are there");
        let received: Vec<_> =
            received.into_iter().map(UdpSocket::from).map(|socket| socket.local_addr().expect("open")).collect();
        assert_eq!(received, names);
    }

    #[test]
    fn an_estate_is_read_as_it_was_left() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let handover = Handover { poolers: Some(7), proxies: None };
        let left = Estate { api: Some(listener.into()), handover, proxy: Some(Luggage::default()) };
        let read = Estate::receive(&left.send().expect("it fits")).expect("it is whole");
        let api = TcpListener::from(read.api.expect("it was left"));
        assert_eq!((api.local_addr().expect("it is bound"), read.handover), (address, handover));
        assert!(read.proxy.is_some_and(|proxy| proxy.connections() == 0));
    }

    #[test]
    fn what_is_none_is_refused() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (from, to) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets are there");
        assert!(Estate::receive(&to).expect_err("it is empty").to_string().contains("nothing was left"));
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).expect("there is memory"));
        send(&from, &[file.into()]).expect("the queue takes it");
        assert!(Estate::receive(&to).expect_err("it is empty").to_string().contains("cut off"));
    }
}
