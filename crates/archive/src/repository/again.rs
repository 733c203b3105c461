//! What the client does not repeat by itself.

use std::time::{Duration, Instant};

use object_store::Error as StoreError;

use super::Repository;
use super::error::chain;

const PAUSE: Duration = Duration::from_millis(200);

impl Repository {
    /// Repeats a call whose answer broke off: the client does so before the answer has begun, and while it reads an object, but
    /// not while it reads a list. The call must do no harm when it is made twice.
    pub(super) async fn again<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            match call().await {
                Err(error) if broke_off(&error) && Instant::now() + PAUSE < deadline => {
                    tracing::debug!(%error, "an answer broke off; it is asked again");
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}

fn broke_off(error: &StoreError) -> bool {
    matches!(error, StoreError::Generic { .. }) && chain(error).contains("response body")
}
