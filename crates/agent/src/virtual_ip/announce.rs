//! Tells the neighbours whose hardware address has the address now, and hears whether somebody else answers for it.
//!
//! The packets: gratuitous ARP as request and as reply (some devices heed only one of them) and a probe as of RFC 5227;
//! for IPv6 the unsolicited neighbour advertisement and the solicitation of RFC 4861 and 4862.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;
use nix::sys::socket::{LinkAddr, bind};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, send, socket_with,
};

use super::Place;

type Mac = [u8; 6];

const EVERYBODY: Mac = [0xff; 6];
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ARP's number for Ethernet.
const ETHERNET: u16 = 1;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Announces the address, again after each of the pauses, and gives back the hardware address of somebody else who has
/// answered for it meanwhile.
///
/// # Errors
/// When packets cannot be sent.
pub async fn announce(place: &Place, pauses: &[Duration]) -> anyhow::Result<Option<String>> {
    let link = place.link()?;
    let Some(mac) = link.addr().filter(|_| link.hatype() == ETHERNET) else {
        // Loopback, tunnels: nobody keeps a hardware address of ours.
        return Ok(None);
    };
    let what = || format!("{} (virtual_ip) cannot be announced on {}", place.address.ip, place.interface);
    let out = sender(&link).with_context(what)?;
    let ears = listener(place.address.ip, &link).with_context(what)?;
    let mut other = None;
    let rounds = pauses.iter().copied().map(Some).chain([None]);
    for (number, pause) in rounds.enumerate() {
        for packet in announcement(place.address.ip, mac) {
            send(&out, &packet, SendFlags::empty()).with_context(what)?;
        }
        if number == 0 {
            // After the announcement: who follows the address shall not wait for it.
            send(&out, &probe(place.address.ip, mac), SendFlags::empty()).with_context(what)?;
        }
        let Some(pause) = pause else { break };
        tokio::time::sleep(pause).await;
        other = heard(&ears, place.address.ip, mac).or(other);
    }
    Ok(other.map(text))
}

fn flags() -> SocketFlags {
    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
}

/// A socket whose frames leave by the interface. It receives nothing.
fn sender(link: &LinkAddr) -> anyhow::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags(), None)?;
    bind(socket.as_raw_fd(), link)?;
    Ok(socket)
}

/// A socket that receives what may tell of another owner.
fn listener(ip: IpAddr, link: &LinkAddr) -> anyhow::Result<OwnedFd> {
    match ip {
        IpAddr::V4(_) => {
            let protocol = std::num::NonZeroU32::new(u32::from(ARP.to_be())).map(Protocol::from_raw);
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags(), protocol)?;
            bind(socket.as_raw_fd(), link)?;
            Ok(socket)
        }
        // Not a packet socket: it would get a copy of all that clients send.
        IpAddr::V6(_) => Ok(socket_with(AddressFamily::INET6, SocketType::RAW, flags(), Some(ipproto::ICMPV6))?),
    }
}

/// Who else has said to have it, in what has come in.
fn heard(ears: &OwnedFd, ip: IpAddr, ours: Mac) -> Option<Mac> {
    let mut packet = [0u8; 2048];
    let mut other = None;
    // An error other than "nothing more", as when the interface has gone, shows when the next packet is sent.
    while let Ok((count, _)) = recv(ears, &mut packet[..], RecvFlags::empty()) {
        other = owner(&packet[..count], ip).filter(|mac| *mac != ours).or(other);
    }
    other
}

/// Who says in this packet to have the address.
fn owner(packet: &[u8], ip: IpAddr) -> Option<Mac> {
    match ip {
        IpAddr::V4(ip) => {
            let sender = packet.get(28..32)? == ip.octets();
            let arp = packet.get(12..14)? == ARP.to_be_bytes() && sender;
            packet.get(22..28)?.try_into().ok().filter(|_| arp)
        }
        IpAddr::V6(ip) => {
            let advertised = packet.first() == Some(&NEIGHBOUR_ADVERTISEMENT) && packet.get(8..24)? == ip.octets();
            // The option with the target's hardware address; it is the only one in use.
            let option = packet.get(24..26)? == [2, 1];
            packet.get(26..32)?.try_into().ok().filter(|_| advertised && option)
        }
    }
}

fn announcement(ip: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![arp(REQUEST, mac, ip, [0; 6], ip), arp(REPLY, mac, ip, mac, ip)],
        IpAddr::V6(ip) => {
            let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
            // Override: what was known before is wrong.
            body.extend([0x20, 0, 0, 0]);
            body.extend(ip.octets());
            body.extend([2, 1]);
            body.extend(mac);
            vec![icmpv6(mac, ip, ALL_NODES, body)]
        }
    }
}

/// Asks who has the address, in the name of nobody, so that no neighbour learns anything from it.
fn probe(ip: IpAddr, mac: Mac) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], ip),
        IpAddr::V6(ip) => {
            let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            body.extend(ip.octets());
            let [.., a, b] = ip.segments();
            let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (a & 0xff), b);
            icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited, body)
        }
    }
}

fn arp(operation: u16, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(EVERYBODY);
    frame.extend(mac);
    frame.extend(ARP.to_be_bytes());
    frame.extend(ETHERNET.to_be_bytes());
    frame.extend([0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

/// `body` with a checksum of zero; the right one is put in.
fn icmpv6(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut sum: u32 = u32::from(length) + 58;
    for half in from.segments().into_iter().chain(to.segments()) {
        sum += u32::from(half);
    }
    for pair in body.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::with_capacity(54 + body.len());
    let [.., a, b, c, d] = to.octets();
    frame.extend([0x33, 0x33, a, b, c, d]);
    frame.extend(mac);
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // ICMPv6, and never forwarded: receivers refuse any other hop limit.
    frame.extend([58, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(body);
    frame
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0xaa, 0xbb, 1];

    #[test]
    fn arp_names_the_owner_and_a_probe_names_nobody() {
        let ip: Ipv4Addr = "10.0.0.5".parse().unwrap();
        for packet in announcement(ip.into(), MAC) {
            assert_eq!(packet.len(), 42);
            assert_eq!(owner(&packet, ip.into()), Some(MAC));
            assert_eq!(owner(&packet, "10.0.0.6".parse().unwrap()), None);
        }
        assert_eq!(owner(&probe(ip.into(), MAC), ip.into()), None);
        assert_eq!(owner(&[0; 20], ip.into()), None);
    }

    #[test]
    fn an_advertisement_adds_up() {
        let ip: Ipv6Addr = "2001:db8::5".parse().unwrap();
        let packets = [announcement(ip.into(), MAC).remove(0), probe(ip.into(), MAC)];
        for packet in &packets {
            // What a receiver does: everything summed, the checksum included, makes all ones.
            let body = &packet[54..];
            let pseudo = [&packet[22..54], &[0, 0, packet[18], packet[19], 0, 0, 0, 58]].concat();
            let words = pseudo.chunks(2).chain(body.chunks(2));
            let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
        }
        assert_eq!(owner(&packets[0][54..], ip.into()), Some(MAC));
        assert_eq!(owner(&packets[1][54..], ip.into()), None);
        assert_eq!(&packets[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(&packets[1][..6], [0x33, 0x33, 0xff, 0, 0, 5]);
    }
}
