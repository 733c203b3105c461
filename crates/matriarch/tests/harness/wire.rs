//! Talking to ports: SQL, HTTP, and whatever no client would say.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{NoTls, SimpleQueryMessage};

const LIMIT: Duration = Duration::from_secs(35);

/// Connects, runs one statement and gives back the first value of the first row.
pub async fn ask(dsn: &str, statement: &str) -> anyhow::Result<String> {
    ask_within(LIMIT, dsn, statement).await
}

/// As [`ask`], for a statement that is held up on purpose.
pub async fn ask_within(limit: Duration, dsn: &str, statement: &str) -> anyhow::Result<String> {
    let asking = async {
        let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.context("connecting")?;
        tokio::spawn(connection);
        let messages = client.simple_query(statement).await.with_context(|| statement.to_owned())?;
        let first = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(first.unwrap_or_default())
    };
    tokio::time::timeout(limit, asking).await.with_context(|| format!("no answer within {limit:?}: {statement}"))?
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Asks an API. `token` goes into the Authorization header.
pub async fn http(port: u16, method: &str, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<Answer> {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = throw(port, request.as_bytes(), false).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer: {text:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.context("no status")?, head: head.to_owned(), body: body.to_owned() })
}

/// Sends bytes and reads until the other side closes; with `half` our own side is closed after sending.
pub async fn throw(port: u16, bytes: &[u8], half: bool) -> anyhow::Result<Vec<u8>> {
    let talking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
        // It may be closed under our hands: what was answered before that counts.
        let _ = stream.write_all(bytes).await;
        if half {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count) = stream.read(&mut piece).await {
            if count == 0 {
                break;
            }
            answer.extend_from_slice(&piece[..count]);
        }
        Ok(answer)
    };
    tokio::time::timeout(LIMIT, talking).await.with_context(|| format!("port {port} neither answers nor closes"))?
}
