//! Keys of `virtual_ip`.

use crate::local::virtual_ip::{InterfaceAddress, interface_name};
use crate::schema::{Effect, Key, Kind, key, one_line};

pub(super) const VIRTUAL_IP: &[Key] = &[
    key(
        "address",
        Kind::Text { what: "an address with its prefix", check: |text| text.parse::<InterfaceAddress>().map(drop) },
        "The address, with the length of its network's prefix, as in `10.0.0.5/24`. The same for all members; no host's own.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_VIRTUAL_IP_ADDRESS"),
    key(
        "interface",
        Kind::Text { what: "an interface", check: interface_name },
        "The interface of this host that it is added to.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_VIRTUAL_IP_INTERFACE"),
    key(
        "label",
        Kind::Text { what: "a label", check: one_line },
        "Label of the address (IPv4 only); it begins with the interface's name and a colon, as in `eth0:pg`.",
    )
    .effect(Effect::Restart),
];
