//! The task that hears what others did, and that notices when nobody would tell us any more.
//!
//! A watcher is made anew, from now on, whenever the old one has ended, and everybody is woken then: they read again, so
//! nothing that happened in between is missed, compacted or not. While the watch is quiet the server is asked for a sign
//! of life, which a frozen one owes, and one without a leader ends the watch by itself.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::grpc::{Fault, decode};
use super::proto::{WatchAsk, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use super::txn::after_prefix;
use crate::rhythm;
use crate::store::Revision;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Watches until it is aborted.
pub(super) async fn follow(client: Arc<Client>, prefix: String, news: watch::Sender<Revision>) {
    let mut trouble: Option<String> = None;
    let mut rest = Duration::ZERO;
    loop {
        let mut heard = false;
        let reason = match watch_once(&client, &prefix, &news, &mut trouble, &mut heard).await {
            Err(Fault::NotSent(reason) | Fault::NoAnswer(reason)) => reason,
            Err(Fault::Status(status)) if status.wants_login() => {
                client.forget_token(Instant::now() + client.options.request_timeout).await;
                status.message
            }
            Err(Fault::Status(status)) => status.message,
            Ok(()) => "the server ended the watch".to_owned(),
        };
        // One that worked is replaced at once; only if that fails is the store lost.
        if heard {
            tracing::debug!(store = %client.place, %reason, "looking for another server");
            rest = Duration::ZERO;
            continue;
        }
        if trouble.as_ref() != Some(&reason) {
            if trouble.is_none() {
                news.send_modify(|_| {});
            }
            tracing::error!(store = %client.place, %reason, "the store cannot be followed");
            trouble = Some(reason);
        }
        rest = (rest * 2).clamp(SHORTEST_REST, LONGEST_REST);
        tokio::time::sleep(rest).await;
    }
}

/// One watcher, until it ends. `heard` is set once it has told something.
async fn watch_once(
    client: &Arc<Client>,
    prefix: &str,
    news: &watch::Sender<Revision>,
    trouble: &mut Option<String>,
    heard: &mut bool,
) -> Result<(), Fault> {
    let connection = client.connection_in_time().await?;
    let with = client.metadata(&connection, Instant::now() + client.options.request_timeout).await?;
    let key = prefix.as_bytes().to_vec();
    let create = WatchCreateRequest { range_end: after_prefix(&key), key, fragment: true };
    let mut call = connection.stream(WATCH, &message(WatchAsk::Create(create)), &with).await?;
    let beat = client.options.heartbeat;
    let mut owes_since: Option<Instant> = None;
    loop {
        let wait = match owes_since {
            Some(since) => (since + beat * 3 / 4).saturating_duration_since(Instant::now()),
            // Whoever answers our questions lives.
            None if *heard => beat.saturating_sub(connection.quiet()),
            None => beat,
        };
        // A connection that others gave up is over for the watch too.
        let answer = match timeout_at(rhythm::slot_after(wait), connection.until_over(call.message())).await {
            Ok(answer) => answer?,
            Err(_) if owes_since.is_some() || !*heard => {
                let reason = format!("{}: no sign of life", connection.endpoint);
                client.leave(&connection, &reason).await;
                return Err(Fault::NoAnswer(reason));
            }
            Err(_) if connection.quiet() < beat => continue,
            Err(_) => {
                call.say(&message(WatchAsk::Progress(WatchProgressRequest {})))?;
                owes_since = Some(Instant::now());
                continue;
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        let answer: WatchResponse = decode(answer)?;
        owes_since = None;
        connection.heard();
        if answer.canceled {
            // Compacted is only how far behind it was: the next one begins with what is there.
            *heard |= answer.compact_revision > 0;
            return Err(ended(answer.cancel_reason));
        }
        let newest = answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        let newest = newest.or(answer.header.as_ref().filter(|_| answer.created).map(|header| header.revision));
        tell(news, newest.unwrap_or_default().cast_unsigned(), answer.created);
        if answer.created {
            *heard = true;
            if trouble.take().is_some() {
                tracing::info!(store = %client.place, server = %connection.endpoint, "the store can be followed again");
            }
        }
    }
}

fn message(ask: WatchAsk) -> Vec<u8> {
    WatchRequest { ask: Some(ask) }.encode_to_vec()
}

fn ended(reason: String) -> Fault {
    if reason.contains("auth token") || reason.contains("permission denied") {
        return Fault::Status(super::grpc::Status { code: super::grpc::code::UNAUTHENTICATED, message: reason });
    }
    Fault::NoAnswer(if reason.is_empty() { "the server ended the watch".to_owned() } else { reason })
}

/// Tells of a newer revision; wakes also without one if `wake`.
pub(super) fn tell(news: &watch::Sender<Revision>, revision: Revision, wake: bool) {
    news.send_if_modified(|known| {
        let newer = revision > *known;
        *known = revision.max(*known);
        newer || wake
    });
}
