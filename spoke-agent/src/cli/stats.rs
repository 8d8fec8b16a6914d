//! `spoke-agent stats`: what the running agent says of itself, for people or as it is.

use super::ask::Ask;
use crate::config::ReadConfig;
use serde_json::Value;

/// What is printed.
///
/// # Errors
/// One line if the agent cannot be asked.
pub async fn stats(read: &ReadConfig, json: bool) -> Result<String, String> {
    let status = Ask::of(read)?.status().await?;
    Ok(match json {
        true => status.to_string(),
        false => for_people(&status),
    })
}

/// What is not there is nothing that such an agent has: one before a table has no file, a follower has no store.
fn for_people(status: &Value) -> String {
    let text = |name: &str| {
        status.get(name).map(|value| match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let seconds = |name: &str| status.get(name).map(Value::as_f64);
    let lines = [
        ("region", text("region")),
        ("follows", status.get("follows").map(list)),
        ("table", text("table")),
        ("store", text("store")),
        ("release", text("release")),
        ("ready", Some(ready(status))),
        ("contexts", text("contexts")),
        ("bundles", text("bundles")),
        ("file", status.get("file_bytes").map(size)),
        ("memory", status.get("memory").map(memory)),
        ("cache", status.get("cache").map(cache)),
        ("position", text("position")),
        (
            "age",
            seconds("age_seconds").map(|age| age.map_or("unknown".into(), duration)),
        ),
        (
            "last push",
            seconds("last_push_seconds").map(|then| {
                then.map_or("none since the start".into(), |then| {
                    format!("{} ago", duration(then))
                })
            }),
        ),
        ("granted epoch", text("granted_epoch")),
    ];
    let lines = lines.into_iter();
    let lines = lines.filter_map(|(name, text)| Some(format!("{name:<15}{}", text?)));
    lines.collect::<Vec<_>>().join("\n")
}

fn list(texts: &Value) -> String {
    let texts = texts.as_array().into_iter().flatten();
    let texts: Vec<&str> = texts.filter_map(Value::as_str).collect();
    texts.join(", ")
}

/// What an agent before a table keeps of it.
fn cache(cache: &Value) -> String {
    let contexts = cache["contexts"].as_u64().unwrap_or(0);
    format!("{contexts} contexts in {}", size(&cache["bytes"]))
}

fn ready(status: &Value) -> String {
    match status["ready"] == true {
        true => format!("yes, in step for {}", list(&status["synced_kinds"])),
        false => "no, it was never in step with the hub".into(),
    }
}

fn memory(memory: &Value) -> String {
    let contexts = &memory["contexts"];
    let held = format!("{contexts} contexts in {}", size(&memory["bytes"]));
    let reads = match memory["reads"].as_str() {
        Some("memory") => "reads come from memory",
        Some("memory_and_file") => "reads come from memory and, for the rest, from the file",
        _ => "reads come from the file",
    };
    let checked = if memory["checked"] == true {
        ""
    } else {
        "; the file is being checked"
    };
    format!("{held}; {reads}{checked}")
}

/// Bytes in the largest unit of which there is at least one.
fn size(bytes: &Value) -> String {
    let bytes = bytes.as_u64().unwrap_or(0);
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    match unit {
        Some((name, shift)) => format!("{:.1} {name}", bytes as f64 / f64::from(1 << shift)),
        None => format!("{bytes} bytes"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_agent_has_not_is_not_shown() {
        let status = json!({
            "region": "r", "table": "dynamodb://r/hubcast", "cache": { "contexts": 7, "bytes": 1_536 },
            "ready": true, "synced_kinds": ["k"], "contexts": 9, "age_seconds": 1.0,
        });
        let text = for_people(&status);
        assert!(text.contains("7 contexts in 1.5 KiB") && text.contains("dynamodb://r/hubcast"));
        assert!(!text.contains("file") && !text.contains("push"), "{text}");
        let status = json!({ "region": "r", "follows": ["http://a", "http://b"], "ready": false });
        let text = for_people(&status);
        assert!(text.contains("http://a, http://b") && !text.contains("store"));
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        let sizes = [0_u64, 1_023, 1_536, 5 << 20, 3 << 30].map(|bytes| size(&json!(bytes)));
        assert_eq!(
            sizes,
            ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
        );
        let times = [0.04, 90.0, 7_200.0, 864_000.0].map(duration);
        assert_eq!(times, ["0.0 s", "1.5 min", "2.0 h", "10.0 days"]);
    }
}
