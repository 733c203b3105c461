//! Heartbeats between agents: what this member says, and what it hears of the others.
//!
//! Each member connects to the leader's agent and speaks first ([`follow`]); the leader answers ([`listen`]). The words are
//! in [`frame`]; whether a silence means anything is [`matriarch_core::heartbeat`]'s to say.

mod follow;
mod frame;
mod link;
mod listen;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use matriarch_api::heartbeat::{Hello, NotAdmitted};
use matriarch_core::decide::{Millis, Pulse, Stance, Support};
use matriarch_core::{Incarnation, MemberName};
use matriarch_dcs::boot_clock_ms;
use matriarch_tls::PeerTls;
use tokio::sync::{Notify, Semaphore, watch};

pub use follow::follow;
use frame::{Beat, Live, Promise};

/// Members that may be connected at the same time.
const SEATS: usize = 64;
/// Until the configuration is read.
const SUSPECT_AFTER: Millis = 1_000;

/// Whom this member listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The leader.
    pub name: MemberName,
    /// The epoch it leads in, as the store says.
    pub epoch: u64,
    /// `host:port` of its agent.
    pub agent: String,
    /// It speaks TLS there.
    pub tls: bool,
    /// `host:port` of its PostgreSQL.
    pub postgres: String,
}

/// What this member says, with every message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Where it stands.
    pub stance: Stance,
    /// Identity of its data.
    pub incarnation: Option<Incarnation>,
    /// `serial` of the newest `sync` record it has seen.
    pub serial: u64,
    /// It asks the others for a promise.
    pub asks: bool,
}

/// A leader asks for a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// In which epoch it leads.
    pub epoch: u64,
    /// Its clock then.
    clock: Millis,
}

/// The place where the loop, the listener and the follower of heartbeats meet.
pub struct Heartbeats {
    scope: String,
    name: MemberName,
    authorization: Option<String>,
    peers: PeerTls,
    state: Mutex<State>,
    target: watch::Sender<Option<Arc<Target>>>,
    /// Something is worth saying before the next beat.
    news: Notify,
    /// Something looks wrong with the leader: try its ports.
    look: Notify,
    /// The loop has something to decide.
    wake: Notify,
    seats: Arc<Semaphore>,
}

struct State {
    said: Said,
    round_at: Millis,
    suspect_after: Millis,
    pulse: Pulse,
    /// When whoever follows the leader ran last, while there is one.
    followed_at: Option<Millis>,
    support: BTreeMap<MemberName, Support>,
    /// The newest connection of each member; earlier ones end.
    connections: BTreeMap<MemberName, u64>,
    asked: Option<Asked>,
    promise: Option<Promise>,
}

impl Heartbeats {
    /// Of one member. `authorization` is the header it presents to others, `peers` how it speaks to those with TLS.
    pub fn new(scope: String, name: MemberName, authorization: Option<String>, peers: PeerTls) -> Arc<Heartbeats> {
        Arc::new(Heartbeats {
            scope,
            name,
            authorization,
            peers,
            state: Mutex::new(State {
                said: Said::default(),
                round_at: boot_clock_ms(),
                suspect_after: SUSPECT_AFTER,
                pulse: Pulse::default(),
                followed_at: None,
                support: BTreeMap::new(),
                connections: BTreeMap::new(),
                asked: None,
                promise: None,
            }),
            target: watch::channel(None).0,
            news: Notify::new(),
            look: Notify::new(),
            wake: Notify::new(),
            seats: Arc::new(Semaphore::new(SEATS)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the loop should decide anew: the pulse, a member's stance or a promise has changed.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What the loop has decided to say; it is what every later message says.
    pub fn say(&self, said: Said) {
        let mut state = self.state();
        state.round_at = boot_clock_ms();
        if state.said.stance != said.stance {
            self.news.notify_one();
        }
        state.said = said;
    }

    /// The stance that is being told.
    pub fn stance(&self) -> Stance {
        self.state().said.stance
    }

    /// Whom to listen to; nobody when this member leads or nobody does.
    pub fn listen_to(&self, target: Option<Target>) {
        self.target.send_if_modified(|known| {
            let news = known.as_deref() != target.as_ref();
            if news {
                *known = target.map(Arc::new);
                // At once, not when the follower gets to run: a suspicion is about one leader in one epoch.
                self.state().pulse = Pulse::Unknown;
            }
            news
        });
    }

    /// How long a silence must last to mean anything.
    pub fn suspect_after(&self, time: Millis) {
        self.state().suspect_after = time;
    }

    /// The stream from the leader has ended, say: its ports are tried at once.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// What is heard of the leader.
    pub fn pulse(&self) -> Pulse {
        self.state().pulse
    }

    /// When a beat was due or something else was to be done for the leader that this member follows, the newest time.
    pub fn followed_at(&self) -> Option<Millis> {
        self.state().followed_at
    }

    /// A verdict on a target; one on an earlier target comes too late.
    fn tell_pulse(&self, target: Option<&Arc<Target>>, pulse: Pulse) {
        let current = self.target.borrow();
        let mut state = self.state();
        if current.as_ref() != target || state.pulse == pulse {
            return;
        }
        match pulse {
            Pulse::Suspected { evidence, .. } => tracing::warn!("the leader is suspected: {evidence:?}"),
            Pulse::Alive { epoch } => tracing::info!("the leader of epoch {epoch} is heard"),
            Pulse::Unknown => tracing::debug!("nothing is known of the leader"),
        }
        state.pulse = pulse;
        self.wake.notify_one();
    }

    /// What the others told this member.
    pub fn support(&self) -> BTreeMap<MemberName, Support> {
        self.state().support.clone()
    }

    /// The promise that the leader waits for, unless the newest one given is fresh enough.
    pub fn asked(&self) -> Option<Asked> {
        let state = self.state();
        let asked = state.asked?;
        let fresh = state.promise.is_some_and(|promise| asked.clock < promise.since + promise.time / 3);
        (!fresh).then_some(asked)
    }

    /// Promises, from the next message on, not to take over for `time` after the question. What was promised is on disk.
    pub fn promise(&self, asked: Asked, time: Millis) {
        self.state().promise = Some(Promise { time: time.min(frame::LONGEST_PROMISE), since: asked.clock });
        self.news.notify_one();
    }

    /// Whether a member may connect.
    pub fn admit(&self, hello: &Hello) -> Result<(), NotAdmitted> {
        let refuse = |error: String, remedy: &str| Err(NotAdmitted { error, remedy: remedy.to_owned() });
        if hello.scope != self.scope {
            let error = format!("this is '{}' of cluster '{}', not of '{}'", self.name, self.scope, hello.scope);
            return refuse(error, "two clusters share an address: look at 'restapi.connect_address' of their members");
        }
        match hello.member.parse::<MemberName>() {
            Err(error) => refuse(error.to_string(), "give the member a name that fits"),
            Ok(name) if name == self.name => {
                let error = format!("'{name}' is this member itself");
                refuse(error, "two members have the same name: change 'name' of one of them")
            }
            Ok(_) if self.seats.available_permits() == 0 => {
                refuse(format!("{SEATS} members are connected already"), "look for who connects so often")
            }
            Ok(_) => Ok(()),
        }
    }
}

impl State {
    /// What a leader answers now.
    fn live(&self, now: Millis) -> Live {
        let leads = match self.said.stance {
            Stance::Leads { epoch } => Some(epoch),
            Stance::Neutral | Stance::Follows { .. } => None,
        };
        Live {
            clock: now,
            leads,
            serial: self.said.serial,
            round_age: now.saturating_sub(self.round_at),
            asks: self.said.asks && leads.is_some(),
        }
    }

    /// What a follower says now.
    fn beat(&self, echo: Option<Millis>) -> Beat {
        let (stance, incarnation) = (self.said.stance, self.said.incarnation.clone());
        Beat { stance, incarnation, echo, promise: self.promise }
    }

    /// Takes in what a member said over a connection that began at `begun`. Whether the loop should hear of it at once; or
    /// nothing when it cannot be true.
    fn hear(&mut self, name: &MemberName, beat: Beat, begun: Millis, now: Millis) -> Option<bool> {
        let possible = |clock: &Millis| (begun..=now).contains(clock);
        if !beat.echo.iter().all(possible) {
            return None;
        }
        let (Some(heard), Some(incarnation)) = (beat.echo, beat.incarnation) else { return Some(false) };
        let epoch = match beat.stance {
            Stance::Follows { epoch } => epoch,
            // Epochs begin at 1.
            Stance::Neutral | Stance::Leads { .. } => 0,
        };
        let promised = beat.promise.filter(|promise| possible(&promise.since));
        let known = self.support.get(name);
        let before = known.and_then(|support| support.promised_until);
        let promised_until = before.max(promised.map(|promise| promise.since + promise.time));
        let new = Support { incarnation, epoch, heard, promised_until };
        let news = known.is_none_or(|known| {
            (&known.incarnation, known.epoch, known.promised_until) != (&new.incarnation, epoch, promised_until)
        });
        self.support.insert(name.clone(), new);
        Some(news)
    }
}

#[cfg(test)]
mod tests;
