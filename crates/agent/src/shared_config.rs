//! The cluster's configuration as the store has it, where people and other tools may have written anything.

use matriarch_config::{DynamicConfig, Problems};
use serde_json::Value;

/// Where PostgreSQL's own settings are; their names may have dots.
const PARAMETERS: [&str; 2] = ["postgresql", "parameters"];

/// Reads it as a whole, or says what is wrong with it.
pub fn read(text: &str) -> Result<DynamicConfig, String> {
    let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    DynamicConfig::from_json(&value).map_err(|problems| problems.to_string())
}

/// What is left of one that is refused: for an agent that has just started, and so knows no earlier one.
pub fn without_what_is_refused(text: &str) -> DynamicConfig {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return DynamicConfig::default() };
    loop {
        match DynamicConfig::from_json(&value) {
            Ok(config) => return config,
            Err(problems) if leave_out(&mut value, &problems) => {}
            Err(_) => return DynamicConfig::default(),
        }
    }
}

/// Takes out what the problems name: a setting of PostgreSQL alone, else the whole key at the top. False when nothing was found.
fn leave_out(value: &mut Value, problems: &Problems) -> bool {
    let mut found = false;
    for problem in &problems.0 {
        let [section, parameters] = PARAMETERS;
        let setting = problem.path.strip_prefix(&format!("{section}.{parameters}."));
        let settings = setting.and_then(|_| value.get_mut(section)?.get_mut(parameters)?.as_object_mut());
        if let (Some(name), Some(settings)) = (setting, settings) {
            found |= settings.remove(name).is_some();
            continue;
        }
        let top = problem.path.split(['.', '[']).next().unwrap_or_default();
        found |= value.as_object_mut().is_some_and(|all| all.remove(top).is_some());
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_wrong_key_does_not_take_the_others_along() {
        let text = json!({
            "synchronous_mod": "on", "synchronous_node_count": 2, "ttl": "soon",
            "postgresql": {"parameters": {"work_mem": "8MB", "port": 1}},
        })
        .to_string();
        assert!(read(&text).unwrap_err().contains("synchronous_mod"));
        let left = without_what_is_refused(&text);
        assert_eq!(left.synchronous_node_count, 2);
        assert_eq!(left.ttl, DynamicConfig::default().ttl);
        assert!(left.postgresql.parameters.contains_key("work_mem"), "{left:?}");
    }

    #[test]
    fn what_is_no_configuration_is_none() {
        for text in ["", "{", "null", "[]", "7", r#""text""#] {
            assert_eq!(without_what_is_refused(text), DynamicConfig::default(), "{text}");
        }
    }
}
