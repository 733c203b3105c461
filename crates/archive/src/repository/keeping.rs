//! Credentials of the cloud's own chain: whoever gives them out may be away for a while, and nobody notices.
//!
//! The library renews them five minutes before they end (Google's four), and fails when that fails, although what it has is good for as
//! long. Here that is used meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::CredentialProvider;
use tokio::sync::Mutex;

/// What the library has returned is good for so long at least, unless it was given out for less than that.
const GOOD: Duration = Duration::from_secs(200);
/// Whoever did not answer is left alone for so long: each question takes as long as calls are repeated.
const PAUSE: Duration = Duration::from_secs(5);

/// Credentials that are kept.
pub(super) struct Keeping<C> {
    from: Arc<dyn CredentialProvider<Credential = C>>,
    last: Mutex<Option<Last<C>>>,
    good: Duration,
    pause: Duration,
}

struct Last<C> {
    credential: Arc<C>,
    at: Instant,
    failed: Option<Instant>,
}

impl<C> Keeping<C> {
    pub fn new(from: &Arc<dyn CredentialProvider<Credential = C>>) -> Keeping<C> {
        Keeping { from: Arc::clone(from), last: Mutex::new(None), good: GOOD, pause: PAUSE }
    }
}

impl<C> fmt::Debug for Keeping<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeping")
    }
}

#[async_trait]
impl<C: Send + Sync + 'static> CredentialProvider for Keeping<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        // One asks, and the others wait for what it learns.
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| known.at.elapsed() < self.good)
            && known.failed.is_some_and(|failed| failed.elapsed() < self.pause)
        {
            return Ok(Arc::clone(&known.credential));
        }
        match self.from.get_credential().await {
            Ok(credential) => {
                *last = Some(Last { credential: Arc::clone(&credential), at: Instant::now(), failed: None });
                Ok(credential)
            }
            Err(error) => match last.as_mut().filter(|known| known.at.elapsed() < self.good) {
                Some(known) => {
                    known.failed = Some(Instant::now());
                    tracing::warn!("the store's credentials could not be renewed and are used as they are: {error}");
                    Ok(Arc::clone(&known.credential))
                }
                None => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Answers once, and then never again.
    #[derive(Debug, Default)]
    struct Once(AtomicUsize);

    #[async_trait]
    impl CredentialProvider for Once {
        type Credential = &'static str;

        async fn get_credential(&self) -> object_store::Result<Arc<&'static str>> {
            match self.0.fetch_add(1, Ordering::AcqRel) {
                0 => Ok(Arc::new("a secret")),
                _ => Err(object_store::Error::Generic { store: "test", source: "away".into() }),
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_renewed_is_used_while_it_is_good() {
        let once = Arc::new(Once::default());
        let from: Arc<dyn CredentialProvider<Credential = &'static str>> = once.clone();
        let hour = Duration::from_secs(3600);
        let keeping = Keeping { pause: hour, ..Keeping::new(&from) };
        for _ in 0..5 {
            assert_eq!(*keeping.get_credential().await.unwrap(), "a secret");
        }
        assert_eq!(once.0.load(Ordering::Acquire), 2, "who does not answer is left alone");
        assert!(!format!("{keeping:?}").contains("secret"));
        let keeping = Keeping { good: Duration::ZERO, ..keeping };
        assert!(keeping.get_credential().await.is_err(), "it may have ended");
    }
}
