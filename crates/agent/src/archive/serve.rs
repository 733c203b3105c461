//! The socket on which PostgreSQL's commands ask.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matriarch_archive::wal::{self, FetchError, WalName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use super::ahead::Ahead;
use super::open::Opened;
use super::wire::{Answer, LONGEST, Wish};
use super::{Ask, Board, Place};

/// How long PostgreSQL's archiver waits for one file before it is told that it goes on without.
const PUSH_LIMIT: Duration = Duration::from_secs(30);
/// How long a recovery that is nobody's standby waits for a store.
const FETCH_LIMIT: Duration = Duration::from_secs(20);
const FETCH_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
const BIND_PAUSE: Duration = Duration::from_secs(2);

/// Listens for ever; an address that cannot be had is tried again.
pub(super) async fn serve(place: Place, board: Arc<Board>, opened: watch::Receiver<Arc<Opened>>) {
    let ahead = Ahead::new(place.clone());
    loop {
        match bind(&place) {
            Ok(listener) => accept(&listener, &board, &opened, &ahead).await,
            Err(error) => {
                tracing::error!("wal-push cannot reach this agent on {}: {error}", place.socket.display());
            }
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
}

fn bind(place: &Place) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(&place.socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&place.socket)?;
    std::fs::set_permissions(&place.socket, std::fs::Permissions::from_mode(0o600))?;
    if let Some(owner) = &place.instance.owner {
        std::os::unix::fs::chown(&place.socket, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(listener)
}

async fn accept(
    listener: &UnixListener,
    board: &Arc<Board>,
    opened: &watch::Receiver<Arc<Opened>>,
    ahead: &Arc<Ahead>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (board, opened, ahead) = (board.clone(), opened.clone(), ahead.clone());
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &board, opened, &ahead).await {
                        tracing::debug!("whoever asked for WAL has gone: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::error!("the archive's socket: {error}");
                return;
            }
        }
    }
}

async fn answer(
    stream: UnixStream,
    board: &Board,
    opened: watch::Receiver<Arc<Opened>>,
    ahead: &Arc<Ahead>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(LONGEST as u64);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let (answer, content) = match line.strip_suffix('\n').and_then(Wish::parse) {
        Some(Wish::Push(name)) => (push(&name, board).await, Vec::new()),
        Some(Wish::Fetch { name, standby }) => tokio::select! {
            found = fetch(&name, standby, opened, ahead) => found,
            // PostgreSQL ends its command when it is stopped.
            _ = reader.read_u8() => return Ok(()),
        },
        None => {
            (Answer::Failed("the agent does not understand the request; is it of this version?".to_owned()), Vec::new())
        }
    };
    writer.write_all(format!("{answer}\n").as_bytes()).await?;
    writer.write_all(&content).await
}

async fn push(name: &str, board: &Board) -> Answer {
    let name: WalName = match name.parse() {
        Ok(name) => name,
        Err(error) => return Answer::Failed(format!("{error}")),
    };
    let (sender, answer) = oneshot::channel();
    if !board.ask(Ask::Push(name, sender)) {
        return Answer::Failed("the agent's archive does not run".to_owned());
    }
    match tokio::time::timeout(PUSH_LIMIT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::Failed("the agent is stopping".to_owned()),
        Err(_) => Answer::Failed(format!("no repository has confirmed it within {} s", PUSH_LIMIT.as_secs())),
    }
}

async fn fetch(
    name: &str,
    standby: bool,
    opened: watch::Receiver<Arc<Opened>>,
    ahead: &Arc<Ahead>,
) -> (Answer, Vec<u8>) {
    let nothing = |answer| (answer, Vec::new());
    let name: WalName = match name.parse() {
        Ok(name) => name,
        Err(error) => return nothing(Answer::Failed(format!("{error}"))),
    };
    let begun = Instant::now();
    let mut pause = FETCH_PAUSES.0;
    loop {
        let source = opened.borrow().clone();
        if let WalName::Segment(segment) = name
            && let Some(ready) = ahead.take(&source, segment).await
        {
            ahead.go_on(segment);
            return nothing(Answer::Ready(ready));
        }
        let (archives, missing) = source.some();
        let why = match wal::content(&archives, &name).await {
            Ok(content) => {
                if let WalName::Segment(segment) = name {
                    ahead.go_on(segment);
                }
                return (Answer::Content(content.len() as u64), content);
            }
            Err(FetchError::Absent(_)) if missing.is_none() => {
                return nothing(Answer::Absent(format!("no repository holds {name}")));
            }
            Err(FetchError::Absent(_) | FetchError::NoRepository) => missing.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        if pause == FETCH_PAUSES.0 {
            tracing::warn!(file = %name, "WAL cannot be fetched yet, and is asked for again: {why}");
        }
        // A standby that was told of an outage would end; as long as it waits it answers queries.
        if !standby && begun.elapsed() >= FETCH_LIMIT {
            return nothing(Answer::Failed(why));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(FETCH_PAUSES.1);
    }
}
