//! SRV records, asked of the system's name servers. A question and an answer of DNS are a page of code; the resolvers there
//! are bring caches, tasks and a megabyte, and the C library's own cannot be called without `unsafe`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Largest answer by UDP that we say we take.
const UDP_SIZE: u16 = 4096;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

/// Asks the name servers that a file names, one after the other; the records by priority, none if the name has none.
pub(super) async fn lookup(resolv_conf: &Path, name: &str) -> Result<Vec<Record>, String> {
    let place = resolv_conf.display();
    let text = std::fs::read_to_string(resolv_conf).map_err(|error| format!("{place}: {error}"))?;
    lookup_at(&name_servers(&text), name).await
}

async fn lookup_at(servers: &[SocketAddr], name: &str) -> Result<Vec<Record>, String> {
    let mut reasons = Vec::new();
    for server in servers {
        let question = question(rand::random(), name)?;
        match tokio::time::timeout(PATIENCE, ask(*server, &question)).await {
            Ok(Ok(records)) => return Ok(records),
            Ok(Err(reason)) => reasons.push(format!("{server}: {reason}")),
            Err(_) => reasons.push(format!("{server}: no answer within {:.1} s", PATIENCE.as_secs_f64())),
        }
    }
    Err(if reasons.is_empty() { "no name server is known".to_owned() } else { reasons.join("; ") })
}

/// With a port (`127.0.0.1:5353`, `[::1]:5353`) where a system knows how to say it.
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let read = |address: &str| {
        let plain = address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        plain.or_else(|_| address.parse::<SocketAddr>()).ok()
    };
    servers.filter_map(|address| read(address.trim())).collect()
}

async fn ask(server: SocketAddr, question: &[u8]) -> Result<Vec<Record>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(question).await.map_err(failed)?;
    let mut buffer = vec![0; usize::from(UDP_SIZE)];
    let answer = loop {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        // Another id is a late answer to somebody else, or a forged one.
        if length > 3 && buffer[..2] == question[..2] {
            break &buffer[..length];
        }
    };
    const TRUNCATED: u8 = 0x02;
    if answer[2] & TRUNCATED == 0 {
        return records(answer);
    }
    let mut tcp = TcpStream::connect(server).await.map_err(failed)?;
    let length = u16::try_from(question.len()).expect("a question is a few hundred bytes");
    tcp.write_all(&[&length.to_be_bytes()[..], question].concat()).await.map_err(failed)?;
    let length = tcp.read_u16().await.map_err(failed)?;
    let mut answer = vec![0; usize::from(length)];
    tcp.read_exact(&mut answer).await.map_err(failed)?;
    records(&answer)
}

fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    // Recursion desired; one question and one additional record, which tells our size.
    let mut out = [id.to_be_bytes(), [0x01, 0x00], [0, 1], [0, 0], [0, 0], [0, 1]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        out.push(length.ok_or_else(|| format!("'{name}' is not a domain name"))?);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend([TYPE_SRV.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
    const OPT: [u8; 3] = [0, 0, 41];
    out.extend(OPT);
    out.extend(UDP_SIZE.to_be_bytes());
    out.extend([0; 6]);
    Ok(out)
}

fn records(answer: &[u8]) -> Result<Vec<Record>, String> {
    let mut reader = Reader { all: answer, at: 0 };
    parse(&mut reader).ok_or_else(|| "the answer is malformed".to_owned())?
}

/// None: it ends too early or points nowhere.
fn parse(reader: &mut Reader<'_>) -> Option<Result<Vec<Record>, String>> {
    let (_, flags) = (reader.number()?, reader.number()?);
    let (questions, answers) = (reader.number()?, reader.number()?);
    reader.at += 4;
    const NO_SUCH_NAME: u16 = 3;
    match flags & 0xf {
        0 => {}
        NO_SUCH_NAME => return Some(Ok(Vec::new())),
        code => return Some(Err(format!("the name server answers with error {code}"))),
    }
    for _ in 0..questions {
        reader.name()?;
        reader.at += 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        reader.name()?;
        let kind = reader.number()?;
        reader.at += 6;
        let length = usize::from(reader.number()?);
        let end = reader.at + length;
        if kind == TYPE_SRV {
            let (priority, weight, port) = (reader.number()?, reader.number()?, reader.number()?);
            found.push(Record { priority, weight, port, target: reader.name()? });
        }
        reader.at = end;
    }
    found.sort_by_key(|record| (record.priority, std::cmp::Reverse(record.weight)));
    Some(Ok(found))
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.all.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// A name, following pointers backwards only, so that it ends.
    fn name(&mut self) -> Option<String> {
        let (mut labels, mut after, mut lowest) = (Vec::new(), None, self.at);
        loop {
            let length = self.byte()?;
            if length & 0xc0 == 0xc0 {
                let target = usize::from(length & 0x3f) << 8 | usize::from(self.byte()?);
                after = after.or(Some(self.at));
                if target >= lowest {
                    return None;
                }
                (lowest, self.at) = (target, target);
            } else if length == 0 {
                break;
            } else {
                let label = self.all.get(self.at..self.at + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                self.at += usize::from(length);
            }
        }
        self.at = after.unwrap_or(self.at);
        Some(labels.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a name server sends it: the owner's name and the domain of the second target are pointers.
    fn answer() -> Vec<u8> {
        let mut answer = question(7, "_etcd-client._tcp.example.org").unwrap();
        answer.truncate(answer.len() - 11);
        answer[2] = 0x81;
        answer[6..12].copy_from_slice(&[0, 2, 0, 0, 0, 0]);
        let domain = 12 + "._etcd-client._tcp".len();
        for (priority, port, host) in [(20u16, 2379u16, "b"), (10, 12379, "a")] {
            let domain = u16::try_from(domain).unwrap() | 0xc000;
            let data = [
                &priority.to_be_bytes()[..],
                &[0, 5],
                &port.to_be_bytes(),
                &[1],
                host.as_bytes(),
                &domain.to_be_bytes(),
            ];
            let data = data.concat();
            answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
            answer.extend(data);
        }
        answer
    }

    #[test]
    fn records_come_by_priority_with_whole_names() {
        let found = records(&answer()).unwrap();
        let found: Vec<_> = found.iter().map(|record| (record.target.as_str(), record.port)).collect();
        assert_eq!(found, [("a.example.org", 12379), ("b.example.org", 2379)]);
    }

    #[test]
    fn no_cut_and_no_change_of_an_answer_panics_or_hangs() {
        let whole = answer();
        for cut in 0..whole.len() {
            let _ = records(&whole[..cut]);
            for byte in [0, 1, 0x3f, 0xc0, 0xff] {
                let mut changed = whole.clone();
                changed[cut] = byte;
                let _ = records(&changed);
            }
        }
    }

    #[test]
    fn name_servers_are_those_of_resolv_conf() {
        let found = name_servers(
            "# x\nsearch a\nnameserver 10.0.0.1\n nameserver\tfe80::1\nnameserver junk\nnameserver 10.0.0.2:5353\n",
        );
        let wanted = ["10.0.0.1:53", "[fe80::1]:53", "10.0.0.2:5353"].map(|server| server.parse().unwrap());
        assert_eq!(found, wanted);
    }

    /// A port that is free for UDP may be taken for TCP, by any connection of another test: then the next one is tried.
    async fn one_port_of_both() -> (UdpSocket, tokio::net::TcpListener) {
        for _ in 0..100 {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                return (udp, tcp);
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    #[tokio::test]
    async fn a_server_is_asked_by_udp_and_by_tcp_when_that_is_too_small() {
        let (udp, tcp) = one_port_of_both().await;
        let server = udp.local_addr().unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            let (_, client) = udp.recv_from(&mut buffer).await.unwrap();
            let mut short = answer();
            short[..2].copy_from_slice(&buffer[..2]);
            short[2] |= 0x02;
            short.truncate(12);
            udp.send_to(&short, client).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            stream.read_exact(&mut buffer[..usize::from(length)]).await.unwrap();
            stream.write_u16(u16::try_from(answer().len()).unwrap()).await.unwrap();
            stream.write_all(&answer()).await.unwrap();
        };
        let servers = [server];
        let (found, ()) = tokio::join!(lookup_at(&servers, "_etcd-client._tcp.example.org"), serve);
        assert_eq!(found.unwrap().len(), 2);
    }
}
