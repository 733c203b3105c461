//! Durations and sizes: plain numbers, or numbers with PostgreSQL's units.

use std::time::Duration;

use serde_json::Value;

/// Seconds from `5`, `0.5`, `"500ms"`, `"5s"`, `"1min"`, `"2h"`, `"1d"` or `"2w"`; none when it is no such thing.
pub(crate) fn seconds(value: &Value) -> Option<f64> {
    let found = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            let (number, unit) = split(text)?;
            let factor = match unit {
                "ms" => 0.001,
                "" | "s" => 1.0,
                "min" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return None,
            };
            number * factor
        }
        _ => return None,
    };
    found.is_finite().then_some(found)
}

/// Bytes from `1048576`, `"1MB"`, `"512kB"` (units of 1024 as in PostgreSQL); none when it is no such thing.
pub(crate) fn bytes(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let (number, unit) = split(text)?;
            let factor: u64 = match unit {
                "" | "B" => 1,
                "kB" => 1 << 10,
                "MB" => 1 << 20,
                "GB" => 1 << 30,
                "TB" => 1 << 40,
                _ => return None,
            };
            let found = number * factor as f64;
            // 2^63 leaves every following calculation room, and no log is that long.
            (found >= 0.0 && found.fract() == 0.0 && found < 9.0e18).then_some(found as u64)
        }
        _ => None,
    }
}

/// A count of bytes as PostgreSQL would write it: `1MB`, `1500B`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TB"), (30, "GB"), (20, "MB"), (10, "kB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let number: f64 = text.get(..end)?.parse().ok()?;
    Some((number, text.get(end..)?.trim_start()))
}

/// serde for durations kept as seconds, whole where they are whole.
pub(crate) mod as_seconds {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        if duration.subsec_nanos() == 0 {
            serializer.serialize_u64(duration.as_secs())
        } else {
            serializer.serialize_f64(duration.as_secs_f64())
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// The same, or null.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer};

        pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            let seconds = Option::<f64>::deserialize(deserializer)?;
            seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_durations() {
        for (value, expected) in [
            (json!(5), Some(5.0)),
            (json!(0.5), Some(0.5)),
            (json!("500ms"), Some(0.5)),
            (json!("1 min"), Some(60.0)),
            (json!("2h"), Some(7200.0)),
            (json!("5"), Some(5.0)),
            (json!("2w"), Some(1_209_600.0)),
            (json!("five"), None),
            (json!("5 parsecs"), None),
            (json!(""), None),
            (json!("."), None),
            (json!(true), None),
        ] {
            assert_eq!(seconds(&value), expected, "{value}");
        }
    }

    #[test]
    fn reads_and_shows_sizes() {
        for (value, expected) in [
            (json!(1_048_576), Some(1 << 20)),
            (json!("1MB"), Some(1 << 20)),
            (json!("1.5kB"), Some(1536)),
            (json!("1mb"), None),
            (json!(-1), None),
            (json!("-1MB"), None),
            (json!("99999999TB"), None),
        ] {
            assert_eq!(bytes(&value), expected, "{value}");
        }
        for (count, text) in [(0, "0B"), (1 << 20, "1MB"), (1536, "1536B"), (3 << 30, "3GB")] {
            assert_eq!(show_bytes(count), text);
        }
    }
}
