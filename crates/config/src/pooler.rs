//! Which of PgBouncer's settings a user may give.

/// Settings that are ours, and what to do instead of giving them.
const OWNED: &[(&str, &str)] = &[
    ("listen_addr", "give the address that the pooler listens on"),
    ("listen_port", "give the address that the pooler listens on"),
    ("unix_socket_dir", "its socket is in the pooler's directory"),
    ("unix_socket_mode", "its socket is for Matriarch and local users of the pooler's directory"),
    ("auth_file", "give a file of your own as the pooler's auth file"),
    ("auth_user", "Matriarch keeps the passwords up to date itself"),
    ("auth_query", "Matriarch keeps the passwords up to date itself"),
    ("admin_users", "use stats_users for people who look; Matriarch's own user pauses and resumes"),
    ("logfile", "its log is pgbouncer.log in the pooler's directory"),
    ("pidfile", "it is in the pooler's directory"),
    ("user", "choose the system's user with the pooler's `user`"),
    ("conffile", "it is in the pooler's directory"),
    ("so_reuseport", "run a second pooler with a port of its own"),
    ("peer_id", "run a second pooler with a port of its own"),
];

/// Checks a setting that a user gives.
///
/// # Errors
/// In words, with what to do instead.
pub fn check_pooler_setting(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| name.eq_ignore_ascii_case(owned)) {
        return Err(format!("PgBouncer's {name} belongs to Matriarch; {instead}"));
    }
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.is_empty() || !name.bytes().all(word) {
        return Err(format!("'{name}' is no name of a PgBouncer setting; write it as in `default_pool_size`"));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(format!("the value of {name} must be one line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_pooler_setting as check_setting;

    #[test]
    fn owned_settings_are_refused_by_name() {
        let error = check_setting("auth_file", "/x").expect_err("it is ours");
        assert!(error.contains("auth_file belongs to Matriarch; give a file"), "{error}");
        assert!(check_setting("Pool Mode", "x").is_err() && check_setting("pool_mode", "a\nb").is_err());
        check_setting("client_tls_sslmode", "require").expect("it is the user's");
    }
}
