//! A proxy of HTTP that lets clients through to wherever they ask for (`CONNECT`), and counts them.

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

use crate::listening::Listening;
use crate::middleman::wire::read_request;

/// It ends with its handle.
pub struct Tunnel {
    listening: Listening,
    passed: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Starts it.
    pub fn start() -> Result<Tunnel> {
        let passed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&passed);
        let listening = Listening::plain(move |client, _| pass(client, &count))?;
        Ok(Tunnel { listening, passed })
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        self.listening.endpoint()
    }

    /// How many connections it has let through.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::Acquire)
    }
}

fn pass(mut client: TcpStream, passed: &AtomicUsize) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let request = read_request(&mut reader)?.context("nothing is asked")?;
    ensure!(request.method == "CONNECT", "it only lets through");
    let mut server = TcpStream::connect(request.target.as_str())?;
    passed.fetch_add(1, Ordering::AcqRel);
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut answers, mut back) = (server.try_clone()?, client);
    let returning = std::thread::spawn(move || {
        let copied = std::io::copy(&mut answers, &mut back);
        back.shutdown(Shutdown::Both).and(copied)
    });
    let copied = std::io::copy(&mut reader, &mut server);
    server.shutdown(Shutdown::Both)?;
    drop(returning.join());
    copied?;
    Ok(())
}
