//! Bare protocol: a client that sends what it is told, and servers that answer as they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const LIMIT: Duration = Duration::from_secs(60);

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

pub fn startup() -> Vec<u8> {
    packet(0x0003_0000, b"user\0postgres\0database\0postgres\0\0")
}

pub fn error(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

/// AuthenticationOk, a cancel key and ReadyForQuery.
pub fn greeting(key: &[u8]) -> Vec<u8> {
    [message(b'R', &[0; 4]), message(b'K', key), message(b'Z', b"I")].concat()
}

pub async fn dial(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Connects and sends.
pub async fn send(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = dial(to).await;
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Everything until the other side closes.
pub async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    // A reset after the last bytes ends a connection as well.
    let _ = timeout(LIMIT, stream.read_to_end(&mut out)).await.expect("the proxy neither answered nor closed");
    out
}

/// Whether neither bytes nor an end arrive for a moment.
pub async fn quiet(stream: &TcpStream) -> bool {
    timeout(Duration::from_millis(100), stream.peek(&mut [0])).await.is_err()
}

pub async fn exactly(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    timeout(LIMIT, stream.read_exact(&mut out)).await.expect("no answer in time").unwrap();
    out
}

/// Asserts that the bytes are one ErrorResponse with this code, and returns its text.
pub fn refusal(bytes: &[u8], code: &str) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\0', " ");
    assert_eq!(bytes.first(), Some(&b'E'), "no ErrorResponse: {text:?}");
    assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 1, "{text:?}");
    assert!(text.contains(&format!("C{code}")), "wanted {code}: {text:?}");
    text
}

/// A server made of one behaviour per accepted connection.
pub struct Fake {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub async fn start<F, R>(behaviour: F) -> Fake
    where
        F: Fn(usize, TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(behaviour(count.fetch_add(1, SeqCst), stream));
            }
        });
        Fake { address, connections, task }
    }

    /// Greets every session with `key`, stays open, and reports every cancel request it gets.
    pub async fn greeting(key: Vec<u8>) -> (Fake, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (cancels, received) = mpsc::unbounded_channel();
        let fake = Fake::start(move |_, mut stream| {
            let (key, cancels) = (key.clone(), cancels.clone());
            async move {
                let opening = opening(&mut stream).await;
                if opening[..4] == [4, 210, 22, 46] {
                    cancels.send(opening[4..].to_vec()).unwrap();
                    return;
                }
                stream.write_all(&greeting(&key)).await.unwrap();
                let mut sink = [0; 1024];
                while matches!(stream.read(&mut sink).await, Ok(1..)) {}
            }
        })
        .await;
        (fake, received)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn count(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one opening packet; returns it without its length.
pub async fn opening(stream: &mut TcpStream) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap_or(4);
    let mut body = vec![0; length as usize - 4];
    let _ = stream.read_exact(&mut body).await;
    body
}
