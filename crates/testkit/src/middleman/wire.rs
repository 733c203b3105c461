//! As much of HTTP/1.1 as a store and its client speak.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longer than any head.
const HEAD: u64 = 256 << 10;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its place among all since it was counted.
    pub number: usize,
    /// `GET`, `PUT` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its body; not kept.
    pub body: Vec<u8>,
}

impl Request {
    /// Takes a header out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.headers.iter().position(|(known, _)| known == name)?;
        Some(self.headers.remove(at).1)
    }

    /// Its path, and its query. A proxy is asked for a whole address.
    pub(crate) fn place(&self) -> (&str, &str) {
        let target = match self.target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => &self.target,
        };
        target.split_once('?').unwrap_or((target, ""))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        value(&self.headers, name)
    }

    /// It asks for a list of objects.
    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.target.contains("list-type=2")
    }

    /// Reads its body.
    pub(crate) fn read(&mut self, reader: &mut impl BufRead) -> Result<()> {
        self.body = read_body(reader, &self.headers, false)?;
        Ok(())
    }

    /// Reads half of its body, if it says how long that is.
    pub(crate) fn read_half(&self, reader: &mut impl BufRead) -> Result<()> {
        let length: u64 = self.header("content-length").unwrap_or("0").parse().context("the length of a body")?;
        std::io::copy(&mut reader.take(length / 2), &mut std::io::sink())?;
        Ok(())
    }

    pub(crate) fn write(&self, server: &mut impl Write) -> Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            if !["connection", "content-length", "transfer-encoding", "expect"].contains(&name.as_str()) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len()));
        server.write_all(head.as_bytes())?;
        server.write_all(&self.body)?;
        Ok(())
    }
}

/// The status of one request of nothing but its head, to a server on this machine.
pub(crate) fn status(port: u16, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
    )?;
    Ok(read_answer(&mut BufReader::new(stream), method == "HEAD")?.code)
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The next request of a connection, without its body; none when it has ended.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let Some((first, headers)) = read_head(reader)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = words.next().zip(words.next()).context("a request without a target")?;
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some(Request { number: 0, method, target, headers, body: Vec::new() }))
}

/// The first line, and the headers.
type Head = (String, Vec<(String, String)>);

fn read_head(reader: &mut impl BufRead) -> Result<Option<Head>> {
    let mut limited = reader.take(HEAD);
    let mut first = String::new();
    if limited.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(limited.read_line(&mut line)? > 0, "the head breaks off");
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(Some((first.trim_end().to_owned(), headers)));
        }
        let (name, value) = line.split_once(':').context("a header without a value")?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)], to_end: bool) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if value(headers, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).context("the size of a chunk")?;
            ensure!(reader.take(size).read_to_end(&mut body)? as u64 == size, "a chunk breaks off");
            let mut end = String::new();
            reader.read_line(&mut end)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match value(headers, "content-length") {
        Some(length) => {
            let length: u64 = length.parse().context("the length of a body")?;
            ensure!(reader.take(length).read_to_end(&mut body)? as u64 == length, "a body breaks off");
        }
        None if to_end => drop(reader.read_to_end(&mut body)?),
        None => {}
    }
    Ok(body)
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    code: u16,
    first: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub(crate) fn read_answer(reader: &mut impl BufRead, is_head: bool) -> Result<Answer> {
    let (first, headers) = read_head(reader)?.context("no answer")?;
    let code: u16 = first.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a code")?;
    let is_empty = is_head || code == 204 || code == 304;
    let body = if is_empty { Vec::new() } else { read_body(reader, &headers, true)? };
    Ok(Answer { code, first, headers, body })
}

impl Answer {
    /// One that is well.
    pub fn good(kind: &str, body: &str) -> Answer {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Answer { code: 200, first: "HTTP/1.1 200 OK".to_owned(), headers, body: body.as_bytes().to_vec() }
    }

    /// An answer of this code, as S3 says it.
    pub fn of(code: u16) -> Answer {
        let name = match code {
            401 => "Unauthorized",
            400 => "InvalidRequest",
            403 => "AccessDenied",
            404 => "NoSuchKey",
            409 => "ConditionalRequestConflict",
            412 => "PreconditionFailed",
            429 | 503 => "SlowDown",
            _ => "InternalError",
        };
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{name}</Code><Message>on purpose</Message></Error>");
        let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
        Answer { code, first: format!("HTTP/1.1 {code} {name}"), headers, body: body.into_bytes() }
    }

    pub fn has_content(&self) -> bool {
        matches!(self.code, 200 | 206) && !self.body.is_empty()
    }

    fn head(&self, length: usize) -> String {
        let mut head = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            if !["connection", "content-length", "transfer-encoding"].contains(&name.as_str()) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        format!("{head}content-length: {length}\r\n\r\n")
    }

    pub fn write(&self, client: &mut impl Write, is_head: bool) -> Result<()> {
        let announced = value(&self.headers, "content-length").and_then(|length| length.parse().ok());
        let length = if is_head { announced.unwrap_or(0) } else { self.body.len() };
        client.write_all(self.head(length).as_bytes())?;
        if !is_head {
            client.write_all(&self.body)?;
        }
        Ok(())
    }

    /// The head of all, and half of the body.
    pub fn write_half(&self, client: &mut impl Write) -> Result<()> {
        client.write_all(self.head(self.body.len()).as_bytes())?;
        client.write_all(&self.body[..self.body.len() / 2])?;
        Ok(())
    }

    /// Takes the last entry out of a list of S3, or all of them.
    pub fn shorten_list(&mut self, all: bool) {
        let mut text = String::from_utf8_lossy(&self.body).into_owned();
        for (open, close) in [("<Contents>", "</Contents>"), ("<CommonPrefixes>", "</CommonPrefixes>")] {
            while let Some((from, to)) = text.rfind(open).zip(text.rfind(close)) {
                text.replace_range(from..to + close.len(), "");
                if !all {
                    break;
                }
            }
        }
        self.body = text.into_bytes();
    }
}
