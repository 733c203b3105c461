//! Notices what others did, by a blocking query on a connection of its own.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch as news;

use super::Shared;
use super::answer::Failure;
use super::http::Ask;
use crate::store::Revision;

/// How long Consul may hold the query when nothing happens. A connection that died in silence is noticed after that.
const WAIT_S: u64 = 10;
/// Consul adds up to a sixteenth of the wait, and this much is for the way.
const GRACE: Duration = Duration::from_secs(2);
/// Before the next try after a failure; doubled each time.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Watches for as long as the handle lives.
pub(super) async fn run(shared: Weak<Shared>, news: news::Sender<Revision>) {
    let (mut last, mut rest, mut trouble) = (0, FIRST_REST, None::<String>);
    loop {
        let Some(handle) = shared.upgrade() else { return };
        match look(&handle, last).await {
            Ok(index) => {
                rest = FIRST_REST;
                if trouble.take().is_some() {
                    tracing::info!(store = %handle.place, "the store can be followed again");
                    news.send_modify(|_| {});
                }
                if index < last {
                    // Deletions forgotten, or a restored snapshot: a full read finds out, and an index that is too high
                    // would not wake us again.
                    last = 0;
                    if let Err(error) = handle.read().await {
                        tracing::error!(store = %handle.place, %error, "the store cannot be followed");
                        news.send_modify(|_| {});
                    }
                } else {
                    handle.announce(index);
                    last = index;
                }
            }
            Err(reason) => {
                if trouble.is_none() {
                    tracing::warn!(store = %handle.place, %reason, "the store cannot be followed");
                    news.send_modify(|_| {});
                    trouble = Some(reason);
                }
                drop(handle);
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
}

/// Waits for a change after `last`; gives the index it is at now.
async fn look(handle: &Shared, last: Revision) -> Result<Revision, String> {
    let mut ask = Ask::get(handle.query.change_after(last, WAIT_S));
    ask.within = Some(Duration::from_secs(WAIT_S) * 17 / 16 + GRACE);
    let answer = handle.ask(&ask).await.map_err(Failure::reason)?;
    match answer.status.as_u16() {
        200 | 404 => {}
        _ => return Err(Failure::told(&answer).reason()),
    }
    let index = answer.number("x-consul-index").filter(|index| *index > 0);
    index.ok_or_else(|| format!("no index in the answer; is this a Consul? {}", answer.status))
}
