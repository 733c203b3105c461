//! The follower's side: one connection to whoever leads, a beat three times a second, and the verdict on what comes back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use matriarch_core::decide::{Millis, Pulse};
use matriarch_core::heartbeat::{Answer, BEAT, Detector, Port};
use matriarch_dcs::{boot_clock_ms, rhythm};
use tokio::sync::watch;
use tokio::time::Instant;

use super::frame::Live;
use super::link::{Attempt, Link, attempt, probe};
use super::{Asked, Heartbeats, Target};

/// First pause between two attempts to connect; it doubles.
const FIRST_PAUSE: Millis = 20;
const LONGEST_PAUSE: Millis = 500;
/// Pause after an agent has answered that it does not want us.
const REFUSED_PAUSE: Millis = 5_000;
/// A beat may be early by so much: it comes when a slot of timers begins.
const EARLY: Millis = rhythm::SLOT.as_millis() as Millis / 2;
/// A connection over which no answer comes for so long is made anew: the network may have forgotten it.
const DEAF: Millis = 3_000;

/// Listens to whomever the loop names, for as long as the process lives.
pub async fn follow(hub: Arc<Heartbeats>) {
    let mut target = hub.target.subscribe();
    loop {
        let named = target.borrow_and_update().clone();
        match named {
            Some(named) => Watcher::new(hub.clone(), named).run(&mut target).await,
            None => {
                hub.tell_pulse(None, Pulse::Unknown);
                hub.state().followed_at = None;
                if target.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

type Task<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

struct Watcher {
    hub: Arc<Heartbeats>,
    target: Arc<Target>,
    detector: Detector,
    link: Option<Link>,
    attempt: Task<Attempt>,
    probe: Task<(Port, Port)>,
    /// When to try for a connection again.
    again: Millis,
    pause: Millis,
    beat_at: Millis,
    /// The leader's clock as it last told.
    echo: Option<Millis>,
    answered: Millis,
    /// Why it did not want us, said once.
    refused: Option<String>,
}

impl Watcher {
    fn new(hub: Arc<Heartbeats>, target: Arc<Target>) -> Watcher {
        let now = boot_clock_ms();
        let suspect_after = hub.state().suspect_after;
        Watcher {
            detector: Detector::new(now, target.epoch, suspect_after),
            hub,
            target,
            link: None,
            attempt: None,
            probe: None,
            again: now,
            pause: FIRST_PAUSE,
            beat_at: now,
            echo: None,
            answered: now,
            refused: None,
        }
    }

    /// Until another member, or the same one elsewhere, is named.
    async fn run(mut self, target: &mut watch::Receiver<Option<Arc<Target>>>) {
        self.new_connection();
        loop {
            let wake = self.step();
            self.hub.tell_pulse(Some(&self.target), self.detector.pulse());
            let pause = Duration::from_millis(wake.saturating_sub(boot_clock_ms()));
            let until = if wake == self.beat_at { rhythm::slot_near(pause) } else { Instant::now() + pause };
            let hub = self.hub.clone();
            tokio::select! {
                changed = target.changed() => {
                    let next = target.borrow_and_update().clone();
                    match next {
                        Some(next) if changed.is_ok() && self.is_same_place(&next) => self.new_epoch(next),
                        _ => return,
                    }
                }
                done = finish(&mut self.attempt) => {
                    self.attempt = None;
                    self.attempted(done);
                }
                (agent, postgres) = finish(&mut self.probe) => {
                    self.probe = None;
                    self.detector.ports(boot_clock_ms(), agent, postgres);
                }
                live = next(&mut self.link) => match live {
                    Ok(live) => self.answer(live),
                    Err(error) => {
                        tracing::debug!("the heartbeat connection to '{}' broke: {error}", self.target.name);
                        self.disconnect();
                    }
                },
                () = hub.look.notified() => {
                    self.probe.get_or_insert_with(|| Box::pin(probe(self.target.clone())));
                }
                () = hub.news.notified() => self.beat_at = 0,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Does what is due; returns when something is again.
    fn step(&mut self) -> Millis {
        let now = boot_clock_ms();
        let suspect_after = {
            let mut state = self.hub.state();
            state.followed_at = Some(now);
            state.suspect_after
        };
        self.detector.set_suspect_after(suspect_after);
        self.detector.tick(now);
        if self.link.is_some() && now >= self.answered + DEAF {
            self.disconnect();
        }
        if self.link.is_none() && self.attempt.is_none() && now >= self.again {
            self.attempt = Some(Box::pin(attempt(self.hub.clone(), self.target.clone())));
        }
        if now + EARLY >= self.beat_at {
            self.beat_at = now + BEAT;
            let beat = self.hub.state().beat(self.echo);
            if self.link.as_mut().is_some_and(|link| !link.send(&beat)) {
                self.disconnect();
            }
        }
        let again = if self.link.is_none() && self.attempt.is_none() { self.again } else { Millis::MAX };
        self.beat_at.min(again).min(self.detector.deadline().unwrap_or(Millis::MAX))
    }

    fn answer(&mut self, live: Live) {
        let now = boot_clock_ms();
        (self.answered, self.echo) = (now, Some(live.clock));
        self.detector.answer(now, Answer { leads: live.leads, round_age: live.round_age });
        let asks = live.leads.filter(|epoch| live.asks && *epoch == self.target.epoch);
        self.hub.state().asked = asks.map(|epoch| Asked { epoch, clock: live.clock });
        if self.hub.asked().is_some() {
            self.hub.wake.notify_one();
        }
    }

    fn attempted(&mut self, attempt: Attempt) {
        let now = boot_clock_ms();
        match attempt {
            Attempt::Up(link) => {
                self.detector.ports(now, Port::Accepts, Port::Silent);
                (self.link, self.refused) = (Some(link), None);
                (self.pause, self.beat_at, self.answered) = (FIRST_PAUSE, now, now);
            }
            Attempt::Failed(agent, postgres) => {
                self.detector.ports(now, agent, postgres);
                self.again = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            Attempt::Refused(why) => {
                self.detector.ports(now, Port::Accepts, Port::Silent);
                self.is_refused(now, why);
            }
            Attempt::NoTls(why) => {
                // It may go on well, with a certificate that has ended or on its way from http to https: what it said before
                // makes no silence of this.
                self.detector = Detector::new(now, self.target.epoch, self.hub.state().suspect_after);
                self.is_refused(now, why);
            }
        }
    }

    fn is_refused(&mut self, now: Millis, why: String) {
        self.again = now + REFUSED_PAUSE;
        if self.refused.as_ref() != Some(&why) {
            let name = &self.target.name;
            tracing::warn!("'{name}' takes no heartbeats of ours, so failover waits for the lease: {why}");
            self.refused = Some(why);
        }
    }

    /// Tried again at once: what the ports say now is what matters.
    fn disconnect(&mut self) {
        self.link = None;
        self.again = 0;
        self.new_connection();
    }

    /// What was said over an earlier connection counts no more.
    fn new_connection(&mut self) {
        self.echo = None;
        let mut state = self.hub.state();
        (state.asked, state.promise) = (None, None);
    }

    fn is_same_place(&self, next: &Target) -> bool {
        let place = |target: &Target| (target.name.clone(), target.agent.clone(), target.tls, target.postgres.clone());
        place(next) == place(&self.target)
    }

    fn new_epoch(&mut self, next: Arc<Target>) {
        self.detector = Detector::new(boot_clock_ms(), next.epoch, self.hub.state().suspect_after);
        self.target = next;
    }
}

async fn finish<T>(task: &mut Task<T>) -> T {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn next(link: &mut Option<Link>) -> std::io::Result<Live> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}
