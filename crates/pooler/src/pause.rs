//! Pausing a pooler, and undoing it.
//!
//! ```text
//!   Unknown ──┐  PAUSE is sent          it is done
//!             ├───────────────> Going ──────────────> Done
//!   Resumed ──┘                   │                    │
//!      ^                          v                    v
//!      └──────────────────────── RESUME ───────────────┘
//! ```

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::console::{Admin, Console, ConsoleError};

const LOOK: Duration = Duration::from_millis(5);

/// What is known of a pooler's pause, over one connection to its console.
pub(crate) struct Pause {
    admin: Admin,
    databases: Vec<String>,
    state: State,
    /// PAUSE answers when it is done, so it has a connection of its own. That one is open beforehand: clients would wait
    /// while it logs in.
    spare: Option<Console>,
}

enum State {
    /// PgBouncer goes on as it was when we came.
    Unknown,
    Resumed,
    Going(JoinHandle<Result<Console, ConsoleError>>),
    Done,
}

impl Pause {
    /// Of a pooler of which nothing is known. Without databases, all of them are paused.
    pub fn new(admin: Admin, databases: Vec<String>) -> Pause {
        Pause { admin, databases, state: State::Unknown, spare: None }
    }

    /// No server works for a client, and none will before [`Pause::resume`].
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// A command of the console, for all databases or for each.
    pub fn commands(&self, command: &str) -> Vec<String> {
        if self.databases.is_empty() {
            return vec![command.to_owned()];
        }
        self.databases.iter().map(|name| format!("{command} \"{}\"", name.replace('"', "\"\""))).collect()
    }

    /// Opens what the next pause needs.
    pub async fn get_ready(&mut self) {
        if self.spare.as_ref().is_none_or(Console::is_closed) {
            // The pause itself tries again, and tells.
            self.spare = self.admin.connect().await.ok();
        }
    }

    /// Begins to pause unless that is under way, and waits until it is done; for ever when it is.
    pub async fn pause(&mut self) -> Result<(), ConsoleError> {
        if let State::Unknown | State::Resumed = self.state {
            let spare = self.spare.take().filter(|console| !console.is_closed());
            self.state = State::Going(tokio::spawn(pause(self.admin.clone(), spare, self.commands("PAUSE"))));
        }
        let done = match &mut self.state {
            State::Going(task) => task.await,
            _ => std::future::pending().await,
        };
        match done {
            Ok(Ok(console)) => {
                self.spare = Some(console);
                self.state = State::Done;
            }
            Ok(Err(error)) => {
                self.state = State::Unknown;
                return Err(error);
            }
            // The runtime is going down.
            Err(_) => self.state = State::Unknown,
        }
        Ok(())
    }

    /// Undoes a pause; also one that is not done yet, and one that an earlier process of ours left behind. True when there
    /// was something to undo.
    pub async fn resume(&mut self, console: &Console) -> Result<bool, ConsoleError> {
        if let State::Resumed = self.state {
            return Ok(false);
        }
        for command in self.commands("RESUME") {
            loop {
                match console.run(&command).await {
                    Ok(_) => break,
                    Err(error) if error.says("not paused") => {
                        // PAUSE was sent on another connection and may arrive after this.
                        match &self.state {
                            State::Going(task) if !task.is_finished() => sleep(LOOK).await,
                            _ => break,
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let State::Going(task) = &self.state {
            task.abort();
        }
        self.state = State::Resumed;
        Ok(true)
    }
}

async fn pause(admin: Admin, spare: Option<Console>, commands: Vec<String>) -> Result<Console, ConsoleError> {
    let console = match spare {
        Some(console) => console,
        None => admin.connect().await?,
    };
    for command in commands {
        match console.unbounded(&command).await {
            // Another proxy was faster: its PAUSE need not be done yet.
            Err(error) if error.says("already") => {
                while console.servers_in_use().await? > 0 {
                    sleep(LOOK).await;
                }
            }
            done => drop(done?),
        }
    }
    Ok(console)
}
