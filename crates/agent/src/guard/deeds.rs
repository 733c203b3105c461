//! What a guard does to PostgreSQL and to its address.

use std::process::Child;
use std::time::Duration;

use super::GuardOptions;
use crate::virtual_ip::Place;

/// What cannot be held is ended a moment later, as it would have been. The address goes at once, for another host may have it by
/// now; an agent that still leads takes it again.
pub(super) fn hold(options: &GuardOptions, address: Option<&Place>) {
    let removal = Removal::begin(address);
    let outcome = matriarch_postgres::process::hold_tree(&options.data_dir);
    let text = outcome.map_or_else(|error| format!("could not be held: {error}"), |()| "is held meanwhile".to_owned());
    let dir = options.data_dir.display();
    eprintln!("guard: this host stood still while the lease ended; PostgreSQL in {dir} {text}");
    removal.end();
}

/// The agent has the lead again, or wants PostgreSQL to go on for another reason.
pub(super) fn release(options: &GuardOptions) {
    if let Err(error) = matriarch_postgres::process::release_tree(&options.data_dir) {
        eprintln!("guard: PostgreSQL in {} is still held: {error}", options.data_dir.display());
    }
}

/// False when PostgreSQL could not be ended.
pub(super) fn fire(options: &GuardOptions, address: Option<&Place>, limit: Duration, why: &str) -> bool {
    // Begun first, since ending a process that hangs in the kernel can take long.
    let removal = Removal::begin(address);
    let outcome = matriarch_postgres::process::kill_tree(&options.data_dir, limit);
    let ended = outcome.is_ok();
    let text = match outcome {
        Ok(killed) => format!("{killed} processes killed"),
        Err(error) => format!("failed: {error}"),
    };
    // The guard has no logger of its own; its standard error is the agent's log.
    eprintln!("guard: {why}: PostgreSQL in {} was ended, {text}", options.data_dir.display());
    removal.end();
    ended
}

/// The address of this member's primary, on its way off the interface.
struct Removal<'a>(Option<(&'a Place, anyhow::Result<Child>)>);

impl<'a> Removal<'a> {
    fn begin(address: Option<&'a Place>) -> Removal<'a> {
        Removal(address.filter(|place| place.is_here()).map(|place| (place, place.begin_removal())))
    }

    fn end(self) {
        let Some((place, removal)) = self.0 else { return };
        match removal.and_then(|mut child| Ok(child.wait()?)) {
            Ok(_) if !place.is_here() => eprintln!("guard: {} was taken off {}", place.address, place.interface),
            Ok(status) => eprintln!("guard: {} is still on {}: {status}", place.address, place.interface),
            Err(error) => eprintln!("guard: {} is still on {}: {error:#}", place.address, place.interface),
        }
    }
}
