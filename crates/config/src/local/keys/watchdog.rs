//! Keys of `watchdog`.

use crate::schema::{Effect, Key, Kind, absolute_path, key};

pub(super) const WATCHDOG: &[Key] = &[
    key(
        "mode",
        Kind::Choice(&["off", "automatic", "required"]),
        "`automatic`: used when it works. `required`: this member does not lead without it. It counts only while this member \
         leads, and one member of a host can have it.",
    )
    .default("\"off\"")
    .effect(Effect::Restart),
    key("device", Kind::Text { what: "a path", check: device }, "The device.")
        .default("\"/dev/watchdog\"")
        .effect(Effect::Restart),
    key(
        "safety_margin",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long before the end of the lease a reset comes. The watchdog's own timeout is half of what `ttl` leaves beside \
         it, in whole seconds.",
    )
    .default("1")
    .effect(Effect::Restart),
];

fn device(text: &str) -> Result<(), String> {
    absolute_path(text)?;
    if text.contains(char::is_whitespace) { Err("it must have no blanks".to_owned()) } else { Ok(()) }
}
