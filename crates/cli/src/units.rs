//! Numbers for people.

use matriarch_api::Lag;

/// `0`, `900 B`, `16 MB`: PostgreSQL's units, which are powers of 1024.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (bytes, unit) {
        (0, _) => "0".to_owned(),
        (_, 0) => format!("{bytes} B"),
        _ if value < 10.0 && value.fract() > 0.05 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A lag, or nothing where there is none.
pub fn lag(lag: Option<Lag>) -> String {
    match lag {
        None => String::new(),
        Some(Lag::Bytes(bytes)) => self::bytes(bytes),
        Some(unknown) => unknown.to_string(),
    }
}

/// A position in bytes as PostgreSQL prints it.
pub fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_postgresql() {
        for (number, text) in [(0, "0"), (900, "900 B"), (1536, "1.5 kB"), (16 << 20, "16 MB"), (1 << 60, "1048576 TB")]
        {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(lag(Some(Lag::UNKNOWN)), "unknown");
        assert_eq!(lsn(0x1_0300_0148), "1/3000148");
    }
}
