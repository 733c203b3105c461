//! Times and sizes as people and Patroni's tools write them.

use std::time::Duration;

use serde_json::Value;

use crate::backend::CommandError;

/// A moment in the future with a time zone. `action` is for the message (`restart`, `switchover`).
pub fn parse_schedule(text: &str, action: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, CommandError> {
    let text = text.trim();
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => {
            return Err(CommandError::Invalid(format!(
                "Timezone information is mandatory for the scheduled {action}; write it as in {text}+00:00"
            )));
        }
        Err(_) => {
            return Err(CommandError::Unacceptable(format!(
                "Unable to parse scheduled timestamp '{text}'. It should be in an unambiguous format, e.g. ISO 8601: \
                 2026-11-21T20:00:00+01:00"
            )));
        }
    };
    if at < now {
        return Err(CommandError::Unacceptable(format!("Cannot schedule {action} in the past: {at} is before {now}")));
    }
    Ok(at)
}

/// Bytes: `1048576`, `1MB`, `16kB`, as in PostgreSQL's configuration; none when it is not a size.
///
/// Unlike PostgreSQL the case of the unit does not matter: `1mb` in a load balancer's check would otherwise be ignored.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        "t" | "tb" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A positive span: a number of seconds, or text such as `30s`, `2min`, `500ms`; none when it is not.
pub fn parse_span(value: &Value) -> Option<Duration> {
    let span = match value {
        Value::Number(number) => Duration::from_secs(number.as_u64()?),
        Value::String(text) => {
            let (number, unit) = split(text)?;
            match unit {
                "ms" => Duration::from_millis(number),
                "" | "s" => Duration::from_secs(number),
                "min" => Duration::from_secs(number.checked_mul(60)?),
                "h" => Duration::from_secs(number.checked_mul(3600)?),
                "d" => Duration::from_secs(number.checked_mul(86_400)?),
                _ => return None,
            }
        }
        _ => return None,
    };
    (!span.is_zero()).then_some(span)
}

/// `15.2` as PostgreSQL counts it: 150002.
pub fn parse_version(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    (10..100).contains(&major).then_some(())?;
    (minor < 10_000).then(|| major * 10_000 + minor)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        assert_eq!(parse_bytes("1048576"), Some(1 << 20));
        assert_eq!(parse_bytes("10MB"), Some(10 << 20));
        assert_eq!(parse_bytes(" 16 kB "), Some(16 << 10));
        assert_eq!(parse_bytes("10mb"), Some(10 << 20));
        for bad in ["", "MB", "-1", "1.5MB", "1XB", "99999999999999999999", "18446744073709551615TB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        assert_eq!(parse_span(&Value::from(30)), Some(Duration::from_secs(30)));
        assert_eq!(parse_span(&Value::from("2min")), Some(Duration::from_secs(120)));
        for bad in [Value::from(0), Value::from(-1), Value::from("x"), Value::Null] {
            assert_eq!(parse_span(&bad), None, "{bad}");
        }
        assert_eq!(parse_version("15.2"), Some(150_002));
        assert_eq!(parse_version("18"), Some(180_000));
        assert_eq!(parse_version("9.6"), None);
        assert_eq!(parse_version("new"), None);
    }

    #[test]
    fn schedules() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let parse = |text| parse_schedule(text, "restart", now);
        assert!(parse("2026-11-21T11:00:01+01:00").is_ok());
        assert!(parse("2026-11-21 10:00:01+00").is_ok());
        assert!(matches!(parse("2026-11-21T11:00:00"), Err(CommandError::Invalid(text)) if text.contains("Timezone")));
        assert!(
            matches!(parse("2026-11-21T10:59:00+01:00"), Err(CommandError::Unacceptable(text)) if text.contains("past"))
        );
        assert!(matches!(parse("tomorrow"), Err(CommandError::Unacceptable(text)) if text.contains("ISO 8601")));
    }
}
