//! `termitary events`: the event map, from the program itself.

use std::fmt::Write as _;
use std::time::Duration;

use termitary::registry::MapEntry;
use termitary::subscription::Policy;

use super::args::JsonArgs;
use super::output;
use crate::wiring;

pub(super) fn run(args: &JsonArgs) -> anyhow::Result<()> {
    let map = wiring::registry().map();
    if args.json {
        return output::json(&map);
    }
    output::line(
        map.iter()
            .map(paragraph)
            .collect::<Vec<_>>()
            .join("\n")
            .trim_end(),
    )
}

fn paragraph(entry: &MapEntry) -> String {
    let mut text = format!("{} {{ {} }}\n", entry.event, fields(entry));
    for schedule in &entry.schedules {
        let _ = writeln!(
            text,
            "  ⏱ {}  {} ({})",
            schedule.name, schedule.cron, schedule.timezone
        );
    }
    for subscription in &entry.subscriptions {
        let _ = writeln!(
            text,
            "  → {}  {}",
            subscription.name,
            policy(&subscription.policy)
        );
    }
    text
}

/// The fields of the payload, with `?` if optional.
fn fields(entry: &MapEntry) -> String {
    let schema = entry.schema.as_value();
    let required = schema["required"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let Some(properties) = schema["properties"].as_object() else {
        return String::new();
    };
    let names = properties.keys().map(|name| {
        let optional = !required.iter().any(|field| field == name);
        if optional {
            format!("{name}?")
        } else {
            name.clone()
        }
    });
    let mut names: Vec<String> = names.collect();
    names.sort_by_key(|name| name.ends_with('?'));
    names.join(", ")
}

fn policy(policy: &Policy) -> String {
    format!(
        "{} attempts, {} each, {} at once",
        policy.retry.max_attempts(),
        time(policy.timeout),
        policy.concurrency
    )
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}
