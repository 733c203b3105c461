//! File work that may take long, away from the thread that everything else waits on.

/// Runs `work` on a thread for it. Dropping the future does not end the work.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("blocking work is never aborted: {error}"),
        },
    }
}
