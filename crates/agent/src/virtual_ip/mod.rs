//! The address that follows the primary (`virtual_ip`): added, announced and taken away on this host.
//!
//! Owns: the task that keeps the interface as the shell wishes it ([`VirtualIp`]), `ip` of iproute2 ([`interface`]), the
//! packets that tell neighbours ([`announce`]) and what is looked at before the agent begins ([`check`]).
//! Must not: know who leads; the shell says what it wishes for, and the guard takes the address away when there is no shell.

mod announce;
pub(crate) mod interface;
mod privilege;

use std::time::Duration;

use matriarch_config::VirtualIp as Settings;
use tokio::sync::watch;

pub(crate) use interface::Place;
pub use privilege::handing_down;

/// What the shell wants of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The address is here, and the neighbours know.
    Take,
    /// As it is: it is not known yet, or about to be decided.
    Leave,
    /// The address is not here.
    Drop,
}

/// Neighbours are told again after these times, since nobody confirms having heard.
const ANNOUNCE: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(300), Duration::from_millis(400)];
/// And from then on, for those who were cut off at that time, and to see whether the address is still here alone.
const REFRESH: Duration = Duration::from_secs(10);
/// The same while another host answers for it: who looks it up now may get either.
const CONTEST: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);
/// How long taking it away may hold up the agent's end.
const FAREWELL: Duration = Duration::from_secs(3);

/// The shell's hand on the address. Without settings it does nothing.
#[derive(Debug)]
pub struct VirtualIp {
    task: Option<Task>,
}

#[derive(Debug)]
struct Task {
    wish: watch::Sender<Wish>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    problem: Option<String>,
    /// The newest wish to drop it was fulfilled.
    dropped: bool,
}

/// Looks at what the address needs, before anything is started.
///
/// # Errors
/// When the program, the interface or a privilege is missing: which, and what to do.
pub async fn check(settings: &Settings) -> anyhow::Result<()> {
    privilege::check(settings)?;
    privilege::keep_from_children();
    Place::new(settings).check().await
}

impl VirtualIp {
    /// Begins to keep the interface as is wished for; until the first wish nothing is touched.
    pub fn start(settings: Option<&Settings>) -> VirtualIp {
        let task = settings.map(|settings| {
            let (wish, wishes) = watch::channel(Wish::Leave);
            let (report, state) = watch::channel(State::default());
            tokio::spawn(Keeper { place: Place::new(settings), wishes, report }.run());
            Task { wish, state }
        });
        VirtualIp { task }
    }

    /// Says what is wanted now; it is done in the background.
    pub fn keep(&self, wish: Wish) {
        let Some(task) = &self.task else { return };
        task.wish.send_if_modified(|wanted| std::mem::replace(wanted, wish) != wish);
    }

    /// What is wrong with it, for people.
    pub fn problem(&self) -> Option<String> {
        self.task.as_ref()?.state.borrow().problem.clone()
    }

    /// Takes it away: the agent ends. Returns when that is done, or after a while.
    pub async fn leave(&mut self) {
        let Some(task) = &mut self.task else { return };
        task.wish.send_replace(Wish::Drop);
        let gone = task.state.wait_for(|state| state.dropped);
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }
}

struct Keeper {
    place: Place,
    wishes: watch::Receiver<Wish>,
    report: watch::Sender<State>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let wish = *self.wishes.borrow_and_update();
            let pause = match wish {
                Wish::Take => self.take().await,
                Wish::Leave => None,
                Wish::Drop => self.drop_address().await,
            };
            let due = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                () = due => {}
            }
        }
    }

    /// Returns when to look again.
    async fn take(&mut self) -> Option<Duration> {
        let new = !self.place.is_here();
        if new {
            // Not cut short by another wish: an addition that is under way could land after the removal.
            if let Err(error) = self.place.add().await {
                self.tell(Some(format!("{error:#}")), false);
                return Some(RETRY);
            }
            tracing::info!("{} is on {} now", self.place.address, self.place.interface);
        }
        let times = if new { &ANNOUNCE[..] } else { &ANNOUNCE[..1] };
        let place = &self.place;
        let heard = tokio::select! {
            heard = announce::announce(place, times) => heard,
            _ = self.wishes.changed() => {
                self.wishes.mark_changed();
                return None;
            }
        };
        match heard {
            Ok(None) => {
                self.tell(None, false);
                Some(REFRESH)
            }
            Ok(Some(other)) => {
                self.tell(Some(self.place.contested(&other)), false);
                Some(CONTEST)
            }
            Err(error) => {
                self.tell(Some(format!("{error:#}")), false);
                Some(RETRY)
            }
        }
    }

    async fn drop_address(&mut self) -> Option<Duration> {
        if self.place.is_here() {
            if let Err(error) = self.place.remove().await {
                self.tell(Some(format!("{error:#}")), false);
                return Some(RETRY);
            }
            tracing::info!("{} was taken off {}: this member does not lead", self.place.address, self.place.interface);
        }
        self.tell(None, true);
        None
    }

    fn tell(&self, problem: Option<String>, dropped: bool) {
        let known = self.report.borrow().problem.clone();
        match &problem {
            Some(problem) if known.as_ref() != Some(problem) => tracing::error!("{problem}"),
            None if known.is_some() => tracing::info!("all is well with {} again", self.place.address),
            _ => {}
        }
        self.report.send_replace(State { problem, dropped });
    }
}
