//! The agent's side: keeps a guard running and tells it the deadline.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::{GuardOptions, Order, WatchdogSettings};
use crate::virtual_ip::{Place, handing_down};

/// How to start a guard.
#[derive(Clone, Debug)]
struct Starter {
    program: PathBuf,
    options: GuardOptions,
    /// The address that goes when PostgreSQL is killed.
    address: Option<Place>,
}

/// What the guard has confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// A guard answers.
    pub alive: bool,
    /// The deadline it confirmed (boot clock, ms), also one that has passed: 0 when it guards nothing.
    pub deadline: u64,
    /// Why the watchdog does not protect this host, when it is to.
    pub watchdog: Option<String>,
}

impl GuardState {
    /// PostgreSQL will be ended if it outlives the authority to run.
    pub(crate) fn is_armed(&self, now: u64) -> bool {
        self.alive && self.deadline > now
    }

    /// It ends whatever starts.
    pub(crate) fn has_fired(&self, now: u64) -> bool {
        self.alive && self.deadline > 0 && self.deadline <= now
    }
}

/// A connection to the guard that is made anew whenever it breaks.
#[derive(Clone, Debug)]
pub struct GuardLink {
    wanted: Arc<watch::Sender<Option<Order>>>,
    watchdog: Arc<watch::Sender<Option<WatchdogSettings>>>,
    confirmed: watch::Receiver<GuardState>,
}

impl GuardLink {
    /// Connects to the guard of this data directory, starting one if none answers, and keeps doing so in the background.
    pub(crate) fn start(program: PathBuf, options: GuardOptions, address: Option<Place>) -> GuardLink {
        let (wanted, orders) = watch::channel(None);
        let (report, confirmed) = watch::channel(GuardState::default());
        let (watchdog, dogs) = watch::channel(None);
        tokio::spawn(keep(Starter { program, options, address }, (orders, dogs), report));
        GuardLink { wanted: Arc::new(wanted), watchdog: Arc::new(watchdog), confirmed }
    }

    /// The watchdog that goes with every deadline from now on.
    pub(crate) fn watch_over(&self, settings: WatchdogSettings) {
        self.watchdog.send_if_modified(|known| known.replace(settings.clone()).as_ref() != Some(&settings));
    }

    /// Moves the deadline; the guard's confirmation arrives in [`GuardLink::confirmed`].
    pub fn arm(&self, deadline: u64) {
        self.order(Order::Arm(deadline));
    }

    /// Nothing to guard any more.
    pub fn disarm(&self) {
        self.order(Order::Disarm);
    }

    /// Ends the guard: PostgreSQL has stopped and the agent is about to. Returns when it is gone, or after a second.
    pub async fn quit(&self) {
        let mut confirmed = self.confirmed.clone();
        if confirmed.borrow().alive {
            self.order(Order::Quit);
            let gone = confirmed.wait_for(|state| !state.alive);
            let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
        }
    }

    /// Only news is sent: each confirmation wakes the agent.
    fn order(&self, order: Order) {
        self.wanted.send_if_modified(|wanted| {
            let order = Some(order);
            let news = *wanted != order;
            *wanted = order;
            news
        });
    }

    /// What the guard has confirmed; changes are events.
    pub fn confirmed(&self) -> watch::Receiver<GuardState> {
        self.confirmed.clone()
    }
}

type Orders = (watch::Receiver<Option<Order>>, watch::Receiver<Option<WatchdogSettings>>);

async fn keep(starter: Starter, mut orders: Orders, report: watch::Sender<GuardState>) {
    let mut pause = Duration::from_millis(50);
    loop {
        if let Ok(stream) = UnixStream::connect(&starter.options.socket).await {
            pause = Duration::from_millis(50);
            let wanted = talk(stream, &starter, &mut orders, &report).await;
            if !wanted || *orders.0.borrow() == Some(Order::Quit) {
                tell(&report, GuardState::default());
                return;
            }
        } else {
            if let Err(error) = spawn(&starter) {
                tracing::error!("the guard cannot be started: {error}; without it this member will not lead");
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        tell(&report, GuardState::default());
        tokio::time::sleep(pause).await;
    }
}

/// False when the agent no longer needs the link.
async fn talk(
    stream: UnixStream,
    starter: &Starter,
    (orders, watchdog): &mut Orders,
    report: &watch::Sender<GuardState>,
) -> bool {
    let (read, mut write) = stream.into_split();
    let mut answers = BufReader::new(read).lines();
    orders.mark_changed();
    // A guard of an earlier agent may not know it.
    if let Some(place) = &starter.address
        && write.write_all(Order::Address(place.clone()).line().as_bytes()).await.is_err()
    {
        return true;
    }
    if watchdog.borrow().is_some() {
        watchdog.mark_changed();
    }
    loop {
        tokio::select! {
            biased;
            changed = watchdog.changed() => {
                if changed.is_err() {
                    return false;
                }
                let settings = watchdog.borrow_and_update().clone();
                if let Some(settings) = settings
                    && write.write_all(Order::Watchdog(settings).line().as_bytes()).await.is_err()
                {
                    return true;
                }
            }
            changed = orders.changed() => {
                if changed.is_err() {
                    return false;
                }
                let order = orders.borrow_and_update().clone().unwrap_or(Order::Report);
                if write.write_all(order.line().as_bytes()).await.is_err() {
                    return true;
                }
            }
            answer = answers.next_line() => {
                let Ok(Some(line)) = answer else { return true };
                tell(report, read_answer(&line));
            }
        }
    }
}

fn read_answer(line: &str) -> GuardState {
    let (deadline, watchdog) = line.trim().split_once(" watchdog").unwrap_or((line.trim(), ""));
    let failure = watchdog.trim();
    let watchdog = (!failure.is_empty()).then(|| failure.to_owned());
    GuardState { alive: true, deadline: deadline.parse().unwrap_or(0), watchdog }
}

fn tell(report: &watch::Sender<GuardState>, state: GuardState) {
    report.send_if_modified(|known| {
        let news = *known != state;
        *known = state;
        news
    });
}

fn spawn(starter: &Starter) -> std::io::Result<()> {
    // A process group of its own: signals meant for the agent's terminal must not end the guard.
    let mut command = tokio::process::Command::new(&starter.program);
    command.args(starter.options.arguments()).stdin(Stdio::null()).stdout(Stdio::null());
    command.process_group(0).kill_on_drop(false);
    let child = match &starter.address {
        Some(_) => handing_down(|| command.spawn())?,
        None => command.spawn()?,
    };
    // Reaped by the runtime when it ends before us; it may outlive us.
    tokio::spawn(async move {
        let mut child = child;
        let _ = child.wait().await;
    });
    Ok(())
}
