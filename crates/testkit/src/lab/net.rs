//! Who can hear whom: packet filters in the namespaces of the hosts, written anew as a whole at every change.

use std::collections::BTreeSet;

/// What a sender notices of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// Nothing: packets vanish, as with a switch that has lost its power.
    Dropped,
    /// At once: "no route to host", as from a router that knows that the host is gone.
    Unreachable,
}

/// What one host does not receive, and what it is told that it cannot send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Packets from this address vanish on arrival.
    From(String),
    /// Packets to this address vanish on their way.
    To(String),
    /// Packets to this address are refused when sent.
    Refused(String),
    /// Packets from anywhere vanish on arrival.
    FromAll,
    /// Packets to anywhere vanish on their way.
    ToAll,
    /// Packets to anywhere are refused when sent.
    AllRefused,
}

/// The ruleset of one host, for `nft -f -`. Established connections are cut too; the host's own loopback never is.
pub fn ruleset(cuts: &BTreeSet<Cut>) -> String {
    let mut input = String::new();
    let mut output = String::new();
    let mut leaving = String::new();
    for cut in cuts {
        match cut {
            Cut::From(address) => input += &format!("    ip saddr {address} drop\n"),
            Cut::To(address) => leaving += &format!("    ip daddr {address} drop\n"),
            Cut::Refused(address) => output += &format!("    ip daddr {address} {REFUSE}\n"),
            Cut::FromAll => input += "    iifname != \"lo\" drop\n",
            Cut::ToAll => leaving += "    drop\n",
            Cut::AllRefused => output += &format!("    oifname != \"lo\" {REFUSE}\n"),
        }
    }
    // Adding a table before deleting it makes the deletion valid the first time too; all of it is one transaction. What
    // leaves is dropped at the device, since a drop at the output hook would tell the sender.
    format!(
        "table inet cuts {{ }}\ndelete table inet cuts\ntable netdev cuts {{ }}\ndelete table netdev cuts\n\
         table inet cuts {{\n  chain input {{\n    type filter hook input priority 0;\n{input}  }}\n  \
         chain output {{\n    type filter hook output priority 0;\n{output}  }}\n}}\n\
         table netdev cuts {{\n  chain leaving {{\n    type filter hook egress device {DEVICE} priority 0;\n{leaving}  }}\n}}\n"
    )
}

/// The one interface of a host.
pub const DEVICE: &str = "host0";

const REFUSE: &str = "reject with icmpx host-unreachable";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruleset_names_each_cut_once_and_replaces_the_one_before() {
        let cuts = BTreeSet::from([Cut::From("10.0.0.2".into()), Cut::Refused("10.0.0.3".into())]);
        let text = ruleset(&cuts);
        assert!(text.contains("delete table inet cuts\n") && text.contains("delete table netdev cuts\n"), "{text}");
        assert_eq!(text.matches("ip saddr 10.0.0.2 drop").count(), 1);
        assert_eq!(text.matches("ip daddr 10.0.0.3 reject").count(), 1);
        assert!(!ruleset(&BTreeSet::new()).contains("drop"));
    }
}
