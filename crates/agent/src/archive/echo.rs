//! Further connections that report what a tail has put away, so that PostgreSQL counts its word for more than one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matriarch_archive::tail::Progress;
use matriarch_core::Lsn;
use matriarch_postgres::replication::{Event, Positions, Replication, ReplicationError, Target};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::durability::names::fresh;

const PAUSE: Duration = Duration::from_millis(300);

/// The names of the connections of one tail, each made for one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Voices(Arc<Mutex<Vec<String>>>);

impl Voices {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn add(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != name);
    }

    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Keeps one connection fewer than there are to be votes, since the tail's own is one of them; never more than it has once had to. They
/// end with this.
pub(super) async fn keep(
    target: Target,
    progress: watch::Receiver<Progress>,
    mut votes: watch::Receiver<usize>,
    voices: Voices,
) -> Infallible {
    let mut all = JoinSet::new();
    loop {
        let wanted = votes.borrow_and_update().saturating_sub(1);
        while all.len() < wanted {
            all.spawn(one(target.clone(), progress.clone(), voices.clone()));
        }
        if votes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn one(target: Target, mut progress: watch::Receiver<Progress>, voices: Voices) {
    // The sender ends after this.
    while progress.wait_for(|progress| progress.begun.is_some()).await.is_ok() {
        let target = Target { application_name: fresh(), ..target.clone() };
        if let Err(error) = report(&target, &mut progress, &voices).await {
            tracing::debug!("a further connection of the tail: {error}");
        }
        voices.remove(&target.application_name);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reports what is put away, until the tail goes on elsewhere. What comes is thrown away.
async fn report(
    target: &Target,
    progress: &mut watch::Receiver<Progress>,
    voices: &Voices,
) -> Result<(), ReplicationError> {
    let (timeline, stored) = {
        let progress = progress.borrow_and_update();
        (progress.timeline, progress.stored)
    };
    let at = |stored: Lsn| Positions { write: stored, flush: stored, apply: stored };
    let mut stream = Replication::connect(target).await?.stream(None, timeline, stored).await?;
    stream.acknowledge(at(stored));
    voices.add(&target.application_name);
    loop {
        tokio::select! {
            event = stream.next() => match event? {
                Event::Wal { .. } | Event::Keepalive { .. } => {}
                Event::TimelineEnd(_) | Event::Stopped => return Ok(()),
            },
            changed = progress.changed() => {
                let now = progress.borrow_and_update();
                if changed.is_err() || now.timeline != timeline || now.begun.is_none() {
                    return Ok(());
                }
                stream.acknowledge(at(now.stored));
            }
        }
    }
}
