//! The guard: a tiny process that ends PostgreSQL when the agent has not proved its lease in time.
//!
//! The agent tells it the lease deadline (boot clock, counted from when the renewal was *sent*). Past the deadline the
//! guard kills every process of the instance. It outlives a hung or dead agent; a new agent connects to it again.
//!
//! ```text
//! idle --arm--> armed --arm later--> armed --disarm--> idle
//!                 \--late------> held: everything stopped  --arm later--> armed (going on)  --a second--> fired
//!                 \--deadline--> fired: everything killed, and whatever starts  --arm with a deadline to come--> armed
//!                                                                              \--disarm--> idle
//! idle or fired --quit, or nobody there for 30 s--> ends
//! ```
//!
//! A guard that comes late to its deadline did not run when that passed: its host slept or was paused. Then it stops all
//! processes where they are for a moment in which the agent asks the store, and kills them unless it is armed again.
//!
//! A start that was held up beyond the deadline (a frozen host, a wedged volume) comes after it has fired. So the agent
//! disarms it, and hears that it is, before it starts anything that may run without a lease ([`GuardState::has_fired`]).

mod charge;
mod deeds;
mod duty;
mod link;
mod process;
mod watchdog;

use crate::virtual_ip::Place;

pub use link::{GuardLink, GuardState};
pub use process::{GuardOptions, run};
pub(crate) use watchdog::Settings as WatchdogSettings;

/// One line from the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take this address off its interface whenever PostgreSQL is killed.
    Address(Place),
    /// Keep this watchdog while there is a deadline.
    Watchdog(WatchdogSettings),
    /// Kill at this time (boot clock, ms) unless told otherwise before.
    Arm(u64),
    /// PostgreSQL does not accept writes: nothing to guard.
    Disarm,
    /// Say how things stand.
    Report,
    /// PostgreSQL and the agent have stopped: end as well.
    Quit,
}

impl Order {
    pub(crate) fn parse(line: &str) -> Option<Order> {
        let mut words = line.split_ascii_whitespace();
        let order = match (words.next()?, words.next()) {
            ("address", Some(address)) => Order::Address(Place::parse(address, words.next()?)?),
            ("watchdog", Some(_)) => Order::Watchdog(WatchdogSettings::parse(line.split_ascii_whitespace().skip(1))?),
            ("arm", Some(deadline)) => Order::Arm(deadline.parse().ok()?),
            ("disarm", None) => Order::Disarm,
            ("report", None) => Order::Report,
            ("quit", None) => Order::Quit,
            _ => return None,
        };
        let whole = matches!(order, Order::Watchdog(_)) || words.next().is_none();
        whole.then_some(order)
    }

    pub(crate) fn line(&self) -> String {
        match self {
            Order::Address(place) => format!("address {} {}\n", place.address, place.interface),
            Order::Watchdog(settings) => format!("watchdog {}\n", settings.words()),
            Order::Arm(deadline) => format!("arm {deadline}\n"),
            Order::Disarm => "disarm\n".to_owned(),
            Order::Report => "report\n".to_owned(),
            Order::Quit => "quit\n".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
