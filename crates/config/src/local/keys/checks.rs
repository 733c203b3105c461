//! Texts that keys accept, each with the reason why not.

use crate::address::{Address, Listen, PoolerAddress};
use crate::schema::{absolute_path, one_line};

pub(in crate::local) fn scope_name(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if (1..=63).contains(&text.len()) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits)
    {
        Ok(())
    } else {
        Err("it must have 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-', and begin with a letter or a digit".to_owned())
    }
}

pub(super) fn namespace(text: &str) -> Result<(), String> {
    absolute_path(text)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if text.chars().all(fits) && !text.contains("//") {
        Ok(())
    } else {
        Err("it may have letters, digits, '_', '.', '-' and single '/'".to_owned())
    }
}

pub(super) fn member_name(text: &str) -> Result<(), String> {
    text.parse::<matriarch_core::MemberName>().map(drop).map_err(|error| error.to_string())
}

pub(super) fn role_name(text: &str) -> Result<(), String> {
    one_line(text)?;
    if text.len() > 63 {
        Err("PostgreSQL allows 63 bytes".to_owned())
    } else if text.starts_with("pg_") {
        Err("PostgreSQL keeps names that begin with 'pg_' for itself".to_owned())
    } else {
        Ok(())
    }
}

pub(super) fn stream_or_path(text: &str) -> Result<(), String> {
    if text == "stream" { Ok(()) } else { absolute_path(text) }
}

pub(super) fn socket_dir(text: &str) -> Result<(), String> {
    absolute_path(text)?;
    // The kernel keeps 108 bytes for a socket's path, the last of them zero.
    if text.len() + "/.s.PGSQL.65535".len() > 107 {
        return Err("it is too long: the path of a Unix socket has at most 107 bytes".to_owned());
    }
    if text.contains(',') { Err("it may not have a comma".to_owned()) } else { Ok(()) }
}

pub(super) fn listen_address(text: &str) -> Result<(), String> {
    text.parse::<Listen>().map(drop).map_err(|bad| bad.why().to_owned())
}

pub(super) fn bind_address(text: &str) -> Result<(), String> {
    let listen = text.parse::<Listen>().map_err(|bad| bad.why().to_owned())?;
    if listen.socket_addrs().is_empty() {
        return Err("the host must be an IP address, 'localhost' or '*'".to_owned());
    }
    Ok(())
}

pub(super) fn peer_address(text: &str) -> Result<(), String> {
    let address = text.parse::<Address>().map_err(|bad| bad.why().to_owned())?;
    if address.is_wildcard() { Err("others cannot connect to a wildcard".to_owned()) } else { Ok(()) }
}

pub(super) fn pooler_address(text: &str) -> Result<(), String> {
    text.parse::<PoolerAddress>().map(drop)
}

pub(super) fn domain(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    if text.len() <= 253 && text.trim_end_matches('.').split('.').all(label) {
        Ok(())
    } else {
        Err("it must be words of letters, digits, '_' and '-' with dots between them".to_owned())
    }
}
