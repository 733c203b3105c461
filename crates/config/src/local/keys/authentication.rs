//! Keys of `postgresql.authentication`.

use super::checks::role_name;
use crate::schema::{Effect, Key, Kind, absolute_path, key, refused};

pub(super) const AUTHENTICATION: &[Key] = &[
    key(
        "superuser",
        Kind::Section {
            keys: &role("\"postgres\"", "MATRIARCH_SUPERUSER_USERNAME", "MATRIARCH_SUPERUSER_PASSWORD"),
            rule: None,
        },
        "The superuser: the agent's own connections.",
    )
    .effect(Effect::Restart),
    key(
        "replication",
        Kind::Section {
            keys: &role("\"replicator\"", "MATRIARCH_REPLICATION_USERNAME", "MATRIARCH_REPLICATION_PASSWORD"),
            rule: None,
        },
        "The role that replicas stream with.",
    )
    .effect(Effect::Restart),
    key(
        "rewind",
        Kind::Section {
            keys: &role("\"rewind_user\"", "MATRIARCH_REWIND_USERNAME", "MATRIARCH_REWIND_PASSWORD"),
            rule: None,
        },
        "The role for pg_rewind; the superuser when left out.",
    )
    .default("null")
    .effect(Effect::Restart),
    key(
        "pooler",
        Kind::Section { keys: POOLER, rule: None },
        "The role by which a pooler learns the roles' passwords; the primary makes it, with the function it needs, also in a \
         cluster that is there already. The same on every host, with a pooler or without. Left out: it is not made.",
    )
    .default("null")
    .effect(Effect::Restart),
];

const POOLER: &[Key] = &[
    key("username", Kind::Text { what: "a role name", check: role_name }, "Name of the role.")
        .default("\"matriarch_pooler\"")
        .effect(Effect::Restart)
        .env("MATRIARCH_POOLER_USERNAME"),
    key("password", Kind::Secret, "Its password.").required().effect(Effect::Restart).env("MATRIARCH_POOLER_PASSWORD"),
];

const fn role(name: &'static str, name_variable: &'static str, password_variable: &'static str) -> [Key; 12] {
    [
        key("username", Kind::Text { what: "a role name", check: role_name }, "Name of the role.")
            .default(name)
            .effect(Effect::Restart)
            .env(name_variable),
        key("password", Kind::Secret, "Its password.").effect(Effect::Restart).env(password_variable),
        key(
            "sslmode",
            Kind::Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
            "TLS between members.",
        )
        .effect(Effect::Restart),
        key("sslcert", Kind::Text { what: "a path", check: absolute_path }, "Client certificate.")
            .effect(Effect::Restart),
        key("sslkey", Kind::Text { what: "a path", check: absolute_path }, "Key of the client certificate.")
            .effect(Effect::Restart),
        key("sslrootcert", Kind::Text { what: "a path", check: absolute_path }, "Certificates that are trusted.")
            .effect(Effect::Restart),
        key("sslcrl", Kind::Text { what: "a path", check: absolute_path }, "Revoked certificates.")
            .effect(Effect::Restart),
        key("channel_binding", Kind::Choice(&["disable", "prefer", "require"]), "SCRAM channel binding.")
            .effect(Effect::Restart),
        refused("sslcrldir", "directories of revoked certificates are not supported yet", "use `sslcrl`", &[]),
        refused("gssencmode", "GSSAPI between members is not supported", "remove it", &["\"disable\""]),
        refused("sslnegotiation", "direct TLS is not supported yet", "remove it", &["\"postgres\""]),
        refused("sslpassword", "keys with a password are not supported yet", "remove the password from the key", &[]),
    ]
}
