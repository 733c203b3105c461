//! What a guard was told by its agent, and what follows from it.

use std::time::Duration;

use super::duty::Duty;
use super::watchdog::Watchdog;
use super::{GuardOptions, Order, deeds};
use crate::virtual_ip::Place;

/// How long a guard works at ending what runs when its deadline comes, and what starts later.
const END: Duration = Duration::from_secs(30);
const END_LATER: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Charge {
    duty: Duty,
    /// What goes with it.
    address: Option<Place>,
    watchdog: Option<Watchdog>,
    /// It has had a deadline to come.
    has_led: bool,
    /// It is not needed any more.
    pub released: bool,
}

impl Charge {
    /// Whether there is a deadline.
    pub fn is_armed(&self) -> bool {
        self.duty.deadline().is_some()
    }

    /// When there is something to do.
    pub fn wake(&self) -> Option<u64> {
        self.end().into_iter().chain(self.duty.look()).min()
    }

    /// When PostgreSQL is to be killed: before the watchdog would reset the host.
    fn end(&self) -> Option<u64> {
        let deadline = self.duty.deadline()?;
        Some(self.watchdog.as_ref().map_or(deadline, |watchdog| watchdog.end(deadline)))
    }

    /// Sees to the watchdog; returns when to look again.
    pub fn keep_watchdog(&mut self, now: u64) -> Option<u64> {
        let (deadline, watchdog) = (self.duty.deadline(), self.watchdog.as_mut()?);
        watchdog.keep(now, deadline);
        watchdog.wake(deadline)
    }

    /// Whether what [`Self::answer`] says may change without an order.
    pub fn has_watchdog(&self) -> bool {
        self.watchdog.is_some()
    }

    /// The answer to each order.
    pub fn answer(&self) -> String {
        let deadline = self.duty.told();
        match self.watchdog.as_ref().map(|watchdog| watchdog.failure()) {
            None => format!("{deadline}\n"),
            Some(None) => format!("{deadline} watchdog\n"),
            Some(Some(failure)) => format!("{deadline} watchdog {}\n", failure.replace('\n', " ")),
        }
    }

    /// Does what is due; `now` is asked again after what takes long.
    pub fn act(&mut self, options: &GuardOptions, now: impl Fn() -> u64) {
        if self.end().is_some_and(|end| now() >= end) {
            if self.watchdog.is_none() && self.duty.is_late(now()) {
                deeds::hold(options, self.address.as_ref());
                self.duty.held(now());
            } else {
                let ended = deeds::fire(options, self.address.as_ref(), END, "the lease ended without a renewal");
                if let Some(watchdog) = self.watchdog.as_mut().filter(|_| !ended) {
                    watchdog.abandon();
                }
                self.duty.fired(now(), ended);
            }
        } else if self.duty.look().is_some_and(|look| now() >= look) {
            if matriarch_postgres::process::postmaster(&options.data_dir).is_some() {
                let why = "PostgreSQL was started after the lease had ended";
                let ended = deeds::fire(options, self.address.as_ref(), END_LATER, why);
                self.duty.fired(now(), ended);
            } else {
                self.duty.looked(now());
            }
        }
    }

    /// Takes an order.
    pub fn take(&mut self, order: Order, options: &GuardOptions, now: u64) {
        let held = self.duty.holds();
        match order {
            Order::Address(place) => self.address = Some(place),
            Order::Watchdog(settings) => {
                if self.watchdog.as_ref().is_none_or(|watchdog| !watchdog.has(&settings)) {
                    // The one before is closed first: the device can be open once.
                    self.watchdog = None;
                    self.watchdog = Some(Watchdog::new(settings, now));
                }
            }
            Order::Arm(at) => self.duty.arm(at, now),
            Order::Disarm => self.duty.disarm(),
            Order::Report => {}
            Order::Quit => {
                self.duty.disarm();
                self.released = true;
            }
        }
        if held && !self.duty.holds() {
            deeds::release(options);
        }
        // The confirmed deadline has its watchdog with it.
        self.keep_watchdog(now);
    }

    /// Once there is a deadline to come for the first time: an earlier guard may have been killed while it held PostgreSQL.
    /// That takes a look at all processes, so the answer goes first.
    pub fn release_what_was_left(&mut self, options: &GuardOptions, now: u64) {
        if !self.has_led && self.duty.deadline().is_some_and(|deadline| deadline > now) && !self.duty.holds() {
            self.has_led = true;
            deeds::release(options);
        }
    }
}
