//! The two capabilities that an address needs, and who gets them: `ip` and the guard, never PostgreSQL.

use anyhow::{Context, bail};
use matriarch_config::VirtualIp;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set, configure_capability_in_ambient_set,
    set_capabilities,
};

const NEEDED: [(CapabilitySet, &str, &str); 2] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to add the address to an interface"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "to tell the neighbours of it"),
];

/// Whether this process may do what it must.
pub fn check(settings: &VirtualIp) -> anyhow::Result<()> {
    let ours = capabilities(None).context("our own capabilities cannot be read")?.effective;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, ..)| !ours.contains(*capability))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "virtual_ip ({} on {}) needs {}, and this process does not have it; in the agent's unit write \
             `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW`, or run the agent as root, or remove the section",
            settings.address,
            settings.interface,
            missing.join(" and ")
        );
    }
    Ok(())
}

/// From now on children of this thread do not inherit them (PostgreSQL, above all), but those started by
/// [`handing_down`].
pub fn keep_from_children() {
    for (capability, ..) in NEEDED {
        if capability_is_in_ambient_set(capability).unwrap_or(false) {
            let _ = configure_capability_in_ambient_set(capability, false);
        }
    }
}

/// Starts something that does inherit them, or becomes it. Whoever has none, or is root and hands everything down anyway, hands down what
/// there is.
pub fn handing_down<T>(start: impl FnOnce() -> T) -> T {
    let wanted = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    if let Ok(sets) = capabilities(None)
        && sets.permitted.contains(wanted)
        && !sets.inheritable.contains(wanted)
    {
        let _ = set_capabilities(None, CapabilitySets { inheritable: sets.inheritable | wanted, ..sets });
    }
    for (capability, ..) in NEEDED {
        let _ = configure_capability_in_ambient_set(capability, true);
    }
    let started = start();
    keep_from_children();
    started
}
