//! Ctrl-C and SIGTERM: the first asks to come to an end, the second to leave at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often it was asked.
#[derive(Clone, Debug)]
pub struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// Listens from now on; the signals no longer end the process.
    pub fn listen() -> anyhow::Result<Interrupt> {
        let (sender, receiver) = watch::channel(0);
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Interrupt(receiver))
    }

    /// Whether it was asked for.
    pub fn came(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until it was asked for so often.
    pub async fn times(&self, count: u32) {
        let mut receiver = self.0.clone();
        // The sender lives as long as the runtime.
        let _ = receiver.wait_for(|seen| *seen >= count).await;
    }
}
