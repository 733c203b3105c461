//! The leader's side of a connection: every beat is taken in and answered.

use std::sync::Arc;
use std::time::Duration;

use matriarch_api::heartbeat::{HeartbeatStream, Hello};
use matriarch_core::MemberName;
use matriarch_dcs::boot_clock_ms;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::Heartbeats;
use super::frame::{Beat, LONGEST};

/// A connection over which nothing comes for so long, or up to twice as long, is ended.
const IDLE: Duration = Duration::from_secs(10);

/// All of it, also what a layer of TLS keeps for later.
async fn tell(stream: &mut HeartbeatStream, answer: &str) -> std::io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

impl Heartbeats {
    /// Listens to an admitted member until it ends the connection, says what cannot be, or connects anew.
    pub async fn listen(self: Arc<Self>, hello: Hello, mut stream: HeartbeatStream) {
        let Ok(name) = hello.member.parse::<MemberName>() else { return };
        let Ok(_seat) = self.seats.clone().try_acquire_owned() else { return };
        let number = {
            let mut state = self.state();
            let number = state.connections.entry(name.clone()).or_default();
            *number += 1;
            *number
        };
        if let Err(why) = self.talk(&name, number, &mut stream).await {
            tracing::warn!("the heartbeat connection of '{name}' is ended: {why}");
        }
    }

    async fn talk(&self, name: &MemberName, number: u64, stream: &mut HeartbeatStream) -> Result<(), &'static str> {
        let begun = boot_clock_ms();
        let mut buffer = [0u8; LONGEST];
        let mut filled = 0;
        // One timer for the connection, not one for each beat.
        let mut heard = true;
        let idle = sleep(IDLE);
        tokio::pin!(idle);
        loop {
            let read = tokio::select! {
                biased;
                read = stream.read(&mut buffer[filled..]) => read,
                () = &mut idle => {
                    if !std::mem::take(&mut heard) {
                        return Ok(());
                    }
                    idle.as_mut().reset(Instant::now() + IDLE);
                    continue;
                }
            };
            heard = true;
            match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => filled += count,
            }
            let mut begin = 0;
            while let Some(length) = buffer[begin..filled].iter().position(|byte| *byte == b'\n') {
                let answer = self.answer(name, number, begun, &buffer[begin..begin + length])?;
                begin += length + 1;
                let Some(answer) = answer else { return Ok(()) };
                // Whoever sends and does not read is not waited for.
                let written = tokio::select! {
                    biased;
                    written = tell(stream, &answer) => written.is_ok(),
                    () = &mut idle => false,
                };
                if !written {
                    return Ok(());
                }
            }
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
            if filled == buffer.len() {
                return Err("a line is too long");
            }
        }
    }

    /// The answer to one line; none when a newer connection speaks for this member.
    fn answer(&self, name: &MemberName, number: u64, begun: u64, line: &[u8]) -> Result<Option<String>, &'static str> {
        let beat = std::str::from_utf8(line).ok().and_then(Beat::parse).ok_or("what it says is not understood")?;
        let now = boot_clock_ms();
        let mut state = self.state();
        if state.connections.get(name) != Some(&number) {
            return Ok(None);
        }
        let news = state.hear(name, beat, begun, now).ok_or("it answers what was never said over this connection")?;
        if news {
            self.wake.notify_one();
        }
        Ok(Some(state.live(now).line()))
    }
}
